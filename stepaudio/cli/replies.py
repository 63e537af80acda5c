"""An answer of a model on standard output: text, or one JSON object a line."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from stepaudio.audio.frames import CODES_PER_SECOND
from stepaudio.tasks.reply import Reply


def render_reply(reply: Reply, *, as_json: bool, **about: Any) -> str:
    """One answer.

    Args:
        reply: what was answered.
        as_json: one JSON object on one line instead of text.
        **about: further entries of the object, such as the file; None is left out. Text names
            `out`, the file with the sound, instead of the codes, and what was `heard`.
    """
    if not as_json:
        return _as_text(reply, about.get("out"), about.get("heard"))
    values = {name: value for name, value in about.items() if value is not None}
    values |= reply_values(reply)
    return json.dumps(values, ensure_ascii=False) + "\n"


def reply_values(reply: Reply) -> dict[str, Any]:
    """An answer as JSON values."""
    stats = reply.stats
    return {
        "reply": reply.mode,
        "text": reply.text,
        "text_ids": list(reply.text_ids),
        "audio_codes": list(reply.codes),
        "ids": list(reply.ids),
        "thought": reply.thought,
        "tool_calls": [
            {"name": call.name, "arguments": dict(call.arguments)} for call in reply.tool_calls
        ],
        "tool_error": reply.tool_error,
        "finish_reason": reply.finish_reason,
        "stats": {
            **dataclasses.asdict(stats),
            "total_s": stats.total_s,
            "rtf": stats.rtf,
            "ms_per_pass": stats.ms_per_pass,
        },
    }


def _as_text(reply: Reply, out: str | None, heard: str | None) -> str:
    lines = [] if heard is None else [f"[heard: {heard}]"]
    lines += [reply.text] if reply.text else []
    for call in reply.tool_calls:
        lines.append(f"[calls {call.name} {json.dumps(dict(call.arguments), ensure_ascii=False)}]")
    if reply.tool_error is not None:
        lines.append(f"[unreadable tool call: {reply.tool_error}]")
    if reply.mode == "speech":
        seconds = len(reply.codes) / CODES_PER_SECOND
        where = f"{len(reply.codes)} audio codes, see --json" if out is None else out
        lines.append(f"[{seconds:.2f} s of speech: {where}]")
    return "\n".join(lines) + "\n"
