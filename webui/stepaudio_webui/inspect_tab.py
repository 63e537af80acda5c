"""Tab "Inspect": what happened inside, as pictures."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from stepaudio.errors import StepAudioError
from stepaudio_webui.backend import Backend
from stepaudio_webui.notices import named, note, problem

_HINT = note(
    "Give a recording or a text: you see the spectrogram, the audio tokens, the order of text and "
    "audio tokens, and the time of every stage."
)


def build(backend: Backend) -> None:
    """Build the tab."""
    with gr.Row():
        with gr.Column(min_width=280):
            audio = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Recording, up to 25 s",
                elem_id="inspect-audio",
            )
            hear = gr.Button("Inspect what is heard", variant="primary")
        with gr.Column(min_width=280):
            text = gr.Textbox(
                label="Text", lines=3, max_length=1000, value="It is ten past nine.",
                elem_id="inspect-text",
            )  # fmt: skip
            speak = gr.Button("Inspect how it is spoken", variant="primary")
    shown = gr.HTML(_HINT, elem_id="inspect-result", apply_default_css=False)
    hear.click(lambda path: _hear(backend, path), audio, shown)
    gr.on([speak.click, text.submit], lambda written: _speak(backend, written), text, shown)


def _hear(backend: Backend, path: str | None) -> str:
    if not path:
        return problem("There is no recording: upload one, or record one with the microphone.")
    from stepaudio_webui.inspection import inspect_hearing
    from stepaudio_webui.pictures import render

    try:
        with backend.local_model() as model:
            run = inspect_hearing(model, Path(path))
    except StepAudioError as error:
        return problem(named(error, path))
    return render(run)


def _speak(backend: Backend, text: str) -> str:
    if not text.strip():
        return problem("There is no text: write something to speak.")
    from stepaudio_webui.inspection import inspect_speaking
    from stepaudio_webui.pictures import render

    try:
        with backend.local_model() as model:
            run = inspect_speaking(model, text, "")
    except StepAudioError as error:
        return problem(str(error))
    return render(run)
