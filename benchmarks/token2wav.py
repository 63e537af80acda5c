"""Speed of audio tokens to sound, beside transformers' Qwen2.5-Omni token2wav of the same shapes.

    python benchmarks/token2wav.py [--size small|full] [--seconds 4] [--rounds 9] [--threads 1] \
        [--sessions 8]

Random weights: time does not depend on them. "full" has the shapes of the public checkpoint, and
is the default where there is a GPU. All sides run one after the other in every round, so that a
busy machine slows all, and ratios are those of times of one round. RTF is computing time for a
second of sound. On a CPU two clocks are read: wall time, and the processor time of this process,
which does not count the time for which others have the processor.

The peer's velocity model has as many layers of the same widths, its BigVGAN the stages, kernels and
width of HiFT; but it has no token encoder, no prompt in its sequence, solves with four evaluations
a step (Runge-Kutta), and upsamples by convolutions down to single samples, where HiFT ends with an
inverse transform. Its velocity model runs as often as ours (small), or 8 times where ours
runs 10 times (full).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniToken2WavConfig, Qwen2_5OmniToken2WavModel

from stepaudio.audio.prompt_features import VoiceMel
from stepaudio.models.token2wav.flow import Flow, VoicePrompt
from stepaudio.models.token2wav.flow_config import (
    FlowConfig,
    FlowEncoderConfig,
    FlowEstimatorConfig,
    SamplerConfig,
    StreamingConfig,
)
from stepaudio.models.token2wav.hift import HiftVocoder, prepare_inference
from stepaudio.models.token2wav.hift_config import HiftConfig
from stepaudio.models.token2wav.hift_stream import Hift
from stepaudio.models.token2wav.istft_vocoder import IstftVocoder, IstftVocoderConfig
from stepaudio.models.token2wav.s3_tokenizer import S3Config, S3Tokenizer
from stepaudio.models.token2wav.speaker import SpeakerConfig, SpeakerNetwork
from stepaudio.models.token2wav.token2wav import SpeechVoice, StreamBatch, Token2Wav
from stepaudio.models.token2wav.vocoder import Vocoder
from stepaudio.models.token2wav.voice import VoiceEncoders, VoicePreparer

MEL = VoiceMel()
CODEBOOK, SPEAKER_SIZE, TOKENS_PER_SECOND = 6561, 192, 25
PROMPT_TOKENS = 150  # a voice of 6 s
KINDS = ("HiFT", "light vocoder")
PEER = "peer: offline"
Calls = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Size:
    """Shapes of all sides.

    Attributes:
        width: of token encoder and velocity model.
        blocks: of the token encoder, at the rates of tokens and of frames.
        depth: blocks of the velocity model.
        vocoder: channels in front of the vocoder's first stage.
        steps: Euler steps.
        peer_steps: steps of the peer with as many evaluations, or a few less.
        cfg_rate: weight of guidance.
    """

    width: int
    blocks: tuple[int, int]
    depth: int
    vocoder: int
    steps: int
    peer_steps: int
    cfg_rate: float


# The peer counts points in time; between two of them are four evaluations.
SIZES = {
    "small": Size(192, (3, 2), 6, 128, steps=4, peer_steps=2, cfg_rate=0.0),
    "full": Size(512, (6, 4), 16, 512, steps=10, peer_steps=3, cfg_rate=0.7),
}


def flow_of(size: Size, device: torch.device) -> Flow:
    """Flow with random weights; exact chunks of a second."""
    config = FlowConfig(
        input_size=size.width,
        output_size=MEL.num_mels,
        spk_embed_dim=SPEAKER_SIZE,
        vocab_size=CODEBOOK,
        encoder=FlowEncoderConfig(
            input_size=size.width,
            output_size=size.width,
            num_blocks=size.blocks[0],
            num_up_blocks=size.blocks[1],
            attention_heads=size.width // 64,
            linear_units=4 * size.width,
        ),
        estimator=FlowEstimatorConfig(
            in_channels=4 * MEL.num_mels,
            out_channels=MEL.num_mels,
            depth=size.depth,
            num_heads=size.width // 64,
            head_dim=64,
            hidden_size=size.width,
        ),
        sampler=SamplerConfig(num_steps=size.steps, cfg_rate=size.cfg_rate),
        streaming=StreamingConfig(mode="exact"),
    )
    return Flow(config).eval().to(device)


def voices_without_weights() -> VoicePreparer:
    """What an engine needs to take recordings; here, prompts are given as features."""
    with torch.device("meta"):
        tokenizer = S3Tokenizer(S3Config())
        speaker = SpeakerNetwork(SpeakerConfig())
    return VoicePreparer(
        VoiceEncoders(
            tokenizer=tokenizer, speaker=speaker, mel=MEL, frames_per_token=2, fingerprint=""
        )
    )


def peer_of(size: Size, device: torch.device) -> nn.Module:
    """transformers' token2wav with the same widths and depths."""
    dit = {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.width // 64,
        "ff_mult": 4,
        "emb_dim": size.width,
        "num_embeds": CODEBOOK,
        "enc_emb_dim": SPEAKER_SIZE,
    }
    vocoder = {
        "upsample_initial_channel": size.vocoder,
        "upsample_rates": [8, 5, 3, 2, 2],
        "upsample_kernel_sizes": [16, 11, 7, 4, 4],
    }
    config = Qwen2_5OmniToken2WavConfig(dit_config=dit, bigvgan_config=vocoder)
    peer: nn.Module = Qwen2_5OmniToken2WavModel(config)
    return peer.eval().to(device)


def stream(engine: Token2Wav, voice: SpeechVoice, codes: Tensor) -> Tensor:
    """Speak in one session, a second of tokens at a time."""
    session = engine.stream(voice)
    return torch.cat([*map(session.push, codes.split(TOKENS_PER_SECOND)), session.finish()], dim=-1)


def stream_batch(engine: Token2Wav, voice: SpeechVoice, codes: Tensor, num_sessions: int) -> None:
    """The same in several sessions, with other tokens in each."""
    batch = StreamBatch(engine)
    sessions = [batch.open(voice, seed=i) for i in range(num_sessions)]
    pieces = codes.split(TOKENS_PER_SECOND)
    for turn, piece in enumerate(pieces):
        for i, session in enumerate(sessions):
            batch.push(session, (piece + i) % CODEBOOK, last=turn == len(pieces) - 1)
        batch.step()


@torch.no_grad()
def peer_call(model: nn.Module, codes: Tensor, features: Mapping[str, Any]) -> None:
    """Speak all tokens with the peer."""
    model(codes[None], **features).cpu()


def our_calls(
    size: Size, device: torch.device, codes: Tensor, num_sessions: int
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Engines of all kinds, and what is timed with them."""
    flow, voices = flow_of(size, device), voices_without_weights()
    hift = Hift(prepare_inference(HiftVocoder(HiftConfig(base_channels=size.vocoder))).to(device))
    light = IstftVocoder(IstftVocoderConfig()).eval().to(device)
    prompt = VoicePrompt(
        torch.randint(CODEBOOK, (PROMPT_TOKENS,)),
        torch.randn(MEL.num_mels, 2 * PROMPT_TOKENS),
        torch.randn(SPEAKER_SIZE),
    )
    vocoders: tuple[Vocoder[Any], ...] = (hift, light)
    for name, vocoder in zip(KINDS, vocoders, strict=True):
        engine = Token2Wav(flow, vocoder, voices)
        voice = engine.prepare_voice(prompt)
        yield f"{name}: offline", partial(engine.synthesize, codes, voice)
        yield f"{name}: streaming", partial(stream, engine, voice, codes)
        if num_sessions:
            sessions = partial(stream_batch, engine, voice, codes, num_sessions)
            yield f"{name}: {num_sessions} sessions", sessions


def all_calls(size: Size, device: torch.device, codes: Tensor, num_sessions: int) -> Calls:
    """What is timed, by name."""
    calls: Calls = dict(our_calls(size, device, codes, num_sessions))
    features = {
        "conditioning": torch.randn(1, SPEAKER_SIZE, device=device),
        "reference_mel": torch.randn(1, 2 * PROMPT_TOKENS, MEL.num_mels, device=device),
        "guidance_scale": size.cfg_rate,
        "num_steps": size.peer_steps,
    }
    calls[PEER] = partial(peer_call, peer_of(size, device), codes.to(device), features)
    return calls


def ratios(num_sessions: int) -> Iterator[tuple[str, str, str]]:
    """Name of every ratio, its numerator and its denominator."""
    for kind in KINDS:
        yield f"{kind}: streaming / offline", f"{kind}: streaming", f"{kind}: offline"
        if num_sessions:
            sessions = f"{num_sessions} sessions"
            yield f"{kind}: {sessions} / one", f"{kind}: {sessions}", f"{kind}: streaming"
    for kind in KINDS:
        yield f"peer / {kind}, offline", PEER, f"{kind}: offline"


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and an interval that holds the true one with 95 % probability or more.

    Its ends are values of equal rank from both ends, whatever the distribution (sign test). Below
    six values there is none that narrow, and the ends are the smallest and the largest value.
    """
    ordered, size = sorted(values), len(values)
    rank, below = 0, 1
    while 2 * (below + comb(size, rank + 1)) <= 0.05 * 2**size:
        rank += 1
        below += comb(size, rank)
    return statistics.median(ordered), ordered[rank], ordered[-1 - rank]


def timed(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of one call by every clock."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
        return {"wall": time.perf_counter() - wall}
    return {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}


def report(clock: str, times: Mapping[str, Sequence[float]], seconds: int, sessions: int) -> None:
    """Print real-time factors and ratios by one clock."""
    rows = {name: [value / seconds for value in values] for name, values in times.items()}
    print(f"\n{clock + ' time':32}{'median':>9}   95 % interval")
    for name, values in rows.items():
        median, low, high = median_interval(values)
        print(f"{name + ', RTF':32}{median:9.4f}   {low:.4f} to {high:.4f}")
    for name, numerator, denominator in ratios(sessions):
        pairs = zip(rows[numerator], rows[denominator], strict=True)
        median, low, high = median_interval([above / under for above, under in pairs])
        print(f"{name:32}{median:9.2f}   {low:.2f} to {high:.2f}")


def arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    gpu = torch.cuda.is_available()
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details.partition("\n\n")[2].partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = partial(parser.add_argument, type=int)
    default = "full" if gpu else "small"
    parser.add_argument(
        "--size", choices=tuple(SIZES), default=default, help="shapes (default here: %(default)s)"
    )
    add("--seconds", default=4, help="of sound in every call (default: %(default)s)")
    add("--rounds", default=9, help="(default: %(default)s)")
    add("--threads", default=1, help="on a CPU (default: %(default)s)")
    add("--sessions", default=8, help="streamed together; 0: none (default: %(default)s)")
    args = parser.parse_args()
    if min(args.seconds, args.rounds, args.threads) < 1 or args.sessions < 0:
        parser.error("seconds, rounds and threads must be at least 1, sessions not negative")
    return args


def main() -> None:
    """Print a table by every clock."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    codes = torch.randint(CODEBOOK, (args.seconds * TOKENS_PER_SECOND,))
    calls = all_calls(SIZES[args.size], device, codes, args.sessions)
    where = torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {args.threads} threads"
    print(f"{where}, {args.size}, {args.seconds} s of sound, {args.rounds} rounds, float32")
    for call in calls.values():  # warm up
        call()
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(args.rounds):
        for name, call in calls.items():
            for clock, value in timed(call, device).items():
                times.setdefault(clock, {}).setdefault(name, []).append(value)
    for clock, values in times.items():
        report(clock, values, args.seconds, args.sessions)
    for kind in KINDS:
        difference = calls[f"{kind}: streaming"]() - calls[f"{kind}: offline"]()
        print(f"{kind}: streamed and offline sound differ by {float(difference.abs().max()):.1e}")


if __name__ == "__main__":
    main()
