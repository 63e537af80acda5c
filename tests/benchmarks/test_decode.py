"""The benchmarks of decoding run, and both sides of them do the same."""

from __future__ import annotations

import pytest
import torch

from benchmarks import decode, decode_gpu
from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.generation.sampling import SamplingParams

TINY = decode.SIZES["tiny"]


def test_peer_has_the_same_tensors_and_tokens() -> None:
    model = decode.build_ours(TINY)
    peer = decode.build_peer(TINY, model)
    prompts = decode.session_prompts(TINY)[:3]
    generator = Generator(model)
    inputs = decode.padded_inputs(generator, prompts)
    expected = generator.generate(prompts, SamplingParams(max_new_tokens=6, stop_ids=()))
    with torch.inference_mode():
        found = peer.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert found.tolist() == [one.ids for one in expected]


def test_rounded_weights_are_those_of_a_checkpoint_in_16_bits() -> None:
    model = decode.rounded_to_half(decode.build_ours(TINY))
    weight = model.model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight.half().float(), weight)
    assert decode.decoder_bytes(TINY, 4) == 4 * (
        sum(p.numel() for n, p in model.model.layers.named_parameters() if "proj.weight" in n)
        + model.lm_head.weight.numel()
    )


def test_all_parts_print_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "tiny", "--rounds", "2", "--tokens", "2", "--no-generate-batch"]
    decode.main(["step", "sessions", *options])
    printed = capsys.readouterr().out
    assert "Hugging Face float32 / this" in printed
    assert "% of the limit" in printed
    assert "8 ragged sessions" in printed


def test_the_gpu_script_runs_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    decode_gpu.main(
        "--size tiny --rounds 2 --tokens 2 --sessions 3 --context 20 --no-peer-compile".split()
    )
    printed = capsys.readouterr().out
    assert "no result" in printed
    assert "one stream:" in printed
    assert "Hugging Face, static cache:" in printed


def test_static_steps_of_the_gpu_script_continue_the_cache() -> None:
    model = decode.build_ours(TINY)
    decoder = decode_gpu.FusedDecoder(model.model, model.lm_head.weight)
    steps, cache = decode_gpu.filled_steps(model, decoder, 2, 5, 4, None)
    first = decode_gpu.run_steps(steps, cache, 5, 3).clone()
    assert cache.lengths == [8, 8]
    steps.tokens.fill_(7)
    assert torch.equal(decode_gpu.run_steps(steps, cache, 5, 3), first)
    assert decode_gpu.cache_bytes(cache, 5) == 2 * 2 * 5 * 2 * 2 * 8 * 4


def test_ids_of_a_prompt_fit_its_latents() -> None:
    generator = Generator(decode.build_ours(TINY))
    for prompt in decode.session_prompts(TINY):
        assert isinstance(prompt, GenerationPrompt)
        assert generator.embed([prompt]).shape[1] == len(prompt.ids)
