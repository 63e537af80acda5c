"""What happened inside, as HTML: plots in time, tokens in their order, stages in seconds."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stepaudio_webui.inspection import Inspection, Token

# Readable on white and on black: the plots are transparent.
_INK = "#7d8b96"
_ACCENT = "#0d9488"
_SECOND = "#6366f1"
_MAX_COLUMNS = 1400  # of the spectrogram's picture
_LEGEND = {"text": "text", "audio": "audio code", "mark": "special", "heard": "heard"}


def render(run: Inspection) -> str:
    """Everything about one run.

    Args:
        run: what was kept of it.
    """
    parts = [
        f'<p class="result"><b>{html.escape(run.title)}</b> {html.escape(run.result)}</p>',
        _facts(run.facts),
        _section("In time", _plots(run)),
        _section(f"Tokens, {len(run.tokens)} in order", _layout(run.tokens)),
        _section("Seconds of every stage", _stages(run.stages, run.duration_s)),
    ]
    return f'<div class="inspection">{"".join(parts)}</div>'


def _section(title: str, body: str) -> str:
    return f"<section><h3>{html.escape(title)}</h3>{body}</section>"


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f"<dl>{rows}</dl>"


# ---- plots ---------------------------------------------------------------------------------------


def _plots(run: Inspection) -> str:
    rows = 3 if run.codes else 2
    figure = Figure(figsize=(10, 1.9 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, height_ratios=[1, 2, 1.5][:rows], squeeze=False)[
        :, 0
    ]
    _draw_wave(axes[0], run)
    _draw_mel(axes[1], run)
    if run.codes:
        _draw_codes(axes[2], run)
    axes[-1].set_xlabel("seconds", color=_INK)
    axes[-1].set_xlim(0, max(run.duration_s, 0.01))
    for axis in axes:
        _calm(axis)
    words = "waveform, log-mel spectrogram" + (" and audio tokens" if run.codes else "")
    return f'<img alt="{words} over {run.duration_s:.2f} seconds" src="{_data_url(figure)}">'


def _draw_wave(axis: Axes, run: Inspection) -> None:
    step = max(1, len(run.samples) // 2000)
    whole = run.samples[: len(run.samples) // step * step].reshape(-1, step)
    times = np.arange(len(whole)) * step / run.sample_rate
    axis.fill_between(times, whole.min(1), whole.max(1), color=_ACCENT, linewidth=0.4)
    axis.set_ylabel("waveform", color=_INK)
    axis.set_yticks([])


def _draw_mel(axis: Axes, run: Inspection) -> None:
    mel = run.mel[:, :: max(1, run.mel.shape[1] // _MAX_COLUMNS)]
    floor, ceiling = np.percentile(mel, [5, 99.8])
    axis.imshow(
        mel,
        aspect="auto",
        origin="lower",
        cmap="magma",
        vmin=floor,
        vmax=ceiling,
        extent=(0, run.duration_s, 0, len(mel)),
    )
    axis.set_ylabel("log-mel band", color=_INK)


def _draw_codes(axis: Axes, run: Inspection) -> None:
    times = (np.arange(len(run.codes)) + 0.5) * run.duration_s / len(run.codes)
    axis.vlines(times, 0, run.codes, color=_SECOND, alpha=0.25, linewidth=0.8)
    axis.scatter(times, run.codes, s=7, color=_SECOND)
    axis.set_ylim(0, run.codebook_size or max(run.codes) + 1)
    axis.set_ylabel("audio token", color=_INK)


def _calm(axis: Axes) -> None:
    axis.tick_params(colors=_INK, labelsize=8)
    axis.patch.set_alpha(0)
    for name, spine in axis.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(_INK)


def _data_url(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", transparent=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


# ---- tokens and times ----------------------------------------------------------------------------


def _layout(tokens: Sequence[Token]) -> str:
    kinds = sorted({token.kind for token in tokens}, key=list(_LEGEND).index)
    legend = "".join(f'<span class="token {kind}">{_LEGEND[kind]}</span>' for kind in kinds)
    runs = []
    for is_prompt, run in groupby(tokens, lambda token: token.is_prompt):
        name = "given" if is_prompt else "generated"
        runs.append(f'<div class="run"><b>{name}</b><p>{_run(list(run))}</p></div>')
    return f'<p class="legend">{legend}</p>{"".join(runs)}'


def _run(tokens: Sequence[Token]) -> str:
    """Tokens of one kind of origin; what was heard is one box with its number."""
    boxes = []
    for kind, group in groupby(tokens, lambda token: token.kind):
        alike = list(group)
        if kind == "heard":
            boxes.append(f'<span class="token heard">heard × {len(alike)}</span>')
            continue
        for token in alike:
            label = html.escape(token.label.replace("\n", "⏎")) or "&nbsp;"
            boxes.append(f'<span class="token {kind}">{label}</span>')
    return "".join(boxes)


def _stages(stages: Mapping[str, float], duration_s: float) -> str:
    total = sum(stages.values()) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{seconds:.3f}</td>'
        f'<td><i style="width:{100 * seconds / total:.1f}%"></i></td></tr>'
        for name, seconds in stages.items()
    )
    factor = f", {total / duration_s:.2f} s for a second of sound" if duration_s else ""
    return f"<table>{rows}</table><p>{total:.2f} s in all{factor}</p>"
