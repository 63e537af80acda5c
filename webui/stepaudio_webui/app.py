"""The page: its head and its tabs."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from stepaudio_webui import inspect_tab, speak_tab, transcribe_tab, voice_tab
from stepaudio_webui.backend import Backend
from stepaudio_webui.theme import HEAD, page_theme

_MAX_FILE = "1gb"


def build_app(backend: Backend, preferences: Path | None = None) -> gr.Blocks:
    """Build the page.

    Args:
        backend: the model behind it.
        preferences: folder for decisions between takes; None: among the user's own data.
    """
    with gr.Blocks(title="stepaudio", analytics_enabled=False) as blocks:
        gr.HTML("<stepaudio-head></stepaudio-head>", apply_default_css=False, padding=False)
        with gr.Tabs():
            with gr.Tab("Voice chat"):
                voice_tab.build(backend)
            with gr.Tab("Transcribe"):
                transcribe_tab.build(backend)
            with gr.Tab("Speak"):
                speak_tab.build(backend, preferences)
            with gr.Tab("Inspect"):
                inspect_tab.build(backend)
    return blocks


def mount_app(site: FastAPI, blocks: gr.Blocks) -> None:
    """Make the page the root of a site; what the site has already goes first."""
    gr.mount_gradio_app(
        site,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=_MAX_FILE,
        ssr_mode=False,
        theme=page_theme(),
        head=HEAD,
    )
