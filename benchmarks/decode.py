"""Speed of decoding on a CPU beside Hugging Face on the same tensors.

    python benchmarks/decode.py [step] [sessions] [window] [--size 28m|tiny] [--rounds 9] \
        [--tokens 64] [--threads 1] [--clock wall|cpu]

Decoders have random weights: time does not depend on them. All sides of a part run in turn in every
round, so that a busy machine slows all; ratios are medians over the rounds with 95 % intervals
(bootstrap). Clock "cpu" counts only the time in which this process computes.

"step" is a step of one stream behind a prompt of 150 tokens: the time of `--tokens` tokens less
that of one, in `Generator.generate` and in `generate()` of transformers' Qwen2, both greedy.
"float32" has weights that need 32 bits, "from float16" those of a checkpoint that was stored in 16,
which the decoder keeps in 16 bits with arithmetic in 32; "int8" has weights of a byte. The limit is
the time in which as many bytes as the weights have are read from one array of that size, measured
in the run.

"sessions" are eight prompts of 40 to 215 positions, most of which are audio latents: time for each
token, prefill included, of `Generator.generate` with eight slots; `generate()` with prompts padded
on the left; `generate_batch()`, which takes text ids only and gets as many of them.

"window" is a step with a sliding window of 256 tokens behind 30 s and behind 30 minutes of audio,
at 12.5 latents a second.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from benchmarks.multi_token import ratio
from stepaudio.generation.completion import GenerationPrompt
from stepaudio.generation.generator import Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models import int8
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PROMPT_TOKENS = 150
LATENTS_A_SECOND = 12.5
NUM_SESSIONS, SHORTEST, LONGER = 8, 40, 25
AUDIO_START, AUDIO_PATCH, AUDIO_END = 4, 5, 6
WINDOW = 256
CHUNK = 512  # tokens that are read at a time to fill a cache
NUM_TURNS = 20
PAGE_SIZE = 32  # tokens of a page of transformers' paged cache


@dataclass(frozen=True)
class Size:
    """Shapes of a decoder."""

    vocab: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int


SIZES = {"28m": Size(10_000, 512, 1408, 8, 8, 2), "tiny": Size(300, 32, 64, 2, 4, 2)}


def text_options(size: Size) -> dict[str, Any]:
    """What both configurations call the same."""
    return {
        "vocab_size": size.vocab,
        "hidden_size": size.width,
        "intermediate_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 32_768,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def build_ours(size: Size, **more: Any) -> StepAudio2ForCausalLM:
    """A model with random weights; its encoder is not used."""
    encoder = {
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": 32,
        "n_audio_head": 2,
        "n_audio_layer": 1,
        "llm_dim": size.width,
        "kernel_size": 3,
        "adapter_stride": 2,
    }
    config = StepAudioConfig(
        text_config={**text_options(size), "initializer_range": 0.1, **more},
        audio_encoder_config=encoder,
        audio_start_token_id=AUDIO_START,
        audio_patch_token_id=AUDIO_PATCH,
        tie_word_embeddings=True,
    )
    model = StepAudio2ForCausalLM(config).eval()
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def build_peer(size: Size, ours: StepAudio2ForCausalLM) -> Qwen2ForCausalLM:
    """Transformers' Qwen2 with the tensors of our decoder."""
    config = Qwen2Config(**text_options(size), tie_word_embeddings=True)
    peer = Qwen2ForCausalLM(config).eval()
    peer.model.load_state_dict(ours.model.state_dict(), assign=True)
    peer.tie_weights()
    return peer


@torch.no_grad()
def rounded_to_half(model: StepAudio2ForCausalLM) -> StepAudio2ForCausalLM:
    """The model as a checkpoint in float16 gives it; still float32."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half().float())
    return model


def seconds_of(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Time of one call."""
    start = clock()
    call()
    return clock() - start


def read_seconds(num_bytes: int, clock: Callable[[], float]) -> float:
    """Time in which an array of this size is read, the best of many."""
    array = torch.ones(num_bytes // 4)
    return min(seconds_of(lambda: array.dot(array), clock) for _ in range(NUM_TURNS))


def print_times(title: str, times: dict[str, list[float]], peer: str, unit: str) -> None:
    """Median time of every side, and how many times as long the peer takes."""
    print(title)
    for name, seconds in times.items():
        line = f"  {name:28} {1e3 * statistics.median(seconds):9.2f} ms{unit}"
        if name != peer:
            median, low, high = ratio(times[peer], seconds)
            line += f"   {peer} / this: {median:5.2f} x  [{low:.2f}, {high:.2f}]"
        print(line, flush=True)


# ---- one stream ------------------------------------------------------------------------------


def ours_greedy(generator: Generator, prompts: Sequence[GenerationPrompt], num_new: int) -> int:
    """Generate so many tokens for each prompt; returns how many there are in all."""
    params = SamplingParams(max_new_tokens=num_new, stop_ids=())
    done = generator.generate(prompts, params, num_slots=len(prompts))
    return sum(len(one.ids) for one in done)


def peer_greedy(peer: Qwen2ForCausalLM, inputs: dict[str, Tensor], num_new: int) -> int:
    """The same with `generate()`."""
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        out = peer.generate(**inputs, max_new_tokens=num_new, min_new_tokens=num_new, **options)
    return len(out) * num_new


def decoder_bytes(size: Size, bytes_each: float) -> int:
    """What a step reads of the weights: all layers and the head."""
    kv = size.width * size.kv_heads // size.heads
    layer = 2 * size.width * (size.width + kv) + 3 * size.width * size.hidden
    return int((size.layers * layer + size.vocab * size.width) * bytes_each)


def measure_step(args: argparse.Namespace) -> None:
    """Part "step"."""
    clock, size = CLOCKS[args.clock], SIZES[args.size]
    model, half = build_ours(size), rounded_to_half(build_ours(size))
    peer = build_peer(size, model)
    ids = torch.randint(7, size.vocab, (1, PROMPT_TOKENS))
    prompts = [GenerationPrompt(ids[0].tolist())]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    calls: dict[str, Callable[[int], int]] = {
        "Hugging Face float32": partial(peer_greedy, peer, inputs),
        "float32": partial(ours_greedy, Generator(model), prompts),
        "float32 from float16": partial(ours_greedy, Generator(half), prompts),
        "int8": partial(ours_greedy, Generator(model, precision="int8"), prompts),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(4)
    for _ in range(args.rounds):
        for name, call in calls.items():
            first = seconds_of(partial(call, 1), clock)
            whole = seconds_of(partial(call, args.tokens + 1), clock)
            times[name].append((whole - first) / args.tokens)
    title = f"step of one stream, {decoder_bytes(size, 1) / 1e6:.1f} M weights read"
    print_times(title, times, "Hugging Face float32", "/step")
    for name, each in (("float32", 4), ("float32 from float16", 2), ("int8", 1)):
        limit = read_seconds(decoder_bytes(size, each), clock)
        share = 100 * limit / statistics.median(times[name])
        speed = decoder_bytes(size, each) / limit / 1e9
        print(f"  {name:28} {1e3 * limit:9.2f} ms at {speed:.1f} GB/s: {share:.0f} % of the limit")


# ---- eight sessions --------------------------------------------------------------------------


def session_prompts(size: Size) -> list[GenerationPrompt]:
    """Ragged prompts, each with a clip of latents."""
    prompts = []
    for index in range(NUM_SESSIONS):
        num_latents = SHORTEST + LONGER * index - 12
        text = torch.randint(7, size.vocab, (10,)).tolist()
        ids = [*text[:5], AUDIO_START, *[AUDIO_PATCH] * num_latents, AUDIO_END, *text[5:]]
        prompts.append(GenerationPrompt(ids, [0.1 * torch.randn(num_latents, size.width)]))
    return prompts


def padded_inputs(generator: Generator, prompts: Sequence[GenerationPrompt]) -> dict[str, Tensor]:
    """The same prompts as embeddings that are padded on the left."""
    longest = max(len(prompt.ids) for prompt in prompts)
    embeds = torch.zeros(len(prompts), longest, generator.model.config.hidden_size)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        values = generator.embed([prompt])[0]
        embeds[row, -len(values) :] = values
        mask[row, -len(values) :] = 1
    return {"inputs_embeds": embeds, "attention_mask": mask}


def peer_batch(peer: Qwen2ForCausalLM, rows: Sequence[Sequence[int]], num_new: int) -> int:
    """Tokens that `generate_batch()` makes of text ids."""
    config = GenerationConfig(
        max_new_tokens=num_new, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    # Unless it is told how much, it takes most of the machine's memory.
    num_tokens = sum(len(row) + num_new for row in rows)
    num_blocks = num_tokens // PAGE_SIZE + 2 * len(rows)
    memory = ContinuousBatchingConfig(
        page_size=PAGE_SIZE, num_blocks=num_blocks, max_batch_tokens=num_tokens
    )
    found: Any = peer.generate_batch(
        inputs=[list(row) for row in rows],
        generation_config=config,
        continuous_batching_config=memory,
    )
    return sum(len(one.generated_tokens) for one in found.values())


def measure_sessions(args: argparse.Namespace) -> None:
    """Part "sessions"."""
    clock, size = CLOCKS[args.clock], SIZES[args.size]
    model = build_ours(size)
    peer = build_peer(size, model)
    generator = Generator(model)
    prompts = session_prompts(size)
    inputs = padded_inputs(generator, prompts)
    rows = [torch.randint(7, size.vocab, (len(p.ids),)).tolist() for p in prompts]
    calls: dict[str, Callable[[int], int]] = {
        "Hugging Face generate, padded": partial(peer_greedy, peer, inputs),
        "float32": partial(ours_greedy, generator, prompts),
        "int8": partial(ours_greedy, Generator(model, precision="int8"), prompts),
    }
    if not args.no_generate_batch:
        calls["Hugging Face generate_batch"] = partial(peer_batch, peer, rows)
    times: dict[str, list[float]] = {name: [] for name in calls}
    made = {name: call(args.tokens) for name, call in calls.items()}
    for _ in range(args.rounds):
        for name, call in calls.items():
            seconds = seconds_of(partial(call, args.tokens), clock)
            times[name].append(seconds / made[name])
    print_times(f"{NUM_SESSIONS} ragged sessions", times, "Hugging Face generate, padded", "/token")
    for name in ("float32", "int8"):
        if "Hugging Face generate_batch" in times:
            median, low, high = ratio(times["Hugging Face generate_batch"], times[name])
            print(f"  generate_batch / {name}: {median:.2f} x  [{low:.2f}, {high:.2f}]")


# ---- sliding window --------------------------------------------------------------------------


@torch.inference_mode()
def measure_window(args: argparse.Namespace) -> None:
    """Part "window"."""
    clock, size = CLOCKS[args.clock], SIZES[args.size]
    window = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0}
    generator = Generator(build_ours(size, **window))
    token = torch.tensor([7])
    caches = []
    for seconds in (30, 30 * 60):
        length = int(seconds * LATENTS_A_SECOND)
        cache = generator.new_cache(1, length + NUM_TURNS * args.rounds + 1)
        for start in range(0, length, CHUNK):
            part = torch.randn(1, min(CHUNK, length - start), size.width)
            generator.read(part, [part.shape[1]], [0], cache)
        caches.append(cache)
    times: dict[str, list[float]] = {"30 minutes": [], "30 s": []}
    for _ in range(args.rounds):
        each: list[list[float]] = [[], []]
        for _ in range(NUM_TURNS):
            for found, cache in zip(each, caches, strict=True):
                found.append(seconds_of(partial(generator.step, token, [0], cache), clock))
        times["30 s"].append(statistics.median(each[0]))
        times["30 minutes"].append(statistics.median(each[1]))
    median, low, high = ratio(times["30 minutes"], times["30 s"])
    print(f"step behind 30 minutes of audio / behind 30 s, window of {WINDOW} tokens")
    print(f"  {1e3 * statistics.median(times['30 s']):.2f} ms behind 30 s")
    print(f"  {median:.3f} x  [{low:.3f}, {high:.3f}]", flush=True)


PARTS = {"step": measure_step, "sessions": measure_sessions, "window": measure_window}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), help="default: all")
    parser.add_argument("--size", choices=tuple(SIZES), default="28m")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--no-generate-batch", action="store_true", help="it is very slow")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    int8.check_int8(torch.device("cpu"), torch.float32)
    print(
        f"{platform.machine()}, {args.threads} threads, {args.clock} time, {args.size}, "
        f"{args.rounds} rounds, {args.tokens} new tokens, load {os.getloadavg()[0]:.1f}"
    )
    for part in args.parts or PARTS:
        PARTS[part](args)


if __name__ == "__main__":
    main()
