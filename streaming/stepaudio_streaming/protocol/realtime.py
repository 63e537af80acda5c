"""A realtime session: client events and engine events go in, server events and commands come out.

No input or output happens here and no clock is read: every call is told the time, and everything
it brings about is returned. `deadline` says when to call `tick`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepaudio.errors import RequestError
from stepaudio_streaming.events import (
    Configure,
    ContextItem,
    Event,
    InsertItem,
    Output,
    OutputHeld,
    RemoveItem,
    SpeechStarted,
    SpeechStopped,
    TruncateItem,
    UserTranscript,
)
from stepaudio_streaming.protocol import client_events as wire
from stepaudio_streaming.protocol.conversation import Conversation
from stepaudio_streaming.protocol.ids import NewId, random_id
from stepaudio_streaming.protocol.items import parse_item
from stepaudio_streaming.protocol.outbox import Outbox
from stepaudio_streaming.protocol.response_config import (
    ResponsePlan,
    engine_settings,
    plan_response,
)
from stepaudio_streaming.protocol.responses import Responses
from stepaudio_streaming.protocol.session_config import (
    RealtimeConfig,
    ServerVad,
    SessionConfig,
    session_object,
    updated_config,
)
from stepaudio_streaming.protocol.user_audio import UserAudio

# Both Agents SDKs ask for every item of the user and take frames of 8 MiB at most.
_MAX_RETRIEVED_BYTES = 5 << 20


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """What the server decides about a session.

    Attributes:
        served: name of the model.
        voices: names of its voices, the default first.
        expires_at: end of the session, seconds since 1970.
        max_buffer_s: audio that may wait for a commit.
        max_kept_bytes: audio of the user that can still be retrieved.
        new_id: makes ids.
    """

    served: str
    voices: tuple[str, ...]
    expires_at: int | None = None
    max_buffer_s: float = 900.0
    max_kept_bytes: int = 32 << 20
    new_id: NewId = random_id


class RealtimeSession:
    """State of one session.

    Args:
        config: its configuration at the beginning.
        options: what the server decides.

    Attributes:
        id: of the session.
        config: its configuration.
        settings: the same for the engine.

    Raises:
        RequestError: the configuration asks for what the model does not have.
    """

    def __init__(self, config: SessionConfig, options: SessionOptions) -> None:
        self.config = config
        self.settings: Configure = engine_settings(config, options.voices)
        self.id = options.new_id("sess")
        self._options = options
        self._out = Outbox(options.new_id)
        self._conversation = Conversation(
            options.new_id("conv"), max_audio_bytes=options.max_kept_bytes
        )
        self._user = UserAudio(
            config.audio.input.format.type,
            self._conversation,
            self._out,
            max_s=options.max_buffer_s,
        )
        self._responses = Responses(self._conversation, self._out)
        self._reply_when_free = False
        self._cuts: dict[str, tuple[int, int]] = {}  # item to content and ms, see `_cut`
        self._idle: tuple[float, int] | None = None  # when to trigger; where the silence began
        self._on_client: Mapping[type[wire.ClientEvent], Callable[[Any, float], None]] = {
            wire.SessionUpdate: self._update,
            wire.AudioAppend: lambda event, now: self._append(event.audio),
            wire.AudioCommit: self._commit,
            wire.AudioClear: lambda event, now: self._user.clear(),
            wire.ItemCreate: self._create_item,
            wire.ItemRetrieve: self._retrieve_item,
            wire.ItemTruncate: self._truncate_item,
            wire.ItemDelete: self._delete_item,
            wire.ResponseCreate: self._create_response,
            wire.ResponseCancel: self._cancel_response,
            wire.OutputAudioClear: lambda event, now: None,
        }

    # ---- entrances ---------------------------------------------------------------------------

    def open(self) -> Outbox:
        """Greet the client; the engine was opened with `settings`."""
        self._out.say("session.created", session=self._session())
        return self._out.drain()

    def receive(self, message: str, now: float) -> Outbox:
        """A text frame of the client; what is wrong with it becomes an error event."""
        event_id = None
        try:
            data = wire.decode_message(message)
            event_id = wire.event_id_of(data)
            audio = wire.plain_audio(data)
            if audio is not None:
                self._append(audio)
            else:
                event = wire.parse_event(data)
                self._on_client[type(event)](event, now)
            self._cut()
        except RequestError as error:
            self._out.refuse(error, event_id)
        return self._out.drain()

    def complain(self, message: str, *, code: str, kind: str = "invalid_request_error") -> Outbox:
        """Tell the client about an error that no event of its own has caused."""
        self._out.error(message, code=code, kind=kind)
        return self._out.drain()

    def hear(self, event: Event, now: float) -> Outbox:
        """An event of the engine; output of responses that are over is dropped."""
        try:
            if isinstance(event, SpeechStarted):
                self._speech_started(event, now)
            elif isinstance(event, SpeechStopped):
                self._speech_stopped(event)
            elif isinstance(event, UserTranscript):
                self._user.hear_transcript(event)
            elif not isinstance(event, OutputHeld):
                self._output(event, now)
            elif event.held:
                self._responses.hold(now)
            else:
                self._release(now)
            self._cut()
        except RequestError as error:
            self._out.refuse(error, None)
        return self._out.drain()

    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        idle_at = None if self._idle is None else self._idle[0]
        times = [time for time in (self._responses.held_until, idle_at) if time is not None]
        return min(times, default=None)

    def tick(self, now: float) -> Outbox:
        """Time has passed."""
        try:
            held_until = self._responses.held_until
            if held_until is not None and now >= held_until:
                self._release(now)
            if self._idle is not None and now >= self._idle[0]:
                self._idle_timeout(self._idle[1])
            self._cut()
        except RequestError as error:
            self._out.refuse(error, None)
        return self._out.drain()

    @property
    def clock_ms(self) -> int:
        """Audio that was ever appended."""
        return self._user.buffer.clock_ms

    @property
    def is_busy(self) -> bool:
        """A response is being made, or the user speaks."""
        return bool(self._responses) or self._user.is_speaking

    # ---- session -----------------------------------------------------------------------------

    def _session(self) -> dict[str, Any]:
        return session_object(self.config, session_id=self.id, expires_at=self._options.expires_at)

    def _update(self, event: wire.SessionUpdate, now: float) -> None:
        options = self._options
        config = updated_config(
            self.config, event.session, served=options.served, voices=options.voices
        )
        settings = engine_settings(config, options.voices)
        if config.type != self.config.type and self._responses:
            raise RequestError(
                "The type of a session cannot be changed while it has an active response.",
                code="invalid_value",
                param="session.type",
            )
        if isinstance(config, RealtimeConfig):
            self._check_voice(settings.reply.voice, "session.audio.output.voice")
        self.config, self.settings = config, settings
        self._user.buffer.change_format(config.audio.input.format.type)
        if config.audio.input.turn_detection is None:
            self._user.forget_turn()
        if self._idle_timeout_ms is None:
            self._idle = None
        self._out.say("session.updated", session=self._session())
        self._out.command(settings)

    def _check_voice(self, voice: str, param: str) -> None:
        last = self._responses.last_spoken
        if last is not None and voice != last.plan.options.voice:
            raise RequestError(
                "Cannot update a conversation's voice if assistant audio is present.",
                code="cannot_update_voice",
                param=param,
            )

    @property
    def _idle_timeout_ms(self) -> int | None:
        detection = self.config.audio.input.turn_detection
        return detection.idle_timeout_ms if isinstance(detection, ServerVad) else None

    # ---- the user's turns --------------------------------------------------------------------

    @property
    def _transcribes(self) -> bool:
        return self.settings.transcription is not None

    def _append(self, audio: str) -> None:
        detects_turns = self.config.audio.input.turn_detection is not None
        self._user.append(audio, detects_turns=detects_turns)

    def _commit(self, event: wire.AudioCommit, now: float) -> None:
        self._user.commit(transcribe=self._transcribes)
        self._idle = None

    def _speech_started(self, event: SpeechStarted, now: float) -> None:
        detection = self.config.audio.input.turn_detection
        if detection is None:
            return
        self._user.start_turn(event.audio_ms)
        self._idle = None
        if detection.interrupt_response:
            self._reply_when_free = False
            self._responses.interrupt(now)
        else:
            self._release(now)

    def _speech_stopped(self, event: SpeechStopped) -> None:
        detection = self.config.audio.input.turn_detection
        if detection is None or not self._user.end_turn(
            event.audio_ms, transcribe=self._transcribes
        ):
            return
        if detection.create_response and isinstance(self.config, RealtimeConfig):
            self._reply_when_free = True
            self._reply_if_free()

    def _idle_timeout(self, silent_from_ms: int) -> None:
        self._idle = None
        self._user.time_out(silent_from_ms)
        self._reply_when_free = True
        self._reply_if_free()

    # ---- conversation ------------------------------------------------------------------------

    def _create_item(self, event: wire.ItemCreate, now: float) -> None:
        audio_format = self._user.buffer.wire
        item = parse_item(event.item, self._out.new_id, audio_format)
        context = item.context(audio_format)
        previous = self._conversation.insert(item, event.previous_item_id)
        for stage in ("added", "done"):
            self._out.say(f"conversation.item.{stage}", previous_item_id=previous, item=item.wire())
        self._out.command(InsertItem(context, previous))

    def _retrieve_item(self, event: wire.ItemRetrieve, now: float) -> None:
        item = self._conversation.require(
            event.item_id, doing="retrieving", code="item_retrieve_invalid_item_id"
        )
        small = item.audio_bytes <= _MAX_RETRIEVED_BYTES
        self._out.say("conversation.item.retrieved", item=item.wire(with_audio=small))

    def _truncate_item(self, event: wire.ItemTruncate, now: float) -> None:
        item_id, index = event.item_id, event.content_index
        end_ms = self._conversation.check_truncation(item_id, index, event.audio_end_ms)
        self._cuts[item_id] = (index, end_ms)
        self._out.say(
            "conversation.item.truncated",
            item_id=item_id,
            content_index=index,
            audio_end_ms=end_ms,
        )

    def _cut(self) -> None:
        """Cut items to what was heard, as soon as nothing more is being added to them.

        Clients truncate first and cancel then: the answer itself ends by that or by itself.
        """
        active = self._responses.active
        for item_id in list(self._cuts):
            if active is not None and item_id == active.item_id:
                continue
            index, end_ms = self._cuts.pop(item_id)
            if item_id in self._conversation:
                self._conversation.truncate(item_id, index, end_ms)
                self._out.command(TruncateItem(item_id, end_ms))

    def _delete_item(self, event: wire.ItemDelete, now: float) -> None:
        self._conversation.remove(event.item_id)
        self._out.say("conversation.item.deleted", item_id=event.item_id)
        self._out.command(RemoveItem(event.item_id))

    # ---- responses ---------------------------------------------------------------------------

    def _realtime_config(self) -> RealtimeConfig:
        if not isinstance(self.config, RealtimeConfig):
            raise RequestError(
                "A transcription session makes no responses.", code="invalid_value", param="type"
            )
        return self.config

    def _create_response(self, event: wire.ResponseCreate, now: float) -> None:
        plan = plan_response(self._realtime_config(), event.response, self._options.voices)
        if plan.in_conversation:
            self._check_voice(plan.options.voice, "response.audio.output.voice")
        self._responses.create(plan, self._context(plan))
        self._idle = None

    def _context(self, plan: ResponsePlan) -> tuple[ContextItem | str, ...] | None:
        """Items that a request names or brings; None: it answers the conversation."""
        if plan.input is None:
            return None
        audio_format = self._user.buffer.wire
        found: list[ContextItem | str] = []
        for index, entry in enumerate(plan.input):
            where = f"response.input[{index}]"
            if entry.get("type") == "item_reference":
                found.append(self._referenced(entry, where))
            else:
                item = parse_item(entry, self._out.new_id, audio_format, where=where)
                found.append(item.context(audio_format))
        return tuple(found)

    def _referenced(self, entry: Mapping[str, Any], where: str) -> str:
        item_id = entry.get("id")
        if entry.keys() != {"type", "id"} or not isinstance(item_id, str):
            raise RequestError(
                f"Invalid value for '{where}': expected type and id.",
                code="invalid_value",
                param=where,
            )
        self._conversation.require(
            item_id, doing="referencing", code="item_reference_invalid_item_id"
        )
        return item_id

    def _cancel_response(self, event: wire.ResponseCancel, now: float) -> None:
        self._responses.cancel(event.response_id, now)
        self._reply_if_free()

    def _reply_if_free(self) -> None:
        """Answer the user's turn, behind the active response if that may not be interrupted."""
        if self._reply_when_free and self._responses.active is None:
            self._reply_when_free = False
            plan = plan_response(self._realtime_config(), None, self._options.voices)
            self._responses.create(plan)

    def _release(self, now: float) -> None:
        """What was held back goes out."""
        for event in self._responses.release():
            self._output(event, now)

    def _output(self, event: Output, now: float) -> None:
        finished = self._responses.hear(event, now)
        if finished is None or not finished.in_conversation:
            return
        timeout_ms = self._idle_timeout_ms
        if timeout_ms is not None and not self._user.is_speaking:
            silent_from = max(now, finished.playback.ends_at)
            self._idle = (silent_from + timeout_ms / 1000, self._user.buffer.clock_ms)
        self._reply_if_free()
