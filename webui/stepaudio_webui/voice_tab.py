"""Tab "Voice chat": a live conversation, which runs in the browser (`static/voice.js`)."""

from __future__ import annotations

import gradio as gr

from stepaudio_webui.backend import Backend


def build(backend: Backend) -> None:
    """Build the tab; the element asks `voice_api` for what it needs to know of the backend."""
    gr.HTML("<stepaudio-voice></stepaudio-voice>", apply_default_css=False, padding=False)
