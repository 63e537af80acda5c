"""Messages of clients that are wrong in every way that can be thought of; the same for a seed."""

from __future__ import annotations

import json
from copy import deepcopy
from random import Random
from typing import Any

from stepaudio_streaming.protocol.client_events import _EVENTS

_ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
_GOOD: tuple[dict[str, Any], ...] = (
    {"type": "session.update", "session": {"type": "realtime", "instructions": "be brief"}},
    {
        "type": "session.update",
        "session": {
            "type": "realtime",
            "audio": {"input": {"turn_detection": {"type": "semantic_vad"}, "transcription": None}},
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        },
    },
    {"type": "input_audio_buffer.append", "audio": "AAAA" * 160},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "conversation.item.create", "item": _ITEM, "event_id": "e1"},
    {"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 5},
    {"type": "conversation.item.delete", "item_id": "x"},
    {"type": "response.create", "response": {"conversation": "none", "metadata": {"a": "b"}}},
    {"type": "response.cancel", "response_id": "r"},
    {"type": "output_audio_buffer.clear"},
)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, 2**63, 10**40, "", "x", "A" * 5000, "\ud800", "\x00",
    "é😀", [], {}, [[]], {"": None}, [1, "a", None], "root", "null", "inf", "audio/pcm", "realtime",
)  # fmt: skip
_RAW: tuple[str | bytes, ...] = (
    "", " ", "null", "[]", "0", '"', "{}", "{", "}{", "\x00", "NaN", '{"type":}', "[" * 3000,
    '{"a":' * 3000, '{"type": "response.create", "type": 5}', b"", b"\x00\xff", b'{"type": "x"}',
    '{"type": "session.update", "session": ' + "9" * 5000 + "}",
)  # fmt: skip


class MessageFuzzer:
    """Draws messages.

    Args:
        seed: of all chance.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def batch(self, number: int) -> list[str | bytes]:
        """So many messages."""
        return [self.message() for _ in range(number)]

    def message(self) -> str | bytes:
        """One message: right, damaged, of wrong types, or no message at all."""
        kind = self._random.choices(("good", "fields", "bytes", "raw", "unknown"), (2, 5, 2, 2, 1))[
            0
        ]
        if kind == "raw":
            return self._random.choice(_RAW)
        if kind == "unknown":
            name = self._random.choice(("session.updat", "response.audio.delta", "a.b", "é" * 300))
            return json.dumps({"type": name, "x": self._random.choice(_VALUES)})
        event = json.loads(json.dumps(self._random.choice(_GOOD)))
        if kind == "fields":
            for _ in range(self._random.randint(1, 3)):
                self._damage(event)
        text = json.dumps(event)
        return self._cut(text) if kind == "bytes" else text

    def _damage(self, value: Any) -> None:
        """Change, add or remove something, at any depth."""
        random = self._random
        while True:
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            if not keys:
                return
            key = random.choice(keys)
            inner = value[key]
            if isinstance(inner, dict | list) and random.random() < 0.7:
                value = inner
                continue
            break
        action, new = random.random(), deepcopy(random.choice(_VALUES))
        if action < 0.6:
            value[key] = new
        elif action < 0.8 and isinstance(value, dict):
            value[random.choice(("", "extra", "type", "id", "é", "A" * 600))] = new
        elif action < 0.9 and key == "type":
            value[key] = random.choice(sorted(_EVENTS))
        elif isinstance(value, dict):
            del value[key]

    def _cut(self, text: str) -> str:
        """Damage the text itself."""
        random = self._random
        letters = list(text)
        for _ in range(random.randint(1, 4)):
            position = random.randrange(len(letters))
            action = random.random()
            if action < 0.4:
                letters[position] = chr(random.randrange(1, 0x250))
            elif action < 0.7 and len(letters) > 1:
                del letters[position]
            elif action < 0.9:
                letters.insert(position, random.choice('{}[]",:0\\'))
            else:
                letters = letters[: position + 1]
        return "".join(letters)
