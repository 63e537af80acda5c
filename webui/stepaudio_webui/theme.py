"""Look of the page: fonts of the system (no network), calm colours, light and dark."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

STATIC = Path(__file__).parent / "static"
# Absolute: the page is the root of its origin.
STATIC_URL = "/voice/static"

_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "monospace")

HEAD = f"""\
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{STATIC_URL}/page.css">
<link rel="stylesheet" href="{STATIC_URL}/voice.css">
<link rel="stylesheet" href="{STATIC_URL}/tabs.css">
<link rel="stylesheet" href="{STATIC_URL}/inspect.css">
<script type="module" src="{STATIC_URL}/page.js"></script>
<script type="module" src="{STATIC_URL}/voice.js"></script>
"""


def page_theme() -> gr.Theme:
    """Theme of all Gradio components; the style sheets use its variables."""
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=_SANS,
        font_mono=_MONO,
    ).set(
        body_background_fill="#f6f8f9",
        body_background_fill_dark="#0d1317",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#151d23",
        background_fill_secondary="#f0f3f5",
        background_fill_secondary_dark="#1b252c",
        block_background_fill="#ffffff",
        block_background_fill_dark="#151d23",
        border_color_primary="#dde4e8",
        border_color_primary_dark="#2a3740",
        body_text_color="#17212b",
        body_text_color_dark="#e6edf1",
        body_text_color_subdued="#5a6b78",
        body_text_color_subdued_dark="#9aabb7",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_dark="#14b8a6",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_hover_dark="#2dd4bf",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#04211e",
        block_label_text_weight="600",
        block_title_text_weight="600",
    )
