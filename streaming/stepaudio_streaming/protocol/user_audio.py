"""What the user says: buffered, committed as items of the conversation, written down."""

from __future__ import annotations

from stepaudio_streaming.audio import WireFormat, decode_base64
from stepaudio_streaming.events import (
    INPUT_RATE,
    AppendAudio,
    ClearAudio,
    CommitAudio,
    UserTranscript,
)
from stepaudio_streaming.protocol.conversation import Conversation
from stepaudio_streaming.protocol.input_buffer import InputBuffer
from stepaudio_streaming.protocol.items import Content, Item
from stepaudio_streaming.protocol.outbox import Outbox

_PREROLL_MS = 10_000  # kept while nobody speaks, for a detector that is late
_MAX_PIECE = INPUT_RATE  # the engine takes turns between sessions after each command


class UserAudio:
    """Input side of a session.

    Args:
        wire: format of the client's audio.
        conversation: that of the session.
        outbox: where events and commands go.
        max_s: audio that the buffer holds at most.
    """

    def __init__(
        self, wire: WireFormat, conversation: Conversation, outbox: Outbox, *, max_s: float
    ) -> None:
        self.buffer = InputBuffer(wire, max_s=max_s)
        self._conversation = conversation
        self._out = outbox
        self._turn: tuple[str, int] | None = None  # item of the turn that goes on, and its start
        self._untranscribed: dict[str, float] = {}  # item to duration in ms

    @property
    def is_speaking(self) -> bool:
        """The user was heard to begin, and not yet to end."""
        return self._turn is not None

    def append(self, audio: str, *, detects_turns: bool) -> None:
        """Base64 audio arrives.

        Raises:
            RequestError: it is no base64, too much at once, or the buffer is full.
        """
        data = decode_base64(audio, param="audio")
        samples = self.buffer.append(data, rolling=detects_turns)
        if detects_turns and self._turn is None:
            self.buffer.drop_before(self.buffer.clock_ms - _PREROLL_MS)
        for start in range(0, len(samples), _MAX_PIECE):
            self._out.command(AppendAudio(samples[start : start + _MAX_PIECE]))

    def clear(self) -> None:
        """The client wants what it has appended forgotten."""
        self.buffer.clear()
        self._turn = None
        self._out.say("input_audio_buffer.cleared")
        self._out.command(ClearAudio())

    def forget_turn(self) -> None:
        """Turns are not detected any more."""
        self._turn = None

    def commit(self, *, transcribe: bool) -> None:
        """The client ends a turn.

        Raises:
            RequestError: there is less than 100 ms of audio.
        """
        self.buffer.require_commit()
        item_id = self._turn[0] if self._turn else self._out.new_id("item")
        self._turn = None
        self._commit(item_id, self.buffer.take_all(), None, transcribe)

    def start_turn(self, start_ms: int) -> None:
        """The engine hears the user begin."""
        self._turn = (self._out.new_id("item"), start_ms)
        self._out.say(
            "input_audio_buffer.speech_started", item_id=self._turn[0], audio_start_ms=start_ms
        )

    def end_turn(self, end_ms: int, *, transcribe: bool) -> bool:
        """The engine hears the user end; False: that turn was committed or cleared before.

        Raises:
            RequestError: the conversation has too many items.
        """
        if self._turn is None:
            return False
        (item_id, start_ms), self._turn = self._turn, None
        self._out.say("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=end_ms)
        self._commit(item_id, self.buffer.take(start_ms, end_ms), end_ms, transcribe)
        return True

    def time_out(self, start_ms: int) -> None:
        """The user has said nothing since `start_ms`: that is a turn too.

        Raises:
            RequestError: the conversation has too many items.
        """
        item_id = self._out.new_id("item")
        self._out.say(
            "input_audio_buffer.timeout_triggered",
            item_id=item_id,
            audio_start_ms=start_ms,
            audio_end_ms=self.buffer.clock_ms,
        )
        self.buffer.clear()
        self._commit(item_id, b"", None, False)

    def hear_transcript(self, event: UserTranscript) -> None:
        """The engine has written down more of an item."""
        length_ms = self._untranscribed.get(event.item_id)
        if length_ms is None:
            return
        head = {"item_id": event.item_id, "content_index": 0}
        prefix = "conversation.item.input_audio_transcription."
        if event.error is None and not event.final:
            if event.text:
                self._out.say(f"{prefix}delta", **head, delta=event.text)
            return
        del self._untranscribed[event.item_id]
        if event.error is not None:
            error = {
                "type": "server_error",
                "code": "transcription_failed",
                "message": event.error,
            }
            self._out.say(f"{prefix}failed", **head, error=error)
            return
        item = self._conversation.get(event.item_id)
        if item is not None:
            # Before the event: clients retrieve the item as soon as they see it.
            item.content[0].transcript = event.text
        usage = {"type": "duration", "seconds": round(length_ms / 1000, 3)}
        self._out.say(f"{prefix}completed", **head, transcript=event.text, usage=usage)

    def _commit(self, item_id: str, audio: bytes, end_ms: int | None, transcribe: bool) -> None:
        length_ms = self.buffer.duration_ms(audio)
        content = Content("input_audio", audio=audio, audio_ms=length_ms)
        item = Item(item_id, "message", role="user", content=[content])
        self._conversation.check_new(item_id, None)
        self._out.say(
            "input_audio_buffer.committed",
            previous_item_id=self._conversation.last_id,
            item_id=item_id,
        )
        previous = self._conversation.insert(item)
        for stage in ("added", "done"):
            self._out.say(f"conversation.item.{stage}", previous_item_id=previous, item=item.wire())
        self._out.command(CommitAudio(item_id, end_ms))
        if transcribe and audio:
            self._untranscribed[item_id] = length_ms
