"""Flow against the reference, offline and streamed (specification, sections 10 and 13)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.token2wav.context import KeyValues, full_view
from stepaudio.models.token2wav.dit import Condition
from stepaudio.models.token2wav.flow import Flow, VoicePrompt, euler_times
from stepaudio.models.token2wav.flow_checkpoint import load_flow
from stepaudio.models.token2wav.flow_reference import ReferenceMelDecoder, ReferenceState
from stepaudio.models.token2wav.flow_yaml import public_flow_config
from stepaudio.tasks.verify.checks import Check, Component, compare, identical
from stepaudio.tasks.verify.vectors import VectorFolder

TOLERANCE = 1e-4
OFFLINE, STREAM = "flow_offline", "flow_stream"


def _load(vectors: VectorFolder) -> Flow:
    parts = vectors.values("flow_config")
    decoder = {**parts["decoder"], "estimator": parts["estimator"]}
    flow = {**parts["flow"], "encoder": parts["encoder"], "decoder": decoder}
    return load_flow(vectors.weights("flow"), public_flow_config({"flow": flow}))


def _decoder(flow: Flow, noise: Tensor) -> ReferenceMelDecoder:
    """Decoder with the noise of the reference run."""

    def given(
        _seeds: Sequence[int], starts: Sequence[int], shape: tuple[int, int], _device: object
    ) -> Tensor:
        return noise[:, :, starts[0] : starts[0] + shape[1]]

    return ReferenceMelDecoder(flow, given)


def _voice(vectors: VectorFolder, file: str) -> VoicePrompt:
    return VoicePrompt(
        vectors.tensor(file, "prompt_token")[0],
        vectors.tensor(file, "prompt_mel")[0].T,
        vectors.tensor(file, "spk")[0],
    )


@torch.inference_mode()
def run(vectors: VectorFolder) -> Iterator[Check]:
    """Compare every stage, the offline mel, and the mel and cache lengths of every chunk."""
    flow = vectors.shared("flow", _load)
    yield from _stages(flow, vectors)
    decoder = _decoder(flow, vectors.tensor(OFFLINE, "noise"))
    mel = decoder.generate(
        vectors.tensor(OFFLINE, "token")[0], decoder.prepare(_voice(vectors, OFFLINE))
    )
    yield compare(f"{OFFLINE}/mel", mel[None], vectors.tensor(OFFLINE, "mel"), TOLERANCE)
    yield from _stream(flow, vectors)


def _stages(flow: Flow, vectors: VectorFolder) -> Iterator[Check]:
    given = {
        name: vectors.tensor(OFFLINE, name)
        for name in ("prompt_token", "token", "spk", "est_x", "est_mu", "est_spk", "est_cond")
    }
    times = vectors.tensor(OFFLINE, "est_t")
    tokens = torch.cat([given["prompt_token"], given["token"]], dim=1).long()
    size, factor = tokens.shape[1], flow.config.frames_per_token
    views = (full_view(size, 0, flow.device), full_view(size * factor, 0, flow.device))
    padded = F.pad(tokens, (0, flow.config.lookahead_tokens))
    embedded, past = flow.input_embedding(padded), flow.encoder.empty_past(1)
    hidden, _ = flow.encoder(embedded, torch.tensor([size]), past, views)
    estimator = flow.decoder.estimator
    condition = Condition(given["est_mu"], given["est_spk"], given["est_cond"])
    ours = {
        "token_emb": embedded[:, :size],
        "encoder_out": hidden,
        "mu": flow.encoder_proj(hidden),
        "spk_proj": flow.speaker(given["spk"]),
        "t_span": torch.tensor(euler_times(flow.config.sampler)),
        "est_t_emb": estimator.t_embedder(times),
        "est_out": estimator(given["est_x"], condition, times, estimator.empty_past(len(times)))[0],
    }
    for name, values in ours.items():
        yield compare(f"{OFFLINE}/{name}", values, vectors.tensor(OFFLINE, name), TOLERANCE)


def _stream(flow: Flow, vectors: VectorFolder) -> Iterator[Check]:
    """Every chunk of the reference begins with the tokens that the one before looked ahead to."""
    decoder = _decoder(flow, vectors.tensor(STREAM, "noise"))
    state = decoder.init_state(decoder.prepare(_voice(vectors, STREAM)))
    tails = torch.cat([state.encoder.lookahead, state.encoder.upsample], dim=-1)
    name = "cache0_conformer_cnn"
    yield compare(f"{STREAM}/{name}", tails, vectors.tensor(STREAM, name), TOLERANCE)
    yield from _first_caches(vectors, state)
    num_chunks = int(vectors.tensor(STREAM, "n_chunks"))
    lookahead = flow.config.lookahead_tokens
    for i in range(num_chunks):
        tokens = vectors.tensor(STREAM, f"chunk{i}_token")[0, lookahead if i else 0 :]
        [mel], [state] = decoder.step([tokens], [state], [i == num_chunks - 1])
        reference = vectors.tensor(STREAM, f"chunk{i}_mel")
        yield compare(f"{STREAM}/chunk{i}_mel", mel[None], reference, TOLERANCE)
        lengths = {
            "conf_att_len": state.encoder.frames[0].length,
            "est_att_len": state.estimator[0].parts[0].length,
        }
        for name, length in lengths.items():
            expected = vectors.tensor(STREAM, f"chunk{i}_{name}")
            yield identical(f"{STREAM}/chunk{i}_{name}", [length], expected)


def _first_caches(vectors: VectorFolder, state: ReferenceState) -> Iterator[Check]:
    """Shapes of the caches behind the prompt, in the layout of the reference."""
    [frames], [cached] = state.encoder.frames, state.estimator[0].parts
    layers = len(state.encoder.tokens[0].keys) + len(frames.keys)
    ours = {
        "conformer_att": [layers, *_joined_shape(frames)[1:]],
        "estimator_att": _joined_shape(cached),
        "estimator_cnn": list(state.estimator[0].tails.flatten(2, 3).shape),
    }
    for name, shape in ours.items():
        reference = vectors.tensor(STREAM, f"cache0_{name}_shape").tolist()
        # The reference allocates 16 slots for Euler steps in front, however many it uses.
        yield identical(f"{STREAM}/cache0_{name}_shape", shape, reference[-len(shape) :])


def _joined_shape(cache: KeyValues) -> list[int]:
    return list(torch.cat([cache.keys, cache.values], dim=-1).shape)


FLOW = Component("flow", run)
