"""Speed of the audio encoder beside Hugging Face's Whisper encoder with the same weights.

    python benchmarks/encoder.py [--size whisper-tiny|tiny] [--seconds 30] [--rounds 9] \
        [--threads 1] [--clock wall|cpu]

Random weights in the public geometry: two convolutions, transformer blocks over 50 Hz, average
pooling to 25 Hz, a norm. Transformers has no pooling; its last norm is left out, and ours are
applied behind it, so that both sides yield the same frames, whose largest difference is printed. It
always encodes 30 s; a shorter clip is padded for it, and is as long as it is for ours.

Where `ctranslate2` is installed it encodes with the same weights, too; its last norm cannot be left
out, and has weights of one.

The limit is the time that the matrix products of the encoder would take at the speed of one large
product, measured in the run.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.multi_token import ratio
from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.models.config import AudioEncoderConfig
from stepaudio.models.encoder import AudioEncoder

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FRAMES_A_SECOND = 100
LONGEST_S = 30
SIZES = {"whisper-tiny": (384, 6, 4), "tiny": (32, 2, 2)}  # width, heads, blocks
PRODUCT = 1024  # rows and columns of the product that the limit is measured with
NUM_PRODUCTS = 5


def build_ours(width: int, heads: int, blocks: int) -> AudioEncoder:
    """Our encoder with random weights."""
    config = AudioEncoderConfig(
        n_mels=80,
        n_audio_ctx=LONGEST_S * FRAMES_A_SECOND // 2,
        n_audio_state=width,
        n_audio_head=heads,
        n_audio_layer=blocks,
        llm_dim=width,
        kernel_size=3,
        adapter_stride=2,
    )
    return AudioEncoder(config).eval()


def peer_name(name: str) -> str:
    """What transformers calls a parameter of ours."""
    for mine, theirs in (
        ("blocks.", "layers."),
        ("attn_ln.", "self_attn_layer_norm."),
        ("attn.query.", "self_attn.q_proj."),
        ("attn.key.", "self_attn.k_proj."),
        ("attn.value.", "self_attn.v_proj."),
        ("attn.out.", "self_attn.out_proj."),
        ("mlp.0.", "fc1."),
        ("mlp.2.", "fc2."),
        ("mlp_ln.", "final_layer_norm."),
        ("positional_embedding.", "embed_positions."),
    ):
        name = name.replace(mine, theirs)
    return name


def build_peer(ours: AudioEncoder) -> WhisperEncoder:
    """Transformers' encoder with our tensors, without its last norm."""
    config = ours.config
    peer = WhisperEncoder(
        WhisperConfig(
            d_model=config.n_audio_state,
            encoder_layers=config.n_audio_layer,
            encoder_attention_heads=config.n_audio_head,
            encoder_ffn_dim=int(config.mlp_ratio * config.n_audio_state),
            num_mel_bins=config.n_mels,
            max_source_positions=config.n_audio_ctx,
        )
    ).eval()
    peer.layer_norm = nn.Identity()
    state = {name: value for name, value in ours.state_dict().items() if "after_norm" not in name}
    peer.load_state_dict({peer_name(name): value for name, value in state.items()})
    return peer


@torch.inference_mode()
def encode_ours(ours: AudioEncoder, mel: Tensor) -> Tensor:
    """Frames [1, S, D] of one clip."""
    return ours(mel, torch.tensor([mel.shape[2]])).values


@torch.inference_mode()
def encode_peer(peer: WhisperEncoder, norm: nn.Module, mel: Tensor) -> Tensor:
    """The same with transformers, padded to 30 s."""
    padded = F.pad(mel, (0, LONGEST_S * FRAMES_A_SECOND - mel.shape[2]))
    hidden: Tensor = peer(padded).last_hidden_state
    pooled = F.avg_pool1d(hidden.transpose(1, 2), 2).transpose(1, 2)
    out: Tensor = norm(pooled)
    return out


def build_ctranslate2(peer: WhisperEncoder, threads: int) -> Any:
    """CTranslate2's Whisper with the encoder of `peer`; None: it is not installed."""
    try:
        import ctranslate2
        from ctranslate2.converters.transformers import WhisperLoader
    except ImportError:
        return None
    whole = WhisperForConditionalGeneration(peer.config).eval()
    encoder = whole.model.encoder
    norm = {f"layer_norm.{name}": value for name, value in encoder.layer_norm.state_dict().items()}
    encoder.load_state_dict({**peer.state_dict(), **norm})
    spec = WhisperLoader().get_model_spec(whole)
    spec.register_vocabulary([f"<{index}>" for index in range(peer.config.vocab_size)])
    spec.validate()
    spec.optimize()
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        return ctranslate2.models.Whisper(
            folder, device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads
        )


def encode_ctranslate2(model: Any, mel: Tensor) -> Any:
    """Its frames of one clip, padded to 30 s."""
    import ctranslate2

    padded = F.pad(mel, (0, LONGEST_S * FRAMES_A_SECOND - mel.shape[2]))
    return model.encode(ctranslate2.StorageView.from_array(padded.numpy()))


def num_operations(config: AudioEncoderConfig, num_frames: int) -> int:
    """Multiplications and additions of all matrix products for so many mel frames."""
    width, inner = config.n_audio_state, num_frames // 2
    convolutions = 3 * width * (config.n_mels * num_frames + width * inner)
    linear = inner * width * width * (4 + 2 * int(config.mlp_ratio))
    attention = 2 * inner * inner * width
    return 2 * (convolutions + config.n_audio_layer * (linear + attention))


def seconds_of(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Time of one call."""
    start = clock()
    call()
    return clock() - start


def product_speed(clock: Callable[[], float]) -> float:
    """Operations a second of a large product."""
    a, b = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    best = min(seconds_of(lambda: a @ b, clock) for _ in range(NUM_PRODUCTS))
    return 2 * PRODUCT**3 / best


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="whisper-tiny")
    parser.add_argument("--seconds", type=float, default=LONGEST_S)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clock = CLOCKS[args.clock]
    ours = build_ours(*SIZES[args.size])
    peer = build_peer(ours)
    mel = torch.randn(1, ours.config.n_mels, int(args.seconds * FRAMES_A_SECOND))
    mine, theirs = partial(encode_ours, ours, mel), partial(encode_peer, peer, ours.after_norm, mel)
    print(
        f"{platform.machine()}, {args.threads} threads, {args.clock} time, {args.size}, "
        f"{args.seconds:g} s at {SAMPLE_RATE} Hz, {args.rounds} rounds"
    )
    if args.seconds == LONGEST_S:
        print(f"largest difference: {float((mine() - theirs()).abs().max()):.1e}")
    calls: dict[str, Callable[[], object]] = {"ours": mine, "Hugging Face": theirs}
    other = build_ctranslate2(peer, args.threads)
    if other is not None:
        calls["CTranslate2"] = partial(encode_ctranslate2, other, mel)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(args.rounds):
        for name, call in calls.items():
            times[name].append(seconds_of(call, clock))
    for name, seconds in times.items():
        median, low, high = ratio(seconds, times["ours"])
        print(
            f"{name:14} {1e3 * statistics.median(seconds):8.1f} ms   {median:.2f} x ours  "
            f"[{low:.2f}, {high:.2f}]"
        )
    limit = num_operations(ours.config, mel.shape[2]) / product_speed(clock)
    share = 100 * limit / statistics.median(times["ours"])
    print(f"limit {1e3 * limit:.1f} ms: ours is at {share:.0f} % of it")


if __name__ == "__main__":
    main()
