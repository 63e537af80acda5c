"""Decoder and greedy generation against the reference (specification, sections 4 and 13)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stepaudio.generation.generator import GenerationPrompt, Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.tasks.verify.checks import Check, Component, compare, identical
from stepaudio.tasks.verify.reference_model import TOLERANCE, reference_model, single_clip
from stepaudio.tasks.verify.vectors import VectorFolder


@torch.inference_mode()
def run_llm(vectors: VectorFolder) -> Iterator[Check]:
    """Compare logits with audio, without it, and of a padded batch where its mask is 1."""
    model = reference_model(vectors)
    ids = vectors.tensor("main_single", "input_ids")
    with_audio = model(ids, audio_embeds=single_clip(vectors).adapted).logits
    reference = vectors.tensor("main_single", "logits")
    yield compare("main_single/logits", with_audio, reference, TOLERANCE)
    reference = vectors.tensor("main_single", "logits_no_audio")
    yield compare("main_single/logits_no_audio", model(ids).logits, reference, TOLERANCE)
    mask = vectors.tensor("main_batch", "attention_mask")
    ours = model(
        vectors.tensor("main_batch", "input_ids"),
        vectors.tensor("main_batch", "mel"),
        vectors.tensor("main_batch", "mel_len"),
        attention_mask=mask,
    ).logits
    reference, valid = vectors.tensor("main_batch", "logits"), mask.bool()
    if ours.shape == reference.shape:
        ours, reference = ours[valid], reference[valid]
    yield compare("main_batch/logits", ours, reference, TOLERANCE)


@torch.inference_mode()
def run_greedy(vectors: VectorFolder) -> Iterator[Check]:
    """Compare greedy ids over the KV cache, and the logits of the last one."""
    model = reference_model(vectors)
    adapted = single_clip(vectors).adapted
    clip = adapted.values[0, : int(adapted.lengths[0])]
    ids = vectors.tensor("main_greedy", "input_ids")[0].tolist()
    expected = vectors.tensor("main_greedy", "greedy_ids")[0]
    prompt, generator = GenerationPrompt(ids, [clip]), Generator(model)
    # The reference was told to go on behind end tokens.
    params = SamplingParams(max_new_tokens=len(expected), stop_ids=())
    (completion,) = generator.generate([prompt], params)
    yield identical("main_greedy/greedy_ids", completion.ids, expected)
    cache = generator.new_cache(1, len(ids) + len(expected))
    logits = generator.prefill([prompt], [0], cache)
    for token in expected[:-1]:
        logits = generator.step(token[None], [0], cache)
    reference = vectors.tensor("main_greedy", "last_logits")
    yield compare("main_greedy/last_logits", logits, reference, TOLERANCE)


LLM = Component("llm", run_llm)
GREEDY = Component("greedy", run_greedy)
