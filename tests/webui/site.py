"""A page that runs, and browsers that look at it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Page

from stepaudio.errors import ConfigError
from stepaudio_streaming.server.gateway import Gateway
from stepaudio_streaming.server.options import ServerOptions
from stepaudio_streaming.server.run import Address, listen
from stepaudio_webui.backend import Backend, BackendStatus
from stepaudio_webui.serve import ServeSession, build_site, page_config
from tests.streaming.scripted_engine import ScriptedEngine

OPENING_S, PATIENCE_S = 60.0, 120.0  # only a test that fails waits so long
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--disable-gpu",
)
TALK = "document.querySelector('stepaudio-voice').conversation"


@dataclass
class Site:
    """A page that is shown.

    Attributes:
        url: of the page.
        server: behind it.
        thread: in which it runs.
    """

    url: str
    server: uvicorn.Server
    thread: threading.Thread

    def stop(self) -> None:
        """End it."""
        self.server.should_exit = True
        self.thread.join(PATIENCE_S)


@contextmanager
def showing(backend: Backend, serve_session: ServeSession) -> Iterator[Site]:
    """Show a page as long as the block."""
    address = Address(port=0)
    listener = listen(address)
    port = listener.getsockname()[1]
    site = build_site(backend, serve_session)
    server = uvicorn.Server(page_config(site, ServerOptions(), address))
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True
    )
    thread.start()
    shown = Site(f"http://127.0.0.1:{port}", server, thread)
    try:
        yield shown
    finally:
        shown.stop()


class ScriptedBackend:
    """A model whose conversations are scripted; it has nothing for the other tabs."""

    def __init__(self, **facts: Any) -> None:
        self.engine = ScriptedEngine()
        self.facts: dict[str, Any] = {
            "state": "ready",
            "chat": "ready",
            "model": "nano",
            "place": "this computer",
            "modes": ("asr", "tts", "voice_chat"),
            "voices": self.engine.info.voices,
        } | facts

    def status(self) -> BackendStatus:
        return BackendStatus(**self.facts)

    def local_model(self) -> Any:
        raise ConfigError("the model is not on this computer")

    @contextmanager
    def showing(self) -> Iterator[Site]:
        gateway = Gateway(self.engine, ServerOptions())
        with showing(self, gateway.serve) as site:  # type: ignore[arg-type]
            yield site


def open_page(page: Page, site: Site, shows: str) -> None:
    """Open a site and wait for what a selector finds.

    Chromium is a session of its own to Linux, not the one of the tests: beside work in a session
    that was given preference (/proc/PID/autogroup) it gets no processor, and this fails.
    """
    page.goto(site.url, timeout=OPENING_S * 1000)
    page.wait_for_selector(shows, timeout=OPENING_S * 1000)


class VoicePage:
    """The tab "Voice chat" in one browser."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE_S * 1000)
        open_page(page, site, "stepaudio-voice .state")

    def when(self, condition: str) -> None:
        """Wait for a condition about the conversation `talk`."""
        self.page.wait_for_function(f"() => {{ const talk = {TALK}; return {condition}; }}")

    def ask(self, expression: str) -> Any:
        """What an expression about the conversation `talk` is now."""
        return self.page.evaluate(f"() => {{ const talk = {TALK}; return {expression}; }}")

    def turns(self) -> list[dict[str, Any]]:
        """The history, with the seconds of the sound that came instead of the sound."""
        return self.ask(
            "talk.turns.all.map((turn) => ({...turn,"
            " pcm: turn.pcm.reduce((sum, piece) => sum + piece.length, 0) / 24000}))"
        )

    def say(self, text: str) -> None:
        """Type a message."""
        self.page.fill("stepaudio-voice [name=text]", text)
        self.page.click("stepaudio-voice .composer .primary")

    def press(self, name: str) -> None:
        """Press a button."""
        self.page.get_by_role("button", name=name, exact=True).click()

    @property
    def problem(self) -> str:
        """What the page complains about, when it does."""
        self.page.wait_for_selector("stepaudio-voice .problem:not([hidden])")
        return self.page.inner_text("stepaudio-voice .problem p")


def screenshot(page: Page, folder: Path | None, name: str) -> None:
    """Take a picture of what is shown, if pictures are wanted."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        time.sleep(0.3)  # transitions
        page.screenshot(path=folder / f"{name}.png")
