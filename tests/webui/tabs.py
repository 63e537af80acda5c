"""The tabs "Transcribe" and "Speak" in a browser, and a model that answers at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page

from stepaudio.errors import AudioLoadError, ConfigError
from stepaudio.tasks.transcript import Segment, Transcript, Word
from stepaudio_streaming.server.gateway import Gateway
from stepaudio_streaming.server.options import ServerOptions
from stepaudio_webui.backend import (
    OUTPUT_RATE,
    BackendStatus,
    Samples,
    SpeakRequest,
    SpeechReport,
    TranscribeOptions,
)
from tests.streaming.scripted_engine import ScriptedEngine
from tests.webui.site import Site, open_page, showing

PIECE = OUTPUT_RATE // 5
PATIENCE_S = 240.0  # only a test that fails waits so long


class ToneBackend:
    """Hears two words in everything, and says every word as a fifth of a second of a tone.

    Attributes:
        asked: what it was asked to write down, and how.
        pause_s: between two pieces of speech, and for every recording.
    """

    def __init__(self, pause_s: float = 0.0) -> None:
        self.asked: list[tuple[str, TranscribeOptions]] = []
        self.pause_s = pause_s

    def status(self) -> BackendStatus:
        return BackendStatus(
            state="ready",
            model="tones",
            place="this computer",
            modes=("asr", "tts"),
            voices=("high", "low"),
            chat="ready",
        )

    def wait_ready(self) -> BackendStatus:
        return self.status()

    def transcribe(self, path: Path, options: TranscribeOptions) -> Transcript:
        self.asked.append((path.name, options))
        time.sleep(self.pause_s)
        if path.name.startswith("bad"):
            raise AudioLoadError(f"{path}: not audio in any format that can be decoded")
        words = (Word("<b>one", 0.1, 0.4, 0.9), Word("two", 0.5, 0.9, 0.2))
        return Transcript("<b>one two", (Segment(0.1, 0.9, "<b>one two", words),), 1.0)

    def speak(self, request: SpeakRequest, report: SpeechReport | None = None) -> Iterator[Samples]:
        words = request.text.split()
        hz = 300 + 100 * (request.seed % 7)
        times = np.arange(PIECE) / OUTPUT_RATE
        for _ in words:
            time.sleep(self.pause_s)
            yield (0.3 * np.sin(2 * np.pi * hz * times)).astype(np.float32)
        if report is not None:
            report.sentences = tuple((word, (request.seed, 1)) for word in words)
            report.warnings = ("instruction: ignored sadly",) * ("sadly" in request.instruction)

    def local_model(self) -> Any:
        raise ConfigError("tones has no weights")

    @contextmanager
    def showing(self) -> Iterator[Site]:
        gateway = Gateway(ScriptedEngine(), ServerOptions())
        with showing(self, gateway.serve) as site:
            yield site


class Tab:
    """One tab of the page in one browser."""

    def __init__(self, page: Page, site: Site, name: str) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE_S * 1000)
        open_page(page, site, "button[role=tab]")
        page.get_by_role("tab", name=name, exact=True).click()

    def status(self, element: str, kind: str = "note") -> str:
        """What the page says about how it went ("note") or what is wrong ("problem")."""
        return self.page.inner_text(f"#{element} .sa-{kind}")

    def wait_for(self, element: str, text: str) -> str:
        """Wait until an element says something; returns all that it says."""
        self.page.wait_for_function(
            "([id, text]) => document.getElementById(id)?.innerText.includes(text)",
            arg=[element, text],
        )
        return self.page.inner_text(f"#{element}")


class TranscribeTab(Tab):
    """The tab "Transcribe"."""

    def __init__(self, page: Page, site: Site) -> None:
        super().__init__(page, site, "Transcribe")

    def choose(self, file: Path) -> None:
        """Upload a recording, and wait until it is there."""
        self.page.set_input_files("#transcribe-audio input[type=file]", file)
        self.page.wait_for_selector("#transcribe-audio button[aria-label=Clear]")

    def transcribe(self, file: Path) -> None:
        """Upload and transcribe."""
        self.choose(file)
        self.page.click("#transcribe-start")

    def words(self) -> list[str]:
        """The words, once they are there."""
        self.page.wait_for_selector("#transcribe-player .tl-word")
        return self.page.locator("#transcribe-player .tl-word").all_inner_texts()

    def audio(self, expression: str) -> Any:
        """An expression about the recording's `audio` element."""
        script = "document.querySelector('#transcribe-player audio')"
        return self.page.evaluate(f"() => {{ const audio = {script}; return {expression}; }}")

    def download(self, element: str) -> tuple[str, bytes]:
        """Name and content of a file."""
        with self.page.expect_download() as started:
            self.page.click(f"#{element}")
        return started.value.suggested_filename, Path(started.value.path()).read_bytes()

    def choose_many(self, files: Sequence[Path]) -> None:
        """Upload recordings to the list."""
        self.page.get_by_role("tab", name="Many recordings").click()
        self.page.set_input_files("#batch-files input[type=file]", files)
        self.wait_for("batch-files", files[-1].name.split(".")[0])


class SpeakTab(Tab):
    """The tab "Speak"."""

    def __init__(self, page: Page, site: Site) -> None:
        super().__init__(page, site, "Speak")

    def write(self, text: str) -> None:
        """Fill in the text."""
        self.page.fill("#speak-text textarea", text)

    def heard(self) -> dict[str, str]:
        """What the loudspeaker has played, once it has played everything."""
        self.page.wait_for_selector("#speak-stream .sp[data-state=done]")
        return self.page.evaluate(
            "() => ({...document.querySelector('#speak-stream .sp').dataset})"
        )

    def make_takes(self) -> None:
        """Make two takes, and wait until they can be judged."""
        self.page.click("#takes-start")
        self.page.wait_for_selector("#prefer-a:not([disabled])")
