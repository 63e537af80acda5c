"""Generation over slots: cached equals uncached, batches equal single runs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stepaudio.errors import CapacityError
from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.fused import FusedDecoder
from stepaudio.models.step_audio import StepAudio2ForCausalLM

TOLERANCE = 1e-4
START, PATCH = 200, 202
Build = Callable[..., StepAudio2ForCausalLM]
FREE_RUNNING = SamplingParams(max_new_tokens=12, stop_ids=())


@pytest.fixture(params=[True, False], ids=["fused", "modules"])
def fuse(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def model(tiny_model: Build) -> StepAudio2ForCausalLM:
    return tiny_model()


def make_prompts(generator: Generator, lengths: list[int]) -> list[GenerationPrompt]:
    """Ragged prompts; every second one hears a clip."""
    prompts = []
    for index, length in enumerate(lengths):
        ids = torch.randint(3, 190, (length,)).tolist()
        audio: list[Tensor] = []
        if index % 2:
            audio = generator.encode([torch.randn(80, 40 + 16 * index)])
            ids = [*ids, START, *[PATCH] * len(audio[0]), 5]
        prompts.append(GenerationPrompt(ids, audio, audio_s=float(len(audio))))
    return prompts


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("lens", [[5, 9, 14], [5, 50, 6]])  # one prefill pass; two
@torch.inference_mode()
def test_cached_logits_equal_uncached_ones_in_ragged_batches(
    tiny_model: Build, fuse: bool, windowed: bool, lens: list[int]
) -> None:
    window = {"use_sliding_window": True, "sliding_window": 6} if windowed else {}
    model = tiny_model(**window)
    generator = Generator(model, fuse=fuse)
    prompts = make_prompts(generator, lens)
    cache = generator.new_cache(3, 80)
    logits = generator.prefill(prompts, range(3), cache)
    rows = [list(p.ids) for p in prompts]
    for _ in range(8):
        for row, prompt, ours in zip(rows, prompts, logits, strict=True):
            embeds = model.embed(torch.tensor([row[: len(prompt.ids)]]), _latents(prompt))
            more = model.model.embed_tokens(torch.tensor([row[len(prompt.ids) :]]).long())
            full = model(inputs_embeds=torch.cat([embeds, more], 1), logits_to_keep=1).logits
            assert float((full[0, 0] - ours).abs().max()) < TOLERANCE
        tokens = logits.argmax(-1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.append(token)
        logits = generator.step(tokens, range(3), cache)


def test_no_prompt_is_read_if_one_does_not_fit(tiny_model: Build) -> None:
    generator = Generator(tiny_model())
    cache = generator.new_cache(2, 40)
    with pytest.raises(CapacityError):
        generator.prefill(make_prompts(generator, [50, 5]), [0, 1], cache)
    with pytest.raises(CapacityError):
        generator.prefill(make_prompts(generator, [5, 50]), [0, 1], cache)
    assert list(cache.lengths) == [0, 0]


def _latents(prompt: GenerationPrompt) -> object:
    from stepaudio.models.encoder import Latents

    if not prompt.audio:
        return None
    return Latents(prompt.audio[0][None], torch.tensor([len(prompt.audio[0])]))


def test_batches_equal_single_runs(model: StepAudio2ForCausalLM, fuse: bool) -> None:
    generator = Generator(model, fuse=fuse)
    prompts = make_prompts(generator, [5, 9, 14, 3, 8, 8, 20])
    params = [SamplingParams(max_new_tokens=4 + 3 * i, stop_ids=()) for i in range(len(prompts))]
    alone = [generator.generate([p], q)[0].ids for p, q in zip(prompts, params, strict=True)]
    assert [len(ids) for ids in alone] == [q.max_new_tokens for q in params]
    for num_slots in (2, 7):
        together = generator.generate(prompts, params, num_slots=num_slots)
        assert [completion.ids for completion in together] == alone


def test_seeded_sampling_does_not_depend_on_the_batch(model: StepAudio2ForCausalLM) -> None:
    generator = Generator(model)
    prompts = make_prompts(generator, [5, 9, 14])
    params = [
        SamplingParams(temperature=1.0, top_p=0.9, seed=i, max_new_tokens=10, stop_ids=())
        for i in range(3)
    ]
    alone = [generator.generate([p], q)[0].ids for p, q in zip(prompts, params, strict=True)]
    assert [c.ids for c in generator.generate(prompts, params, num_slots=2)] == alone
    assert len(set(map(tuple, alone))) == 3


def test_completions_end_at_stop_ids(model: StepAudio2ForCausalLM) -> None:
    generator = Generator(model)
    prompts = make_prompts(generator, [5, 9])
    free = generator.generate(prompts, FREE_RUNNING)
    assert all(c.finish_reason == "length" and len(c.ids) == 12 for c in free)
    stop = free[0].ids[4]
    first = free[0].ids.index(stop)
    ended = generator.generate(prompts, SamplingParams(max_new_tokens=12, stop_ids=(stop,)))[0]
    assert ended.finish_reason == "stop"
    assert ended.ids == free[0].ids[:first]
    assert len(ended.log_probs) == ended.stats.tokens == first + 1


def test_stream_gives_the_tokens_of_generate(model: StepAudio2ForCausalLM) -> None:
    generator = Generator(model)
    prompt = make_prompts(generator, [5, 9])[1]
    [completion] = generator.generate([prompt], FREE_RUNNING)
    events = list(generator.stream(prompt, FREE_RUNNING))
    assert [event.token_id for event in events] == completion.ids
    assert [event.log_prob for event in events] == pytest.approx(completion.log_probs)
    assert [event.finish_reason for event in events] == [None] * 11 + ["length"]


def test_statistics_add_up(model: StepAudio2ForCausalLM) -> None:
    generator = Generator(model)
    prompts = make_prompts(generator, [5, 9])
    first, second = generator.generate(prompts, FREE_RUNNING)
    assert (second.stats.audio_s, second.stats.prompt_tokens) == (1.0, len(prompts[1].ids))
    assert (first.stats.tokens, first.stats.passes) == (12, 11)
    assert first.stats.prefill_s > 0
    assert first.stats.decode_s == pytest.approx(second.stats.decode_s, rel=0.2)


def test_text_only_uses_the_text_rows(model: StepAudio2ForCausalLM, fuse: bool) -> None:
    generator = Generator(model, text_only=True, fuse=fuse)
    cache = generator.new_cache(1, 32)
    assert generator.prefill(make_prompts(generator, [5]), [0], cache).shape == (1, START)


def test_adapters_of_one_batch(tiny_model: Build, model: StepAudio2ForCausalLM) -> None:
    other = tiny_model(seed=1)
    with torch.no_grad():  # an adapter changes layers, not the embeddings
        other.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight)
    adapted = FusedDecoder(other.model, other.lm_head.weight)
    generator = Generator(model, adapters={4: adapted})
    plain = make_prompts(generator, [5, 9, 14])
    prompts = [GenerationPrompt(p.ids, p.audio, adapter=4 * (i == 1)) for i, p in enumerate(plain)]
    together = [c.ids for c in generator.generate(prompts, FREE_RUNNING)]
    expected = [c.ids for c in generator.generate(plain, FREE_RUNNING)]
    expected[1] = Generator(other).generate([plain[1]], FREE_RUNNING)[0].ids
    assert together == expected
    with pytest.raises(ValueError, match="no adapter 7"):
        generator.generate([GenerationPrompt([3], adapter=7)])


def test_long_prompts_are_refused_before_any_work(model: StepAudio2ForCausalLM) -> None:
    generator = Generator(model)
    clip = torch.zeros(300, 64)
    prompt = GenerationPrompt([3, START, *[PATCH] * 300, 5], [clip])
    with pytest.raises(CapacityError, match=r"303 tokens, 300 of them audio.* 20 s of audio fit"):
        generator.generate([prompt])
    with pytest.raises(CapacityError):
        generator.stream(prompt)


def test_the_context_bounds_the_completion(model: StepAudio2ForCausalLM) -> None:
    generator = Generator(model)
    prompt = GenerationPrompt([3] * 250)
    [completion] = generator.generate([prompt], SamplingParams(max_new_tokens=50, stop_ids=()))
    assert len(completion.ids) == 6
    assert completion.finish_reason == "length"


def test_no_prompts_give_no_completions(model: StepAudio2ForCausalLM) -> None:
    assert Generator(model).generate([]) == []


def test_generation_stops_where_it_is_told_to(model: StepAudio2ForCausalLM) -> None:
    generator = Generator(model)
    (prompt,) = make_prompts(generator, [6])
    (whole,) = generator.generate([prompt], FREE_RUNNING)
    marks = iter([False, False, True])
    part = generator.generate_until(prompt, FREE_RUNNING, lambda _: next(marks))
    assert part.ids == whole.ids[:3]
    assert part.finish_reason == "stop"
    assert part.stats.tokens == 3
    never = generator.generate_until(prompt, FREE_RUNNING, lambda _: False)
    assert never.ids == whole.ids
    assert never.finish_reason == "length"
