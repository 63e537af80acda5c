"""Headless Chromium and pages to look at; the real nano and a scripted model behind them.

Pictures of the page are kept where STEPAUDIO_SCREENSHOTS says, such as docs/webui.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the web demo needs gradio: pip install 'stepaudio[webui]'")
pytest.importorskip("playwright", reason="tests of the web demo need playwright")

from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from stepaudio_streaming.server.gateway import Gateway
from stepaudio_streaming.server.options import ServerOptions
from stepaudio_webui.local_backend import LocalBackend
from tests.webui.site import CHROMIUM_FLAGS, PATIENCE_S, Site, showing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

BrowserFactory = Callable[..., Browser]


# Playwright's loop runs in this thread while it is open, and no other can: not longer than one
# file, as tests of other folders may come next. (Without __init__.py a package is the session.)
@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    if CHROMIUM is None:
        pytest.skip("tests of the web demo need Debian's chromium: apt-get install chromium")
    with sync_playwright() as opened:
        yield opened


@pytest.fixture(scope="module")
def launch(playwright: Playwright) -> Iterator[BrowserFactory]:
    """Start a browser: with a recording for a microphone, or with one that is refused."""
    browsers: dict[tuple[Path | None, bool], Browser] = {}

    def start(microphone: Path | None = None, *, refused: bool = False) -> Browser:
        key = microphone, refused
        if key not in browsers:
            flags = [*CHROMIUM_FLAGS]
            flags.append(
                "--deny-permission-prompts" if refused else "--use-fake-ui-for-media-stream"
            )
            if microphone is not None:
                flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
            browsers[key] = playwright.chromium.launch(
                executable_path=CHROMIUM, args=flags, timeout=1000 * PATIENCE_S
            )
        return browsers[key]

    yield start
    for browser in browsers.values():
        browser.close()


@pytest.fixture
def context(launch: BrowserFactory) -> Iterator[BrowserContext]:
    opened = launch().new_context(viewport={"width": 1180, "height": 860})
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """An empty page of a browser with a silent microphone."""
    return context.new_page()


@pytest.fixture(scope="session")
def nano() -> Iterator[LocalBackend]:
    """The real model; it is loaded while the first page is shown."""
    backend = LocalBackend("nano", device="cpu")
    backend.start()
    yield backend
    backend.stop()


@pytest.fixture(scope="session")
def nano_site(nano: LocalBackend) -> Iterator[Site]:
    """The whole page over the real model."""
    gateway = Gateway(nano.engine, ServerOptions())
    with showing(nano, gateway.serve) as site:
        yield site


@pytest.fixture(scope="session")
def pictures() -> Path | None:
    """Where screenshots go; None: they are not wanted."""
    folder = os.environ.get("STEPAUDIO_SCREENSHOTS")
    return Path(folder) if folder else None
