"""Tab "Transcribe": one recording with its words in time, many recordings, kinds of decoding."""

from __future__ import annotations

import html
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from stepaudio.errors import StepAudioError
from stepaudio_webui.backend import Backend
from stepaudio_webui.notices import counted, length, named, note, problem
from stepaudio_webui.theme import STATIC
from stepaudio_webui.timeline import render_player, save_player_files
from stepaudio_webui.transcripts import (
    Comparison,
    DecodingComparison,
    Heard,
    Outcome,
    hear,
    hear_one_of_many,
    parse_hotwords,
    save_archive,
    save_exports,
)

_FORMATS = {"text": "Text (.txt)", "srt": "SubRip (.srt)", "vtt": "WebVTT (.vtt)", "json": "JSON"}
_PROGRESS = gr.Progress()  # asks Gradio for a progress bar of the event
_HINT = (
    "Click a word, or move with the arrow keys and press Enter: the recording plays from there. "
    "Dotted words are uncertain."
)


def build(backend: Backend) -> None:
    """Build the tab."""
    hotwords = gr.Textbox(
        label="Hotwords",
        info="Names and terms that may occur, separated by commas",
        placeholder="Kathleen, spectrogram",
        max_lines=2,
        elem_id="transcribe-hotwords",
    )
    with gr.Tabs():
        with gr.Tab("One recording"):
            _build_one(backend, hotwords)
        with gr.Tab("Many recordings"):
            _build_many(backend, hotwords)


# ---- one recording -------------------------------------------------------------------------------


def _build_one(backend: Backend, hotwords: gr.Textbox) -> None:
    audio = gr.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        label="Recording (wav, flac, mp3, ogg, m4a, webm)",
        elem_id="transcribe-audio",
    )
    start = gr.Button("Transcribe", variant="primary", elem_id="transcribe-start")
    status = gr.HTML(elem_id="transcribe-status")
    player = gr.HTML(
        css_template=(STATIC / "timeline.css").read_text(encoding="utf-8"),
        js_on_load=(STATIC / "timeline.js").read_text(encoding="utf-8"),
        elem_id="transcribe-player",
    )
    with gr.Row(visible=False, elem_id="transcribe-downloads") as downloads:
        buttons = [
            gr.DownloadButton(label, size="sm", elem_id=f"transcribe-{kind}")
            for kind, label in _FORMATS.items()
        ]
    folder = Path(player.GRADIO_CACHE)

    def transcribe(path: str | None, terms: str, progress: gr.Progress = _PROGRESS) -> list[Any]:
        hidden = [gr.update(visible=False), *(gr.update(value=None) for _ in _FORMATS)]
        if path is None:
            return [problem("Choose a file or record something first"), "", *hidden]
        progress(0.0, desc="Reading")
        try:
            heard = hear(
                backend,
                Path(path),
                parse_hotwords(terms),
                lambda share: progress(share, desc="Writing down"),
            )
            shown = _shown(Path(path), heard, folder)
            files = save_exports(heard.result, folder / secrets.token_hex(16))
        except StepAudioError as error:
            return [problem(named(error, path)), "", *hidden]
        updates = [gr.update(value=str(files[kind])) for kind in _FORMATS]
        return [_summary(heard), shown, gr.update(visible=True), *updates]

    start.click(
        transcribe,
        [audio, hotwords],
        [status, player, downloads, *buttons],
        show_progress_on=[status],
        api_visibility="private",
    )
    _build_comparison(backend, audio)


def _shown(path: Path, heard: Heard, folder: Path) -> str:
    """HTML of a recording; its files have a name that nobody can guess."""
    from stepaudio.audio.io import load_audio

    samples = load_audio(path, name=path.name).samples.numpy()
    own = folder / secrets.token_hex(16)
    files = save_player_files(samples, own, f"/gradio_api/file={quote(str(own))}")
    return render_player(heard.result.transcript, files)


def _summary(heard: Heard) -> str:
    transcript = heard.result.transcript
    if not transcript.segments:
        return note(f"{length(transcript.duration_s)} of sound, and no speech in it.")
    words = len(transcript.text.split())
    speed = transcript.duration_s / heard.wall_s if heard.wall_s else 0.0
    text = (
        f"{counted(words, 'word')} in {length(transcript.duration_s)} of sound, written down in "
        f"{heard.wall_s:.1f} s ({speed:.1f} times as fast as it was said). {_HINT}"
    )
    return note(text)


# ---- many recordings -----------------------------------------------------------------------------


def _build_many(backend: Backend, hotwords: gr.Textbox) -> None:
    files = gr.File(file_count="multiple", label="Recordings", elem_id="batch-files", height=160)
    with gr.Row():
        start = gr.Button("Transcribe all", variant="primary", elem_id="batch-start")
        stop = gr.Button("Stop", elem_id="batch-stop")
    status = gr.HTML(elem_id="batch-status")
    table = gr.HTML(elem_id="batch-table")
    archive = gr.DownloadButton(
        "All transcripts (.zip)", visible=False, size="sm", elem_id="batch-zip"
    )
    folder = Path(table.GRADIO_CACHE)

    def transcribe_all(
        paths: list[str] | None,
        terms: str,
        progress: gr.Progress = _PROGRESS,
    ) -> Iterator[list[Any]]:
        hidden = gr.update(visible=False, value=None)
        if not paths:
            yield [problem("Choose some files first"), "", hidden]
            return
        try:
            words = parse_hotwords(terms)
        except StepAudioError as error:
            yield [problem(str(error)), "", hidden]
            return
        outcomes: list[Outcome] = []
        for index, path in enumerate(map(Path, paths)):

            def advance(share: float, index: int = index, name: str = path.name) -> None:
                done = (index + share) / len(paths)
                progress(done, desc=f"{name}, {index + 1} of {len(paths)}")

            advance(0.0)
            outcomes.append(hear_one_of_many(backend, path, words, advance))
            yield [gr.skip(), _table(outcomes), hidden]
        good = [outcome.heard.result for outcome in outcomes if outcome.heard is not None]
        update = hidden
        if good:
            saved = save_archive(good, folder / secrets.token_hex(16) / "transcripts.zip")
            update = gr.update(visible=True, value=str(saved))
        yield [_batch_summary(outcomes), gr.skip(), update]

    running = start.click(
        transcribe_all,
        [files, hotwords],
        [status, table, archive],
        show_progress_on=[status],
        api_visibility="private",
    )
    stop.click(None, cancels=[running], api_visibility="private")
    # Not before the recording that is being read is through: until then the page ignores clicks.
    running.failure(
        lambda: note("Stopped; what is in the table was written down."),
        None,
        [status],
        queue=False,
        api_visibility="private",
    )


def _batch_summary(outcomes: Sequence[Outcome]) -> str:
    bad = sum(outcome.heard is None for outcome in outcomes)
    good = len(outcomes) - bad
    if not bad:
        return note(f"{counted(good, 'file')} written down.")
    return problem(f"{good} of {counted(len(outcomes), 'file')} written down; {bad} could not be")


def _table(outcomes: Sequence[Outcome]) -> str:
    rows = "".join(_row(outcome) for outcome in outcomes)
    return (
        '<div class="sa-scroll"><table class="sa-table"><thead><tr><th scope="col">File</th>'
        '<th scope="col">Length</th><th scope="col">Transcript</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(outcome: Outcome) -> str:
    name = html.escape(outcome.name)
    if outcome.heard is None:
        cause = html.escape(outcome.cause)
        return f'<tr class="sa-bad"><td>{name}</td><td>—</td><td>{cause}</td></tr>'
    transcript = outcome.heard.result.transcript
    text = html.escape(transcript.text) or "<i>no speech</i>"
    return f"<tr><td>{name}</td><td>{length(transcript.duration_s)}</td><td>{text}</td></tr>"


# ---- kinds of decoding ---------------------------------------------------------------------------


def _build_comparison(backend: Backend, audio: gr.Audio) -> None:
    comparison = DecodingComparison(backend)
    with gr.Accordion("Compare greedy and multi-token decoding", open=False):
        gr.Markdown(
            "Both write the same text with the decoder alone; multi-token decoding drafts several "
            "tokens ahead and needs fewer passes. (The transcript above comes from the model's "
            "best decoding, which may be another one.)"
        )
        start = gr.Button("Compare", elem_id="compare-start")
        shown = gr.HTML(elem_id="compare-result")

    def compare(path: str | None) -> str:
        if path is None:
            return problem("Choose a file or record something first")
        try:
            return _compared(comparison.run(Path(path)))
        except StepAudioError as error:
            return problem(named(error, path))

    start.click(compare, [audio], [shown], api_visibility="private")


def _compared(comparison: Comparison) -> str:
    cells = "".join(
        f"<tr><td>{run.name}</td><td>{run.transcript.stats.passes}</td>"
        f"<td>{run.transcript.stats.tokens}</td><td>{run.tokens_per_pass:.2f}</td>"
        f"<td>{1000 * run.transcript.stats.decode_s:.0f} ms</td>"
        f"<td>{1000 * run.transcript.stats.total_s:.0f} ms</td>"
        f"<td>{html.escape(run.transcript.text) or '<i>no speech</i>'}</td></tr>"
        for run in comparison.runs
    )
    heads = ("Decoding", "Passes", "Tokens", "Tokens a pass", "In passes", "In all", "Transcript")
    titles = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        '<div class="sa-scroll"><table class="sa-table"><thead><tr>'
        f"{titles}</tr></thead><tbody>{cells}</tbody></table></div>{_verdict(comparison)}"
    )


def _verdict(comparison: Comparison) -> str:
    if comparison.note:
        return problem(comparison.note)
    greedy, drafted = (run.transcript for run in comparison.runs)
    if not drafted.stats.passes or not drafted.stats.decode_s:
        return note("There was nothing to decode.")
    same = "the same text" if greedy.text == drafted.text else "different texts"
    passes = greedy.stats.passes / drafted.stats.passes
    times = greedy.stats.decode_s / drafted.stats.decode_s
    return note(
        f"Multi-token decoding: {same}, {passes:.2f} times fewer passes, {times:.2f} times as "
        "fast in them (one run each)."
    )
