"""Multi-token decoding beside decoding one by one and beside Hugging Face's `generate`.

    python benchmarks/multi_token.py MANIFEST --blocks PATH [--model nano] [--limit 32] \
        [--rounds 9] [--threads 1] [--clock wall|cpu]
    python benchmarks/multi_token.py --random small [--limit 8] [--rounds 9]

Every round decodes the same recordings in three ways, in turn: `MultiTokenGenerator`, `Generator`,
and `generate()` of the same model with its own cache. The audio is encoded once, before. Seconds
are those behind the prefill: the time for one token is subtracted, of `Generator` and of
`generate()`; what the blocks do with the prompt counts as theirs.
Ratios are medians over the rounds with 95 % intervals (bootstrap over rounds).

The bound beside the speed-up is what a pass costs at best: t tokens in the time of one verifying
pass and its drafts, both measured in the same run, in units of a step.

Mismatches are recordings whose greedy ids differ before the first near tie: a token whose two best
logits, one by one, are less than 1e-4 apart (in bfloat16: two units in the last place). Random
weights have no recordings and no trained blocks: there only the ids are of interest.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generation import SIZES, build_model, build_request
from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import load_audio
from stepaudio.audio.mel import log_mel
from stepaudio.conversation import ChatTemplate, Prompts, audio_parts
from stepaudio.generation.completion import Completion, GenerationPrompt
from stepaudio.generation.generator import Generator
from stepaudio.generation.multi_token import MultiTokenGenerator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.generation.stats import GenerationStats
from stepaudio.models.checkpoint import load_pretrained
from stepaudio.models.encoder import Latents
from stepaudio.models.mtp import MultiTokenPredictor, PredictorConfig
from stepaudio.models.mtp_file import load_predictor
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.tasks.instructions import task_prompt
from stepaudio.tasks.modes import checked_variant
from stepaudio.text.manifest import read_manifest
from stepaudio.text.tokenizer import TextTokenizer

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
NEAR_TIE = 1e-4
TOKENS_PER_S, EXTRA_TOKENS = 8, 8
NUM_TURNS = 15  # of single passes, to measure what they cost


@dataclass(frozen=True)
class Case:
    """What is decoded: a prompt with its latents, and how far."""

    prompt: GenerationPrompt
    params: SamplingParams


@dataclass(frozen=True)
class Round:
    """Seconds behind the prefill of all cases, and in all."""

    drafted: float
    single: float
    hugging_face: float
    drafted_total: float
    single_total: float
    hugging_face_total: float


def speech_cases(
    model: StepAudio2ForCausalLM,
    tokenizer: TextTokenizer,
    generator: Generator,
    manifest: Path,
    limit: int,
) -> list[Case]:
    """Recordings of a manifest, evenly spread over it, as recognition prompts."""
    rows = read_manifest(manifest)
    rows = rows[:: max(len(rows) // limit, 1)][:limit]
    template, encoder = ChatTemplate(tokenizer), model.config.audio_encoder_config
    instruction = Prompts.from_dict(model.config.prompts).asr
    variant = checked_variant(model.config, model.config.name_or_path)
    cases = []
    for row in rows:
        wav = load_audio(row.audio_filepath).samples
        mel = log_mel(wav, encoder.n_mels, floor=encoder.mel_floor)
        parts = audio_parts(len(wav), encoder.geometry, "audio")
        ids = task_prompt(template, variant, instruction, parts).ids
        seconds = len(wav) / SAMPLE_RATE
        budget = int(seconds * TOKENS_PER_S) + EXTRA_TOKENS
        prompt = GenerationPrompt(ids, generator.encode([mel]), seconds)
        cases.append(Case(prompt, SamplingParams(max_new_tokens=budget)))
    return cases


def random_cases(model: StepAudio2ForCausalLM, generator: Generator, limit: int) -> list[Case]:
    """Noise of several lengths; decoding never ends by itself."""
    cases = []
    for index in range(limit):
        request = build_request(model, 1.0 + 2 * index)
        prompt = GenerationPrompt(request.ids[0].tolist(), generator.encode(request.mels))
        cases.append(Case(prompt, SamplingParams(max_new_tokens=64, stop_ids=())))
    return cases


@torch.inference_mode()
def hugging_face(model: StepAudio2ForCausalLM, case: Case, max_new_tokens: int) -> list[int]:
    """Ids that `generate()` writes, without the end token."""
    audio = None
    if case.prompt.audio:
        (clip,) = case.prompt.audio
        audio = Latents(clip[None], torch.tensor([len(clip)], device=clip.device))
    ids = torch.tensor([list(case.prompt.ids)], device=model.lm_head.weight.device)
    stops = case.params.stop_ids
    options = {} if stops is None else {"eos_token_id": None}
    out: Any = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        audio_embeds=audio,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        **options,
    )
    new: list[int] = out[0, ids.shape[1] :].tolist()
    ends = model.config.text_config.stop_ids if stops is None else stops
    return new[:-1] if new and new[-1] in ends else new


def completions_of(
    generator: Generator | MultiTokenGenerator, cases: Sequence[Case]
) -> list[Completion]:
    """One after the other, as a single stream is decoded."""
    return [generator.generate([case.prompt], case.params)[0] for case in cases]


def measure_round(
    model: StepAudio2ForCausalLM,
    generator: Generator,
    multi: MultiTokenGenerator,
    cases: Sequence[Case],
    clock: Callable[[], float],
) -> Round:
    """Decode every case in the three ways, case by case in turn."""
    spent = [0.0] * 6
    for case in cases:
        ways: tuple[Generator | MultiTokenGenerator, ...] = (multi, generator)
        for index, ours in enumerate(ways):
            first = SamplingParams(max_new_tokens=1, stop_ids=case.params.stop_ids)
            start = clock()
            generator.generate([case.prompt], first)
            prefill = clock() - start
            start = clock()
            ours.generate([case.prompt], case.params)
            total = clock() - start
            spent[index] += total - prefill
            spent[3 + index] += total
        start = clock()
        hugging_face(model, case, 1)
        prefill = clock() - start
        start = clock()
        hugging_face(model, case, case.params.max_new_tokens)
        total = clock() - start
        spent[2] += total - prefill
        spent[5] += total
    return Round(*spent)


@dataclass(frozen=True)
class PassCosts:
    """Seconds of single passes: a step, a verifying pass, the drafts behind it."""

    step: float
    verify: float
    draft: float


@torch.inference_mode()
def pass_costs(
    generator: Generator, multi: MultiTokenGenerator, case: Case, clock: Callable[[], float]
) -> PassCosts:
    """Measure passes behind a prompt, in turn; the drafts continue as many tokens as are fed."""
    num_new = multi.num_drafts + 1
    length = len(case.prompt.ids) + num_new
    cache, blocks = generator.new_cache(1, length), multi.new_cache(1, length)
    generator.prefill([case.prompt], [0], cache)
    held = cache.lengths[0]
    decoder, drafter = generator.decoder(), multi.drafter
    ids = torch.full((1, num_new), int(case.prompt.ids[0]), device=generator.device)
    embeds = generator.model.model.embed_tokens(ids)
    hidden = decoder.hidden(embeds, cache.begin([0], num_new))
    cache.truncate(0, held)
    past = hidden[:, :1].expand(-1, held, -1).contiguous()
    fill = drafter.begin(blocks.begin([0], held), 1, held)
    for index in range(multi.num_drafts):
        past = fill(index, past, past)

    def step() -> None:
        decoder(embeds[:, :1], cache.begin([0], 1)).argmax(-1).item()
        cache.truncate(0, held)

    def verify() -> None:
        decoder.project(decoder.hidden(embeds, cache.begin([0], num_new))).argmax(-1).tolist()
        cache.truncate(0, held)

    def draft() -> None:
        run = drafter.begin(blocks.begin([0], num_new), 1, num_new)
        state, ahead = hidden, drafter.token_inputs(ids)
        for index in range(multi.num_drafts):
            state = run(index, state, ahead)
            drafter.token_inputs(drafter.project(state[:, -1]).argmax(-1))
        blocks.truncate(0, held)

    seconds: dict[Callable[[], None], list[float]] = {step: [], verify: [], draft: []}
    for _ in range(NUM_TURNS):
        for work, times in seconds.items():
            for _ in range(4):
                start = clock()
                work()
                times.append(clock() - start)
    return PassCosts(*(statistics.median(times) for times in seconds.values()))


@torch.inference_mode()
def first_near_tie(generator: Generator, case: Case, ids: Sequence[int]) -> int:
    """Index of the first token whose choice, one by one, was a near tie; else their number."""
    cache = generator.new_cache(1, len(case.prompt.ids) + len(ids))
    logits = generator.prefill([case.prompt], [0], cache)
    for index, token in enumerate(ids):
        best, second = logits[0].topk(2).values.tolist()
        allowed = NEAR_TIE
        if logits.dtype == torch.bfloat16:  # two units in the last place
            allowed = 2 * torch.finfo(torch.bfloat16).eps * abs(best)
        if best - second < allowed:
            return index
        logits = generator.step(torch.tensor([token], device=generator.device), [0], cache)
    return len(ids)


def differences(
    generator: Generator,
    cases: Sequence[Case],
    ours: Sequence[Sequence[int]],
    reference: Sequence[Sequence[int]],
) -> tuple[int, int]:
    """Recordings that differ before the first near tie, and recordings that have one."""
    wrong = num_tied = 0
    for case, mine, theirs in zip(cases, ours, reference, strict=True):
        tie = first_near_tie(generator, case, theirs)
        num_tied += tie < len(theirs)
        wrong += list(mine[:tie]) != list(theirs[:tie])
        wrong += tie == len(theirs) and len(mine) != len(theirs)
    return wrong, num_tied


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Median of the rounds' ratios and its 95 % interval."""
    ratios = np.array(slow) / np.array(fast)
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def report(rounds: Sequence[Round], stats: GenerationStats, costs: PassCosts) -> None:
    """Print acceptance, costs and ratios."""
    shares = ", ".join(f"{100 * share:.1f}" for share in stats.prefix_acceptance)
    print(f"tokens {stats.tokens}, passes {stats.passes}, per pass {stats.mean_accepted:.2f}")
    print(f"kept at least 1, 2, ... drafts: {shares} % of the passes")
    verify, draft = costs.verify / costs.step, costs.draft / costs.step
    print(
        f"step {1e3 * costs.step:.2f} ms; verifying pass {verify:.2f} steps, drafts {draft:.2f} "
        f"steps; bound {stats.mean_accepted / (verify + draft):.2f} x"
    )
    pairs = {
        "one by one / multi-token, behind the prefill": ("single", "drafted"),
        "Hugging Face / multi-token, behind the prefill": ("hugging_face", "drafted"),
        "Hugging Face / one by one, behind the prefill": ("hugging_face", "single"),
        "one by one / multi-token, with prefill": ("single_total", "drafted_total"),
        "Hugging Face / multi-token, with prefill": ("hugging_face_total", "drafted_total"),
    }
    for name, (slow, fast) in pairs.items():
        times = [[getattr(one, side) for one in rounds] for side in (slow, fast)]
        median, low, high = ratio(*times)
        print(f"{name:48} {median:5.2f} x  [{low:.2f}, {high:.2f}]")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--blocks", help="file or folder of the blocks (default: the model's)")
    parser.add_argument("--random", choices=tuple(SIZES), help="random weights instead of a model")
    parser.add_argument("--num-drafts", type=int, help="default: one of every block")
    parser.add_argument("--limit", type=int, default=32, help="recordings")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.random:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build_model(SIZES[args.random], device)
        generator = Generator(model)
        predictor = MultiTokenPredictor.from_decoder(PredictorConfig(), model.model)
        cases = random_cases(model, generator, args.limit)
    elif args.manifest:
        model, tokenizer = load_pretrained(args.model)
        generator = Generator(model, text_only=True)
        predictor = load_predictor(args.blocks or args.model, model)
        cases = speech_cases(model, tokenizer, generator, args.manifest, args.limit)
    else:
        parser.error("give a manifest, or --random")
    multi = MultiTokenGenerator(generator, predictor, num_drafts=args.num_drafts)
    clock = CLOCKS[args.clock]
    print(
        f"{platform.machine()}, {generator.device}, {args.threads} threads, {args.clock} time, "
        f"{len(cases)} recordings, {args.rounds} rounds, {multi.num_drafts} drafts"
    )
    drafted, single = completions_of(multi, cases), completions_of(generator, cases)
    total = GenerationStats()
    for completion in drafted:
        total.add(completion.stats)
    reference = [completion.ids for completion in single]
    wrong, num_tied = differences(generator, cases, [c.ids for c in drafted], reference)
    print(f"multi-token differs from one by one: {wrong}; recordings with a near tie: {num_tied}")
    theirs = [hugging_face(model, case, case.params.max_new_tokens) for case in cases]
    wrong, num_tied = differences(generator, cases, theirs, reference)
    print(f"Hugging Face differs from one by one: {wrong}; recordings with a near tie: {num_tied}")
    costs = pass_costs(generator, multi, cases[0], clock)
    rounds = [measure_round(model, generator, multi, cases, clock) for _ in range(args.rounds)]
    report(rounds, total, costs)


if __name__ == "__main__":
    main()
