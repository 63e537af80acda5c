"""Multi-token decoding: the tokens of one by one, statistics, sampling."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stepaudio.generation.completion import GenerationPrompt
from stepaudio.generation.generator import Generator
from stepaudio.generation.multi_token import MultiTokenGenerator, _MultiTokenRun
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM

START, PATCH = 200, 202
WINDOWED = {"use_sliding_window": True, "sliding_window": 6}
Build = Callable[..., StepAudio2ForCausalLM]


def multi_token(
    model: StepAudio2ForCausalLM, *, fuse: bool = True, num_blocks: int = 4, **options: object
) -> MultiTokenGenerator:
    """Blocks that are often right, because few tokens can be chosen at all."""
    torch.manual_seed(1)
    num_draft_ids = options.pop("num_draft_ids", None)
    config = PredictorConfig(
        num_blocks=num_blocks,
        shared=bool(options.pop("shared", False)),
        num_draft_ids=num_draft_ids,
    )
    ids = None if num_draft_ids is None else torch.arange(num_draft_ids) + 1
    predictor = MultiTokenPredictor.from_decoder(config, model.model, ids)
    return MultiTokenGenerator(Generator(model, text_only=True, fuse=fuse), predictor, **options)


def few_tokens(tiny_model: Build, **text: object) -> StepAudio2ForCausalLM:
    """A model that chooses among five tokens, so that drafts are right by chance."""
    model = tiny_model(**text)
    model.config.audio_start_token_id, model.config.audio_patch_token_id = 5, 7
    return model


def make_prompts(generator: Generator, lengths: list[int]) -> list[GenerationPrompt]:
    """Ragged prompts; every second one hears a clip."""
    config = generator.model.config
    prompts = []
    for index, length in enumerate(lengths):
        ids = torch.randint(10, 190, (length,)).tolist()
        audio: list[Tensor] = []
        if index % 2:
            audio = generator.encode(
                [torch.randn(80, 40 + 16 * index, dtype=generator.model.lm_head.weight.dtype)]
            )
            patches = [config.audio_patch_token_id] * len(audio[0])
            ids = [*ids, config.audio_start_token_id, *patches, 8]
        prompts.append(GenerationPrompt(ids, audio, audio_s=float(len(audio))))
    return prompts


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"num_draft_ids": 3}], ids=str)
@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("fuse", [True, False])
def test_greedy_ids_are_those_of_one_by_one_in_float64(
    tiny_model: Build, fuse: bool, windowed: bool, options: dict[str, object]
) -> None:
    model = few_tokens(tiny_model, **(WINDOWED if windowed else {})).double()
    multi = multi_token(model, fuse=fuse, **options)
    prompts = make_prompts(multi.generator, [5, 9, 14, 3, 20])
    params = [SamplingParams(max_new_tokens=6 + 6 * i, stop_ids=()) for i in range(len(prompts))]
    expected = [c.ids for c in multi.generator.generate(prompts, params)]
    for num_slots in (1, 3):
        completions = multi.generate(prompts, params, num_slots=num_slots)
        assert [completion.ids for completion in completions] == expected
    # Drafts of every length were kept, and others were taken back.
    accepted = [sum(c.stats.accepted[n : n + 1]) for c in completions for n in range(4)]
    assert 0 < sum(accepted) < 4 * sum(c.stats.passes for c in completions)
    assert sum(c.stats.accepted[2] for c in completions if len(c.stats.accepted) > 2) > 0


@pytest.mark.parametrize("num_drafts", [1, 3])
def test_fewer_drafts_than_blocks(tiny_model: Build, num_drafts: int) -> None:
    model = few_tokens(tiny_model).double()
    multi = multi_token(model, num_drafts=num_drafts)
    prompts = make_prompts(multi.generator, [5, 9])
    params = SamplingParams(max_new_tokens=40, stop_ids=())
    expected = [c.ids for c in multi.generator.generate(prompts, params)]
    completions = multi.generate(prompts, params)
    assert [c.ids for c in completions] == expected
    assert max(len(c.stats.accepted) for c in completions) == num_drafts
    with pytest.raises(ValueError, match="num_drafts must lie between 1 and 4, got 5"):
        multi_token(model, num_drafts=5)


@pytest.mark.parametrize("fuse", [True, False])
def test_passes_leave_in_the_caches_what_a_prefill_leaves(tiny_model: Build, fuse: bool) -> None:
    model = few_tokens(tiny_model).double()
    multi = multi_token(model, fuse=fuse)
    prompt = make_prompts(multi.generator, [5, 9])[1]
    params = SamplingParams(max_new_tokens=40, stop_ids=())
    run = _MultiTokenRun(multi, [prompt], [params], 1)
    for event, _ in zip(run.events(), range(30), strict=False):
        assert event.finish_reason is None
    held = run._cache.lengths[0]
    assert run._block_cache.lengths == [held]
    ids = [*prompt.ids, *run.completions[0].ids][:held]
    again = _MultiTokenRun(multi, [GenerationPrompt(ids, prompt.audio)], [params], 1)
    next(again.events())
    for layer in range(len(run._cache.buffers)):
        ours, theirs = (r._cache.buffers[layer][:, 0, :, :held] for r in (run, again))
        assert torch.allclose(ours, theirs, atol=1e-9)
    # Later blocks may have seen drafts of which nothing is left; the first one never does.
    ours, theirs = (r._block_cache.buffers[0][:, 0, :, :held] for r in (run, again))
    assert torch.allclose(ours, theirs, atol=1e-9)


def test_completions_end_at_stop_ids_inside_of_drafts(tiny_model: Build) -> None:
    model = few_tokens(tiny_model).double()
    multi = multi_token(model)
    prompts = make_prompts(multi.generator, [5, 9, 14, 3])
    for stop in range(5):
        params = SamplingParams(max_new_tokens=30, stop_ids=(stop,))
        expected = multi.generator.generate(prompts, params)
        completions = multi.generate(prompts, params, num_slots=2)
        assert [(c.ids, c.finish_reason) for c in completions] == [
            (c.ids, c.finish_reason) for c in expected
        ]
        for ours, single in zip(completions, expected, strict=True):
            assert ours.log_probs == pytest.approx(single.log_probs)
            assert ours.stats.tokens == single.stats.tokens


def test_the_context_bounds_the_completion(tiny_model: Build) -> None:
    model = few_tokens(tiny_model).double()
    multi = multi_token(model)
    prompt = make_prompts(multi.generator, [250])[0]
    params = SamplingParams(max_new_tokens=100, stop_ids=())
    (completion,) = multi.generate([prompt], params)
    assert completion.finish_reason == "length"
    assert completion.ids == multi.generator.generate([prompt], params)[0].ids
    assert len(completion.ids) == 6


def test_stream_gives_the_tokens_of_generate(tiny_model: Build) -> None:
    multi = multi_token(few_tokens(tiny_model).double())
    prompt = make_prompts(multi.generator, [5, 9])[1]
    params = SamplingParams(max_new_tokens=20, stop_ids=())
    (completion,) = multi.generate([prompt], params)
    events = list(multi.stream(prompt, params))
    assert [event.token_id for event in events] == completion.ids
    assert [event.finish_reason for event in events] == [None] * 19 + ["length"]
    assert multi.generate([]) == []


def test_statistics_add_up(tiny_model: Build) -> None:
    multi = multi_token(few_tokens(tiny_model))
    prompts = make_prompts(multi.generator, [5, 9])
    params = SamplingParams(max_new_tokens=50, stop_ids=())
    for completion in multi.generate(prompts, params):
        stats = completion.stats
        assert stats.tokens == 50
        # The prefill yields the first token, and every pass those that it has confirmed.
        assert 1 + sum(stats.prefix_acceptance) == pytest.approx(49 / stats.passes)
        assert stats.mean_accepted == pytest.approx(stats.tokens_per_pass)
        assert stats.accepted == sorted(stats.accepted, reverse=True)
        assert stats.prefill_s > 0 and stats.decode_s > 0


def test_sampled_tokens_have_the_distribution_of_one_by_one(tiny_model: Build) -> None:
    model = few_tokens(tiny_model, initializer_range=0.05)
    multi = multi_token(model, num_blocks=2)
    prompt = GenerationPrompt([20, 30, 40])
    length, num_samples = 3, 4000
    expected = torch.zeros(5**length, dtype=torch.double)
    rows = torch.cartesian_prod(*[torch.arange(5)] * length)
    with torch.inference_mode():
        ids = torch.cat([torch.tensor(prompt.ids).expand(len(rows), -1), rows], dim=1)
        logits = model(ids).logits[:, 2:-1, :5].double() / 0.7
    chosen = logits.log_softmax(-1).gather(-1, rows[..., None])[..., 0].sum(1)
    expected = chosen.exp()
    params = [
        SamplingParams(temperature=0.7, max_new_tokens=length, stop_ids=(), seed=seed)
        for seed in range(num_samples)
    ]
    completions = multi.generate([prompt] * num_samples, params, num_slots=500)
    assert sum(c.stats.accepted[0] for c in completions if c.stats.accepted) > num_samples / 10
    drawn = torch.tensor([c.ids for c in completions])
    counts = torch.bincount((drawn * torch.tensor([25, 5, 1])).sum(1), minlength=len(expected))
    statistic = float(((counts - expected * num_samples) ** 2 / (expected * num_samples)).sum())
    # Chi-square with 124 degrees of freedom has mean 124 and deviation 15.7.
    assert statistic < 124 + 4 * 15.7


def test_seeded_sampling_does_not_depend_on_the_batch(tiny_model: Build) -> None:
    multi = multi_token(few_tokens(tiny_model))
    prompts = make_prompts(multi.generator, [5, 9, 14])
    params = [
        SamplingParams(temperature=1.0, top_p=0.9, seed=3 + i, max_new_tokens=12, stop_ids=())
        for i in range(2)
    ]
    params.append(SamplingParams(max_new_tokens=12, stop_ids=()))
    alone = [multi.generate([p], q)[0].ids for p, q in zip(prompts, params, strict=True)]
    assert [c.ids for c in multi.generate(prompts, params, num_slots=2)] == alone
    assert alone[2] == multi.generator.generate([prompts[2]], params[2])[0].ids


def test_penalised_greedy_ids_are_those_of_one_by_one(tiny_model: Build) -> None:
    model = few_tokens(tiny_model).double()
    multi = multi_token(model, num_draft_ids=3)
    prompts = make_prompts(multi.generator, [5, 9, 14])
    params = SamplingParams(repetition_penalty=1.5, max_new_tokens=30, stop_ids=())
    expected = [c.ids for c in multi.generator.generate(prompts, params)]
    assert [c.ids for c in multi.generate(prompts, params, num_slots=2)] == expected


def test_what_is_not_supported_is_refused(tiny_model: Build) -> None:
    model = tiny_model()
    multi = multi_token(model)
    with pytest.raises(ValueError, match="without adapters"):
        multi.generate([GenerationPrompt([3], adapter=2)])
    with pytest.raises(ValueError, match="repetition windows"):
        multi.generate([GenerationPrompt([3])], SamplingParams(temperature=1, repetition_window=5))
    predictor = MultiTokenPredictor.from_decoder(PredictorConfig(), model.model)
    changing = Generator(model, processors=[lambda logits, slots: logits])
    with pytest.raises(ValueError, match="logits processors"):
        MultiTokenGenerator(changing, predictor)
    codes = MultiTokenPredictor.from_decoder(
        PredictorConfig(num_draft_ids=1), model.model, torch.tensor([250])
    )
    with pytest.raises(ValueError, match="does not compute"):
        MultiTokenGenerator(Generator(model, text_only=True), codes)
