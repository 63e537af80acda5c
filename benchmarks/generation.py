"""Speed of generation over the KV cache, beside recomputing everything as the public code does.

    python benchmarks/generation.py [--size small|full] [--tokens 256] [--positions 8] \
        [--rounds 3] [--threads 1] [--clock wall|cpu]

Random weights: time does not depend on them. "full" has the shapes of Step-Audio-2-mini in
bfloat16, and is the default where there is a GPU; "small" has about 100 M parameters.

"ours" is what `Generator.stream` does: encode the audio once, prefill, then a step a token.
"recompute" is what the public code does for every token: encode all audio, run the whole sequence,
without a cache. It is even spared the logits of all but the last token, which the public code
computes too. Because it takes seconds a token, it is measured at some positions, and its total is
the integral over straight lines between them. Both run in turn: ours pauses at a position while
recompute finds the same token, so that a busy machine slows both; clock "cpu" counts only the time
in which this process computes. The total of ours is the sum of every token's time, the first one's
with encoder and prefill. Whether time grows with the tokens is measured apart, by steps behind few
and behind many tokens in turn.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepaudio.audio.frames import SAMPLE_RATE, pieces
from stepaudio.audio.mel import log_mel
from stepaudio.generation.completion import GenerationPrompt
from stepaudio.generation.generator import Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
AUDIO_S = 30
NUM_TEXT_TOKENS = 32
AUDIO_START, AUDIO_END, AUDIO_PATCH = 200, 201, 202
NUM_TURNS = 64  # of the first and the last step, to compare these
NEIGHBOURS = 16  # ours at a position: the median over so many tokens on either side


@dataclass(frozen=True)
class Size:
    """Shapes of a model.

    Attributes:
        width: of the decoder.
        feed_forward: of the decoder.
        layers: of the decoder.
        heads: query heads; `kv_heads` of keys and values.
        vocab: rows of embedding table and head.
        encoder: width, heads and layers of the audio encoder.
        dtype: of the weights.
    """

    width: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    encoder: tuple[int, int, int]
    dtype: torch.dtype


SIZES = {
    "tiny": Size(64, 128, 2, 4, 2, 300, (32, 2, 2), torch.float32),
    "small": Size(640, 2560, 12, 10, 2, 16_000, (384, 6, 8), torch.float32),
    "full": Size(3584, 18_944, 28, 28, 4, 158_720, (1280, 20, 32), torch.bfloat16),
}


@dataclass(frozen=True)
class Request:
    """A prompt with audio, as both sides need it.

    Attributes:
        ids: [1, T] prompt.
        mels: log-mel [n_mels, frames] of every piece.
        features: [pieces, n_mels, frames], the same padded.
        lens: [pieces] valid frames.
    """

    ids: Tensor
    mels: Sequence[Tensor]
    features: Tensor
    lens: Tensor


@dataclass(frozen=True)
class Times:
    """Seconds of one run.

    Attributes:
        ours: for every token.
        recomputed: for the tokens at the positions.
        num_same: at how many positions both sides chose the same token.
    """

    ours: list[float]
    recomputed: list[float]
    num_same: int


def build_model(size: Size, device: torch.device) -> StepAudio2ForCausalLM:
    """A model with random weights in the public geometry."""
    width, heads, layers = size.encoder
    config = StepAudioConfig(
        text_config={
            "vocab_size": size.vocab,
            "hidden_size": size.width,
            "intermediate_size": size.feed_forward,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "max_position_embeddings": 16_384,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "initializer_range": 0.1,  # large enough that greedy choices are not ties
        },
        audio_encoder_config={
            "n_mels": 128,
            "n_audio_ctx": 1500,
            "n_audio_state": width,
            "n_audio_head": heads,
            "n_audio_layer": layers,
            "llm_dim": size.width,
            "kernel_size": 3,
            "adapter_stride": 2,
        },
        audio_start_token_id=AUDIO_START,
        audio_patch_token_id=AUDIO_PATCH,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(size.dtype)
    try:
        with device:
            model = StepAudio2ForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    model.eval()
    return model


def build_request(model: StepAudio2ForCausalLM, seconds: float) -> Request:
    """Noise in pieces of at most 25 s, behind and before random text."""
    config = model.config.audio_encoder_config
    wav = torch.randn(int(seconds * SAMPLE_RATE)) * 0.1
    mels = [log_mel(wav[start:stop], config.n_mels) for start, stop in pieces(len(wav))]
    lens = [config.geometry.valid_mel_frames(mel.shape[1]) for mel in mels]
    features = torch.zeros(len(mels), config.n_mels, max(mel.shape[1] for mel in mels))
    for row, mel in zip(features, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    text = torch.randint(3, AUDIO_START, (NUM_TEXT_TOKENS,)).tolist()
    heard = [
        token
        for length in lens
        for token in (
            AUDIO_START,
            *[AUDIO_PATCH] * config.geometry.tokens(length),
            AUDIO_END,
        )
    ]
    half = NUM_TEXT_TOKENS // 2
    ids = torch.tensor([[*text[:half], *heard, *text[half:]]])
    device = model.lm_head.weight.device
    return Request(ids.to(device), mels, features.to(device), torch.tensor(lens, device=device))


@torch.inference_mode()
def recompute(model: StepAudio2ForCausalLM, request: Request, tokens: Sequence[int]) -> int:
    """The next token, from nothing but the weights."""
    new = torch.tensor([list(tokens)], dtype=torch.long, device=request.ids.device)
    out = model(
        torch.cat([request.ids, new], dim=1),
        request.features,
        request.lens,
        use_cache=False,
        logits_to_keep=1,
    )
    assert out.logits is not None
    return int(out.logits[0, -1].argmax())


def measure(
    model: StepAudio2ForCausalLM,
    generator: Generator,
    request: Request,
    num_tokens: int,
    positions: Sequence[int],
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Generate greedily, and find the tokens at some positions, counted from 1, the other way."""
    params = SamplingParams(max_new_tokens=num_tokens, stop_ids=())
    ours: list[float] = []
    recomputed: list[float] = []
    tokens: list[int] = []
    num_same = 0
    start = clock()
    prompt = GenerationPrompt(request.ids[0].tolist(), generator.encode(request.mels))
    for event in generator.stream(prompt, params):
        ours.append(clock() - start)
        if len(ours) in positions:
            start = clock()
            token = recompute(model, request, tokens)
            recomputed.append(clock() - start)
            num_same += token == event.token_id
        tokens.append(event.token_id)
        start = clock()
    return Times(ours, recomputed, num_same)


@torch.inference_mode()
def growth(
    generator: Generator, request: Request, num_tokens: int, clock: Callable[[], float]
) -> float:
    """Time of the last token's step in units of the first one's, taken in turn many times."""
    prompt = GenerationPrompt(request.ids[0].tolist(), generator.encode(request.mels))
    more = torch.randint(3, AUDIO_START, (num_tokens - 2,)).tolist()
    long = GenerationPrompt([*prompt.ids, *more], prompt.audio)
    token = torch.tensor([3], device=generator.device)
    both = [(generator.new_cache(1, len(long.ids) + 1), filled) for filled in (prompt, long)]
    for cache, filled in both:
        generator.prefill([filled], [0], cache)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(NUM_TURNS):
        for times, (cache, filled) in zip(seconds, both, strict=True):
            start = clock()
            generator.step(token, [0], cache).argmax().item()
            times.append(clock() - start)
            cache.truncate(0, len(filled.ids))
    first, last = map(statistics.median, seconds)
    return last / first


def spread(num_tokens: int, num_positions: int) -> list[int]:
    """Positions from the first to the last token, evenly spaced."""
    steps = max(num_positions - 1, 1)
    return sorted({1 + round(n * (num_tokens - 1) / steps) for n in range(num_positions)})


def integral(positions: Sequence[int], seconds: Sequence[float]) -> float:
    """Sum over every token from the first to the last position, between them on straight lines."""
    total = seconds[0]
    pairs = itertools.pairwise(zip(positions, seconds, strict=True))
    for (left, before), (right, behind) in pairs:
        count = right - left
        total += count * before + (behind - before) * (count + 1) / 2
    return total


def near(times: Sequence[float], position: int) -> float:
    """Median over the tokens around a position; the first token is not a step and is left out."""
    first = max(position - 1 - NEIGHBOURS, 1)
    return statistics.median(times[first : position + NEIGHBOURS])


def report(runs: Sequence[Times], positions: Sequence[int], grown: float) -> None:
    """Print one line for every position, then totals: medians over all runs."""
    ours = [statistics.median(values) for values in zip(*(run.ours for run in runs), strict=True)]
    theirs = [
        statistics.median(values) for values in zip(*(run.recomputed for run in runs), strict=True)
    ]
    print(f"{'token':>6} {'ours ms':>9} {'recompute ms':>13} {'ratio':>7}")
    for position, seconds in zip(positions, theirs, strict=True):
        step = near(ours, position)
        print(f"{position:6} {1e3 * step:9.1f} {1e3 * seconds:13.1f} {seconds / step:7.1f}")
    total, recomputed = sum(ours), integral(positions, theirs)
    same = sum(run.num_same for run in runs)
    print(f"first token, encoder and prefill included: {ours[0]:.2f} s")
    print(f"the last step takes {grown:.2f} x the first one, both in turn {NUM_TURNS} times")
    print(
        f"{len(ours)} tokens: ours {total:.1f} s, recompute {recomputed:.1f} s (integrated over "
        f"{len(positions)} positions): {recomputed / total:.1f} x faster"
    )
    print(f"same token at {same} of {len(runs) * len(positions)} positions")


def main() -> None:
    """Measure and print."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="full" if gpu else "small")
    parser.add_argument("--tokens", type=int, default=256, help="new tokens")
    parser.add_argument("--positions", type=int, default=8, help="where recompute is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if gpu else "cpu")
    model = build_model(SIZES[args.size], device)
    generator, request = Generator(model), build_request(model, AUDIO_S)
    positions = spread(args.tokens, args.positions)
    where = torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {args.threads} threads"
    num_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{where}, {args.size}: {num_parameters / 1e6:.0f} M parameters, {SIZES[args.size].dtype}, "
        f"{AUDIO_S} s of audio, prompt of {request.ids.shape[1]} tokens, "
        f"{args.rounds} rounds, {args.clock} time"
    )
    measure(model, generator, request, 4, [1, 4])  # warm up
    runs = [measure(model, generator, request, args.tokens, positions) for _ in range(args.rounds)]
    report(runs, positions, growth(generator, request, args.tokens, CLOCKS[args.clock]))


if __name__ == "__main__":
    main()
