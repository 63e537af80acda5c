"""All responses of a session: which is active, what is held back, what is stale."""

from __future__ import annotations

from stepaudio.errors import RequestError
from stepaudio_streaming.events import (
    CancelResponse,
    ContextItem,
    Output,
    OutputAudio,
    OutputFinished,
    OutputStarted,
    OutputText,
    OutputToolCall,
    Respond,
    TruncateItem,
)
from stepaudio_streaming.protocol.conversation import Conversation
from stepaudio_streaming.protocol.outbox import Outbox
from stepaudio_streaming.protocol.response import CancelReason, ResponseRun
from stepaudio_streaming.protocol.response_config import ResponsePlan

MAX_OUT_OF_BAND = 4
_HOLD_S = 1.0  # nobody coughs longer; an engine that forgets to let go must not silence a session


class Responses:
    """The responses that are being made: at most one in the conversation, a few beside it.

    Args:
        conversation: that of the session.
        outbox: where events and commands go.

    Attributes:
        active: the one that belongs to the conversation.
        last_spoken: the last one of which audio was sent.
        held_until: output of the active one waits until then at the longest; None: it does not.
    """

    def __init__(self, conversation: Conversation, outbox: Outbox) -> None:
        self.active: ResponseRun | None = None
        self.last_spoken: ResponseRun | None = None
        self.held_until: float | None = None
        self._held: list[Output] = []
        self._runs: dict[str, ResponseRun] = {}
        self._conversation = conversation
        self._out = outbox

    def __bool__(self) -> bool:
        return bool(self._runs)

    def create(
        self, plan: ResponsePlan, context: tuple[ContextItem | str, ...] | None = None
    ) -> None:
        """Begin a response.

        Args:
            plan: what was asked for.
            context: what to answer instead of the conversation.

        Raises:
            RequestError: one is active already, or too many are made beside it.
        """
        if plan.in_conversation and self.active is not None:
            raise RequestError(
                f"Conversation already has an active response in progress: {self.active.id}. Wait "
                "until the response is finished before creating a new one.",
                code="conversation_already_has_active_response",
            )
        if not plan.in_conversation and len(self._runs) > MAX_OUT_OF_BAND:
            raise RequestError(
                f"At most {MAX_OUT_OF_BAND} responses can be made outside of the conversation.",
                code="rate_limit_exceeded",
                param="response.conversation",
            )
        new_id = self._out.new_id
        run = ResponseRun(new_id("resp"), new_id("item"), plan, self._conversation, self._out)
        self._runs[run.id] = run
        if plan.in_conversation:
            self.active = run
        self._out.command(
            Respond(response_id=run.id, item_id=run.item_id, options=plan.options, context=context)
        )

    def cancel(self, response_id: str | None, now: float) -> None:
        """Stop one at the client's wish; None: the active one.

        Raises:
            RequestError: it is not being made (any more).
        """
        run = self.active if response_id is None else self._runs.get(response_id)
        if run is None:
            raise RequestError(
                "Cancellation failed: no active response found.", code="response_cancel_not_active"
            )
        self._stop(run, "client_cancelled", now)

    def interrupt(self, now: float) -> None:
        """The user speaks: stop the active one; what was sent already is cut to what was heard."""
        self.held_until, self._held = None, []
        last = self.last_spoken
        if self.active is not None:
            self._stop(self.active, "turn_detected", now)
        elif last is not None and last.playback.unplayed_ms(now) > 0:
            # The answer is complete but not yet played; the client may say how far it got.
            self._out.command(TruncateItem(last.item_id, last.playback.played_ms(now)))
            last.playback.stop(now)

    def hold(self, now: float) -> None:
        """The user may be about to speak: keep output of the active response back."""
        self.held_until = now + _HOLD_S

    def release(self) -> list[Output]:
        """It was nothing: what was kept back, to be heard again."""
        waiting, self._held, self.held_until = self._held, [], None
        return waiting

    def hear(self, event: Output, now: float) -> ResponseRun | None:
        """Output of the engine; that of responses that are over is dropped.

        Returns:
            The response if it is finished now.
        """
        run = self._runs.get(event.response_id)
        if run is None:
            return None
        if self.held_until is not None and run is self.active:
            self._held.append(event)
        elif isinstance(event, OutputStarted):
            run.start(event.prompt)
        elif isinstance(event, OutputText):
            run.add_text(event)
        elif isinstance(event, OutputAudio):
            run.add_audio(event, now)
            if run.has_spoken and run.in_conversation:
                self.last_spoken = run
        elif isinstance(event, OutputToolCall):
            run.add_tool_call(event)
        elif isinstance(event, OutputFinished):
            self._forget(run)
            run.finish(event, now)
            return run
        return None

    def _stop(self, run: ResponseRun, reason: CancelReason, now: float) -> None:
        self._forget(run)
        run.cancel(reason)
        self._out.command(CancelResponse(run.id, run.playback.played_ms(now)))
        run.playback.stop(now)

    def _forget(self, run: ResponseRun) -> None:
        del self._runs[run.id]
        if run is self.active:
            self.active = None
            self.held_until, self._held = None, []
