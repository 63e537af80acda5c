"""Speech on its way to the browser that asked for it, piece by piece while it is made.

Gradio's own audio streams begin seconds late (HLS); here the page fetches each piece as soon as it
is there, and `static/audio.js` plays them without gaps.
"""

from __future__ import annotations

import base64
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stepaudio_webui.backend import Samples

_MOST_RUNS = 32
_WAIT_S = 5.0


@dataclass
class _Run:
    changed: threading.Condition = field(default_factory=threading.Condition)
    pieces: list[bytes] = field(default_factory=list)  # that were not fetched yet
    has_ended: bool = False


class LiveSpeech:
    """Runs of speech under names that nobody can guess; each has one listener."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def open(self) -> str:
        """Begin a run; the oldest one goes if there are too many, its page was closed."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._runs[name] = _Run()
            while len(self._runs) > _MOST_RUNS:
                self._runs.popitem(last=False)
        return name

    def push(self, name: str, samples: Samples) -> None:
        """Add a piece, float32 [samples]."""
        run = self._find(name)
        if run is None:
            return
        with run.changed:
            run.pieces.append(_pcm(samples))
            run.changed.notify_all()

    def end(self, name: str) -> None:
        """No piece follows."""
        run = self._find(name)
        if run is None:
            return
        with run.changed:
            run.has_ended = True
            run.changed.notify_all()

    def fetch(self, wish: Mapping[str, Any], *, wait_s: float = _WAIT_S) -> dict[str, Any]:
        """Give the browser what it does not have yet; waits a while if there is nothing.

        Args:
            wish: `run`, name of a run.
            wait_s: how long.

        Returns:
            `pcm`, 16-bit samples in base64; `ended`, whether nothing follows.
        """
        name = str(wish.get("run", ""))
        run = self._find(name)
        if run is None:
            return {"pcm": "", "ended": True}
        with run.changed:
            run.changed.wait_for(lambda: run.pieces or run.has_ended, wait_s)
            data, has_ended = b"".join(run.pieces), run.has_ended
            run.pieces.clear()
        if has_ended:
            with self._lock:
                self._runs.pop(name, None)
        return {"pcm": base64.b64encode(data).decode("ascii"), "ended": has_ended}

    def _find(self, name: str) -> _Run | None:
        with self._lock:
            return self._runs.get(name)


def _pcm(samples: Samples) -> bytes:
    return (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
