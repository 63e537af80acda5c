"""Losses of the speech tokenizer's training.

Shape legend: B batch, S frames, K classes, M mel bands, T mel frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepaudio.models.encoder import Latents, length_mask


def posterior_divergence(student: Latents, teacher: Latents) -> Tensor:
    """Mean Kullback-Leibler divergence of the teacher's posteriors from the student's, a frame.

    Frames that only one of both has are left out. Frames in which the teacher is sure of the
    blank, its class 0, count as little as the blank is likely: most frames of a CTC model are
    blank, and say nothing of the sound.

    Args:
        student: log-probabilities [B, S, K].
        teacher: log-probabilities [B, S', K] at the same rate; no gradient flows to it.
    """
    size = min(student.values.shape[1], teacher.values.shape[1])
    lens = torch.minimum(student.lengths, teacher.lengths)
    target = teacher.values[:, :size].detach()
    divergence = (target.exp() * (target - student.values[:, :size])).sum(-1)
    weight = (1.05 - target[..., 0].exp()) * length_mask(lens, size)
    return (divergence * weight).sum() / weight.sum().clamp(min=1.0)


def mel_distance(predicted: Tensor, mel: Tensor, lens: Tensor) -> Tensor:
    """Mean absolute difference of mels [B, M, T] over the valid frames `lens` [B]."""
    size = min(predicted.shape[-1], mel.shape[-1])
    inside = length_mask(lens.clamp(max=size), size)[:, None]
    difference = (predicted[..., :size] - mel[..., :size]).abs() * inside
    return difference.sum() / (inside.sum() * mel.shape[1]).clamp(min=1)


def spread_loss(values: Tensor, lens: Tensor, levels: Sequence[int]) -> Tensor:
    """How far the digits of the codes are from being used evenly, each independently of the others.

    Squared differences of means and covariances, of the digits and of their squares, from those of
    even and independent digits (after VICReg, arXiv 2105.04906; for three levels, that is all there
    is to know of a pair of digits). Without it a codebook collapses to what the recogniser needs, a
    few codes for every phone.

    Args:
        values: quantised values [B, S, Q], from -1 to 1, with gradients.
        lens: [B], valid frames of every row.
        levels: number of values of each digit.
    """
    flat = values.float()[length_mask(lens, values.shape[1])]
    even = [torch.linspace(-1.0, 1.0, n, device=flat.device) for n in levels]
    features = torch.cat([flat, flat.square()], dim=1)
    mean = torch.stack([x.mean() for x in (*even, *(level.square() for level in even))])
    variance = torch.stack(
        [x.var(correction=0) for x in (*even, *(level.square() for level in even))]
    )
    centred = (features - mean) / variance.sqrt()
    covariance = centred.mT @ centred / max(len(flat), 1)
    difference = covariance - torch.eye(len(mean), device=flat.device)
    return difference.square().mean() + centred.mean(dim=0).square().mean()
