"""What gateway and engine say to each other: commands go in, events come out.

The gateway knows the wire and no model; the engine knows the model and no wire. Every piece of
output carries the id of its response, so that what belongs to a cancelled one is dropped at the
last exit. Times in ms count all audio that was ever appended in the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

INPUT_RATE = 16_000  # Hz, of audio that goes into the engine
OUTPUT_RATE = 24_000  # Hz, of audio that comes out of it

Samples = NDArray[np.float32]
Modality = Literal["text", "audio"]
Eagerness = Literal["low", "medium", "high", "auto"]
FinishStatus = Literal["completed", "incomplete", "failed"]
ItemKind = Literal["system", "user", "assistant", "function_call", "function_call_output"]


@dataclass(frozen=True, kw_only=True)
class TurnDetection:
    """How the engine finds out when the user begins and ends to speak.

    Attributes:
        kind: "server_vad" ends a turn after a silence; "semantic_vad" asks whether the user has
            finished.
        threshold: speech probability from which on a frame is speech (server_vad).
        prefix_padding_ms: audio before the first speech frame that belongs to the turn.
        silence_duration_ms: silence that ends a turn (server_vad).
        eagerness: how soon to answer (semantic_vad).
        interrupt: speech of the user stops the answer.
    """

    kind: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    eagerness: Eagerness = "auto"
    interrupt: bool = True


@dataclass(frozen=True, kw_only=True)
class TranscriptionOptions:
    """How the user's speech is written down.

    Attributes:
        languages: codes such as "en" that may be spoken; empty: any.
        prompt: text that tells style or subject.
        keywords: names and terms that may occur.
    """

    languages: tuple[str, ...] = ()
    prompt: str = ""
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReplyOptions:
    """How one answer is made.

    Attributes:
        modality: speech with its text, or text alone.
        instructions: system prompt.
        voice: name of one of the engine's voices.
        speed: of speech, 1.0 is normal.
        tools: function schemas in OpenAI's chat form.
        tool_choice: "auto", "none", "required", or the name of the function to call behind "=".
        parallel_tool_calls: several calls in one answer are wanted.
        max_output_tokens: None: as many as fit.
        temperature: of sampling; None: as the model's makers advise.
        top_p: share of the probability that is sampled from; None: likewise.
        seed: of sampling; None: any.
    """

    modality: Modality = "audio"
    instructions: str = ""
    voice: str = ""
    speed: float = 1.0
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ContextPart:
    """Content of an item: a text, or sound as float32 [samples] at 16 kHz."""

    text: str = ""
    samples: Samples | None = None


@dataclass(frozen=True, kw_only=True)
class ContextItem:
    """One item of a conversation as the engine sees it.

    Attributes:
        item_id: its id.
        kind: who said it, or a function call or its result.
        parts: its content; arguments or result of a function as one text.
        name: of the function (calls only).
        call_id: joins call and result.
    """

    item_id: str
    kind: ItemKind
    parts: tuple[ContextPart, ...] = ()
    name: str = ""
    call_id: str = ""


# ---- commands: gateway to engine ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Configure:
    """Settings of the session from now on.

    Attributes:
        turn_detection: None: the client commits turns itself.
        transcription: None: the user's speech is not written down.
        noise_reduction: "near_field", "far_field", or None: off.
        reply: how answers will be made; what can be prepared ahead is.
        context: what happens when the context is full, as the client said it.
        answers: anything is going to be answered at all.
    """

    turn_detection: TurnDetection | None
    transcription: TranscriptionOptions | None
    noise_reduction: Literal["near_field", "far_field"] | None
    reply: ReplyOptions
    context: Mapping[str, Any] | str = "auto"
    answers: bool = True


@dataclass(frozen=True)
class AppendAudio:
    """The user's sound goes on.

    Attributes:
        samples: float32 [samples] at 16 kHz.
        probabilities: that each of the frames that are complete now is speech; None: not known
            yet. For the engine alone.
    """

    samples: Samples
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class CommitAudio:
    """Everything heard since the last turn is an item of the conversation now.

    Attributes:
        item_id: the new item.
        end_ms: the turn ends here; later audio belongs to the next one. None: with the last sample.
    """

    item_id: str
    end_ms: int | None = None


@dataclass(frozen=True)
class ClearAudio:
    """Everything heard since the last turn is forgotten."""


@dataclass(frozen=True)
class InsertItem:
    """A new item behind another; None: in front of all."""

    item: ContextItem
    previous_item_id: str | None


@dataclass(frozen=True)
class RemoveItem:
    """An item is deleted."""

    item_id: str


@dataclass(frozen=True)
class TruncateItem:
    """The user has heard only this much of a spoken answer; replaces earlier statements."""

    item_id: str
    audio_ms: int


@dataclass(frozen=True, kw_only=True)
class Respond:
    """Answer.

    Attributes:
        response_id: tag of everything that this answer yields.
        item_id: item of the answer's message.
        options: how.
        context: instead of the conversation: new items, and ids of items that the conversation
            has. None: the conversation, to which the answer is then added.
    """

    response_id: str
    item_id: str
    options: ReplyOptions
    context: tuple[ContextItem | str, ...] | None = None


@dataclass(frozen=True)
class CancelResponse:
    """Stop an answer.

    Attributes:
        response_id: of `Respond`.
        played_ms: estimate of what the user has heard of it; the conversation is cut there, unless
            a `TruncateItem` says better before the next answer.
    """

    response_id: str
    played_ms: int


Command = (
    Configure
    | AppendAudio
    | CommitAudio
    | ClearAudio
    | InsertItem
    | RemoveItem
    | TruncateItem
    | Respond
    | CancelResponse
)

# ---- events: engine to gateway -----------------------------------------------------------------


@dataclass(frozen=True)
class OutputHeld:
    """The user may be about to interrupt: answers wait. held=False: it was a cough, go on.

    Attributes:
        held: whether they wait.
        since_ms: end of the frame that made it so.
    """

    held: bool
    since_ms: int = field(default=0, compare=False)


@dataclass(frozen=True)
class SpeechStarted:
    """The user speaks, since `audio_ms` (padding included)."""

    audio_ms: int


@dataclass(frozen=True)
class SpeechStopped:
    """The user's turn is over; it ends at `audio_ms`."""

    audio_ms: int


@dataclass(frozen=True)
class UserTranscript:
    """What was heard in a committed item.

    Attributes:
        item_id: of `CommitAudio`.
        text: next piece, or with `final` the whole text.
        final: nothing follows.
        error: why there is no transcript; always final.
    """

    item_id: str
    text: str
    final: bool = False
    error: str | None = None


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of a prompt, and how many of them were in the cache already."""

    text: int = 0
    audio: int = 0
    cached_text: int = 0
    cached_audio: int = 0


@dataclass(frozen=True)
class OutputStarted:
    """An answer is being made of this prompt; nothing of it is there yet."""

    response_id: str
    prompt: PromptTokens


@dataclass(frozen=True)
class OutputText:
    """Next piece of an answer's text, or of the text of what is spoken."""

    response_id: str
    text: str
    num_tokens: int = 1


@dataclass(frozen=True)
class OutputAudio:
    """Next piece of a spoken answer: float32 [samples] at 24 kHz."""

    response_id: str
    samples: Samples
    num_tokens: int = 0


@dataclass(frozen=True)
class OutputToolCall:
    """The answer calls a function; `arguments` is a JSON object as text."""

    response_id: str
    name: str
    arguments: str
    num_tokens: int = 0


@dataclass(frozen=True)
class OutputFinished:
    """Nothing follows for this answer.

    Attributes:
        response_id: of `Respond`.
        status: "incomplete" where a limit cut it off.
        reason: why it is incomplete.
        error: why it failed; one line that may be shown to the client.
    """

    response_id: str
    status: FinishStatus = "completed"
    reason: Literal["max_output_tokens", "content_filter"] | None = None
    error: str | None = field(default=None)


Output = OutputStarted | OutputText | OutputAudio | OutputToolCall | OutputFinished
Event = OutputHeld | SpeechStarted | SpeechStopped | UserTranscript | Output
