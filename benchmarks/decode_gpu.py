"""Speed of decoding on a GPU: one stream beside the memory's, 64 sessions beside Hugging Face.

    python benchmarks/decode_gpu.py [--size full|small|tiny] [--rounds 9] [--tokens 32] \
        [--sessions 64] [--context 2048] [--compile] [--no-peer-compile]

One command, under eight minutes on one H100 or H200 (most of it is transformers compiling its
step); on a CPU `--size tiny` runs the same program in seconds, for its tests. Weights are random,
in bfloat16 on a GPU: time does not depend on them. Keys and values of a session are random, too, so
that nothing has to be read before ours begins.

"copy" is the speed with which a large array is copied, bytes read plus bytes written. A step must
read all weights of layers and head once, and the keys and values of every session; the limit is the
time in which a copy moves as many bytes. Steps are those of `StaticSteps`: CUDA graphs over static
buffers; the host waits for the device behind the last of `--tokens` steps only.

The peer is `generate()` of transformers' Qwen2 with the same tensors and a static cache, for the
time of `--tokens` tokens less that of one. Both sides run in turn in every round; ratios are
medians over the rounds with 95 % intervals.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.generation import SIZES, build_model
from benchmarks.multi_token import ratio
from stepaudio.generation.static_step import StaticSteps
from stepaudio.models.fused import FusedDecoder
from stepaudio.models.kv_cache import SlotKVCache
from stepaudio.models.step_audio import StepAudio2ForCausalLM

STREAM_CONTEXT = 256  # tokens of the one stream
COPIED_BYTES = {"cuda": 4 << 30, "cpu": 64 << 20}
NUM_COPIES = 10


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Time of one call and of the work that it leaves to the device."""
    wait_for(device)
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start


def copy_speed(device: torch.device) -> float:
    """Bytes a second, read and written together."""
    source = torch.ones(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = partial(target.copy_, source)
    copy()
    return 2 * len(source) / min(seconds_of(copy, device) for _ in range(NUM_COPIES))


def weight_bytes(model: StepAudio2ForCausalLM) -> int:
    """What a step reads of the weights: all layers and the head."""
    read = [*model.model.layers.parameters(), model.lm_head.weight]
    return sum(parameter.numel() * parameter.element_size() for parameter in read)


def cache_bytes(cache: SlotKVCache, context: int) -> int:
    """What a step reads of keys and values if every slot holds so many tokens."""
    rows = (buffer[:, :, :, : min(context, buffer.shape[3] - 1)] for buffer in cache.buffers)
    return sum(row.numel() * row.element_size() for row in rows)


def filled_steps(
    model: StepAudio2ForCausalLM,
    decoder: FusedDecoder,
    num_slots: int,
    context: int,
    room: int,
    transform: Callable[..., Any] | None,
) -> tuple[StaticSteps, SlotKVCache]:
    """Steps over slots that hold random keys and values."""
    weight = model.lm_head.weight
    config = model.config.text_config
    cache = SlotKVCache(config, num_slots, context + room, dtype=weight.dtype, device=weight.device)
    for buffer in cache.buffers:
        buffer.normal_()
    cache.lengths = [context] * num_slots
    steps = StaticSteps(model, decoder, cache, transform=transform)
    steps.hold(range(num_slots), torch.full((num_slots,), 7, device=weight.device))
    return steps, cache


def run_steps(steps: StaticSteps, cache: SlotKVCache, context: int, num_steps: int) -> Tensor:
    """So many steps behind the same context."""
    for slot in range(cache.num_slots):
        cache.truncate(slot, context)
    steps.hold(range(cache.num_slots), steps.tokens.clone())
    for _ in range(num_steps):
        tokens = steps.advance()
    return tokens


def build_peer(model: StepAudio2ForCausalLM) -> Qwen2ForCausalLM:
    """Transformers' Qwen2 with our tensors."""
    text, weight = model.config.text_config, model.lm_head.weight
    config = Qwen2Config(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        rms_norm_eps=text.rms_norm_eps,
        rope_theta=text.rope_theta,
        max_position_embeddings=text.max_position_embeddings,
        tie_word_embeddings=False,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(weight.dtype)
    try:
        with weight.device:
            peer = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    peer.model.load_state_dict(model.model.state_dict(), assign=True)
    peer.lm_head.weight = weight
    return peer.eval()


def peer_generate(peer: Qwen2ForCausalLM, ids: Tensor, num_new: int, *, compiles: bool) -> None:
    """Greedy tokens of all rows with a static cache."""
    with torch.inference_mode():
        peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=num_new,
            min_new_tokens=num_new,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation="static",
            disable_compile=not compiles,
        )


def measure_stream(
    model: StepAudio2ForCausalLM, decoder: FusedDecoder, speed: float, args: argparse.Namespace
) -> None:
    """One stream: time of a step beside the time that reading the weights takes."""
    device = model.lm_head.weight.device
    transform = torch.compile if args.compile else None
    steps, cache = filled_steps(model, decoder, 1, STREAM_CONTEXT, args.tokens, transform)
    run = partial(run_steps, steps, cache, STREAM_CONTEXT, args.tokens)
    run()
    times = [seconds_of(run, device) / args.tokens for _ in range(args.rounds)]
    step = statistics.median(times)
    num_bytes = weight_bytes(model) + cache_bytes(cache, STREAM_CONTEXT)
    print(
        f"one stream: {1e3 * step:.3f} ms/step, {num_bytes / 1e9:.2f} GB read: "
        f"{100 * num_bytes / step / speed:.1f} % of the copy speed (goal: 85)",
        flush=True,
    )


def measure_sessions(
    model: StepAudio2ForCausalLM, decoder: FusedDecoder, speed: float, args: argparse.Namespace
) -> None:
    """Many sessions: tokens a second beside `generate()` and the limit."""
    device = model.lm_head.weight.device
    transform = torch.compile if args.compile else None
    count, context = args.sessions, args.context
    steps, cache = filled_steps(model, decoder, count, context, args.tokens, transform)
    ours = partial(run_steps, steps, cache, context, args.tokens)
    ours()
    step = statistics.median(seconds_of(ours, device) / args.tokens for _ in range(args.rounds))
    num_bytes = weight_bytes(model) + cache_bytes(cache, context)
    print(
        f"{count} sessions at {context} tokens: {1e3 * step:.3f} ms/step, "
        f"{count / step:.0f} tokens/s, {100 * num_bytes / speed / step:.1f} % of the limit "
        "(goal: 70)",
        flush=True,
    )
    peer = build_peer(model)
    ids = torch.randint(8, 100, (count, context), device=device)
    theirs = partial(peer_generate, peer, ids, compiles=not args.no_peer_compile)
    theirs(args.tokens + 1)
    mine: list[float] = []
    other: list[float] = []
    for _ in range(args.rounds):
        mine.append(seconds_of(ours, device) / args.tokens)
        first = seconds_of(partial(theirs, 1), device)
        other.append((seconds_of(partial(theirs, args.tokens + 1), device) - first) / args.tokens)
    median, low, high = ratio(other, mine)
    print(
        f"Hugging Face, static cache: {1e3 * statistics.median(other):.3f} ms/step; "
        f"{median:.2f} x  [{low:.2f}, {high:.2f}] (goal: 4)",
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="full" if has_gpu else "tiny")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--compile", action="store_true", help="torch.compile our step, too")
    parser.add_argument("--no-peer-compile", action="store_true", help="of transformers' step")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    device = torch.device("cuda" if has_gpu else "cpu")
    name = torch.cuda.get_device_name() if has_gpu else "CPU: a test of the program, no result"
    model = build_model(SIZES[args.size], device)
    decoder = FusedDecoder(model.model, model.lm_head.weight)
    speed = copy_speed(device)
    print(
        f"{name}, {args.size}: {weight_bytes(model) / 1e9:.3f} GB of weights a step, "
        f"{model.lm_head.weight.dtype}, {args.rounds} rounds; copy {speed / 1e9:.1f} GB/s",
        flush=True,
    )
    measure_stream(model, decoder, speed, args)
    measure_sessions(model, decoder, speed, args)


if __name__ == "__main__":
    main()
