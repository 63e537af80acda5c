"""Tab "Inspect": what happened inside, as pictures."""

from __future__ import annotations

import gradio as gr

from stepaudio_webui.backend import Backend


def build(backend: Backend) -> None:
    """Build the tab."""
    gr.Audio(sources=["upload", "microphone"], type="filepath", label="Recording")
