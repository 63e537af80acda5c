"""A running `stepaudio-serve` as a backend: a client of its HTTP endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from stepaudio.errors import CapacityError, ConfigError, RequestError, StepAudioError
from stepaudio.tasks.transcript import Segment, Transcript, Word
from stepaudio_webui.backend import (
    BackendStatus,
    Samples,
    SpeakRequest,
    SpeechReport,
    TranscribeOptions,
)

if TYPE_CHECKING:
    from stepaudio.tasks.step_audio import StepAudio

_QUICK_S = 3.0  # what a server that lives needs to say so
_MODES = ("asr", "chat", "voice_chat", "tools")


class ServerBackend:
    """See `Backend`.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``; a path below it is kept.
        key: its API key, which never leaves this process.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"--server {url}: expected an address such as http://127.0.0.1:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=self.url, headers=self.headers, timeout=None)

    @property
    def realtime_url(self) -> str:
        """Address of its realtime sessions."""
        return "ws" + self.url.removeprefix("http") + "/v1/realtime"

    def status(self) -> BackendStatus:
        """See `Backend`."""
        unknown = BackendStatus(state="failed", model="", place=self.url, chat="failed")
        try:
            models = self._json(self._client.get("/v1/models", timeout=_QUICK_S))["data"]
            model, voices = str(models[0]["id"]), tuple(models[0].get("voices", ()))
        except StepAudioError as error:
            return _failed(unknown, str(error))
        except httpx.HTTPError as error:
            return _failed(unknown, self._gone(error))
        except (KeyError, IndexError, TypeError):
            return _failed(unknown, f"{self.url} is no stepaudio-serve: it lists no models.")
        return BackendStatus(
            state="ready",
            model=model,
            place=self.url,
            modes=(*_MODES, "tts") if voices else _MODES,
            voices=voices,
            chat="ready",
        )

    def wait_ready(self) -> BackendStatus:
        """See `Backend`."""
        status = self.status()
        if status.state == "failed":
            raise StepAudioError(status.problem)
        return status

    def transcribe(self, path: Path, options: TranscribeOptions) -> Transcript:
        """See `Backend`."""
        fields: dict[str, Any] = {
            "model": self.wait_ready().model,
            "response_format": "verbose_json",
            "timestamp_granularities[]": ["word", "segment"],
        }
        if options.keywords:
            fields["keywords[]"] = list(options.keywords)
        try:
            with path.open("rb") as file:
                answer = self._client.post(
                    "/v1/audio/transcriptions", data=fields, files={"file": (path.name, file)}
                )
        except httpx.HTTPError as error:
            raise StepAudioError(self._gone(error)) from error
        return _transcript(self._json(answer))

    def speak(self, request: SpeakRequest, report: SpeechReport | None = None) -> Iterator[Samples]:
        """See `Backend`; the server reports nothing."""
        status = self.wait_ready()
        body = {
            "model": status.model,
            "input": request.text,
            "voice": request.voice or (status.voices[0] if status.voices else ""),
            "instructions": request.instruction,
            "speed": request.speed,
            "seed": request.seed,
            "response_format": "pcm",
        }
        try:
            with self._client.stream("POST", "/v1/audio/speech", json=body) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    self._json(answer)
                rest = b""
                for piece in answer.iter_bytes():
                    data = rest + piece
                    whole = len(data) // 2 * 2
                    rest = data[whole:]
                    if whole:
                        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / np.float32(
                            32768
                        )
        except httpx.HTTPError as error:
            raise StepAudioError(self._gone(error)) from error

    @contextmanager
    def local_model(self) -> Iterator[StepAudio]:
        """See `Backend`."""
        raise ConfigError(
            f"This needs the model on this computer, but it runs at {self.url}: start "
            "stepaudio-webui without --server."
        )
        yield

    def _json(self, answer: httpx.Response) -> Any:
        """Body of an answer.

        Raises:
            StepAudioError: the server refuses, or has failed.
        """
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.is_success and body is not None:
            return body
        message = ""
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            message = str(body["error"].get("message", ""))
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise RequestError(
                f"{self.url} wants another key: give the file that has it with --api-key-file."
            )
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise CapacityError(f"{self.url} is busy: {message or 'try again in a moment'}")
        raise StepAudioError(message or f"{self.url} answered with status {answer.status_code}.")

    def _gone(self, error: httpx.HTTPError) -> str:
        cause = str(error) or type(error).__name__
        return (
            f"The server {self.url} does not answer ({cause}). Start it with `stepaudio-serve`, "
            "then try again."
        )


def _failed(status: BackendStatus, problem: str) -> BackendStatus:
    return BackendStatus(
        state="failed",
        model=status.model,
        place=status.place,
        problem=problem,
        chat="failed",
        chat_problem=problem,
    )


def _transcript(body: Any) -> Transcript:
    words = [
        Word(str(word["word"]).strip(), float(word["start"]), float(word["end"]), 1.0)
        for word in body.get("words", ())
    ]
    segments = []
    for part in body.get("segments", ()):
        start, end = float(part["start"]), float(part["end"])
        inside = tuple(word for word in words if start <= word.start < end)
        segments.append(Segment(start, end, str(part["text"]).strip(), inside))
    return Transcript(str(body["text"]), tuple(segments), float(body.get("duration", 0.0)))
