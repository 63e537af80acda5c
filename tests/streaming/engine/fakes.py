"""A model that is scripted, and a core under virtual time that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stepaudio.errors import CapacityError
from stepaudio_streaming.engine.core import EngineCore
from stepaudio_streaming.engine.history import Entry
from stepaudio_streaming.engine.parts import (
    Answer,
    Call,
    Heard,
    Line,
    Phrase,
    Question,
    Script,
    SpeechWish,
    Token,
)
from stepaudio_streaming.engine.scheduler import StepPlan
from stepaudio_streaming.engine.session import Say
from stepaudio_streaming.events import (
    INPUT_RATE,
    OUTPUT_RATE,
    AppendAudio,
    CancelResponse,
    Command,
    CommitAudio,
    Configure,
    Event,
    OutputAudio,
    OutputFinished,
    OutputText,
    PromptTokens,
    ReplyOptions,
    Respond,
    SpeechStarted,
    SpeechStopped,
    TranscriptionOptions,
    TurnDetection,
)

CODE_SAMPLES = OUTPUT_RATE * 40 // 1000
SPEAKER = ReplyOptions(voice="kathleen")
WRITER = ReplyOptions(modality="text")


class Words:
    def push(self, token_id: int) -> str:
        return f"w{token_id} "

    def flush(self) -> str:
        return "end"


@dataclass
class ScriptedModel:
    """Runner and mind: the answer to a conversation is its latest words, backwards.

    Sound of the user is heard as the level of its loudest sample in hundredths, such as "level
    30". A voice's sound has the level of its seed, so that it is known whose it is.

    Attributes:
        num_slots: lines at once.
        phrase_codes: codes of every spoken phrase.
        answers: instead of the words backwards, in turn.
        calls: functions that the next answers call, in turn.
        fails: what raises an error: "begin", "decode", "speak", "hear".
        asked: conversations that were asked.
        decoded: slots of every step.
        spoken: voices of every step.
        pieces: steps that it takes to understand something.
    """

    num_slots: int = 8
    portions: tuple[int, ...] = (4, 10)
    phrase_codes: int = 100
    answers: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    asked: list[list[str]] = field(default_factory=list)
    decoded: list[tuple[int, ...]] = field(default_factory=list)
    spoken: list[tuple[int, ...]] = field(default_factory=list)
    pieces: int = 2
    held: dict[int, tuple[Line, int]] = field(default_factory=dict)
    voices: dict[int, float] = field(default_factory=dict)
    num_heard: int = 0

    # ---- runner ------------------------------------------------------------------------------

    def init_vad(self) -> int:
        return 0

    def speech_probabilities(self, frames: np.ndarray, state: int) -> tuple[list[float], int]:
        parts = frames.reshape(-1, 512)
        found = [0.95 if np.abs(part).max() > 0.05 else 0.02 for part in parts]
        return found, state + len(found)

    def hear(self, samples: np.ndarray) -> Iterator[Heard]:
        self.num_heard += 1
        level = round(100 * float(np.abs(samples).max())) if len(samples) else 0
        for piece in range(self.pieces):
            if "hear" in self.fails:
                raise CapacityError("too loud")
            text = f"level {level}" if level > 5 else ""
            last = piece == self.pieces - 1
            yield Heard(text if last else text[:5], bool(text), len(samples) // 640)

    def begin(self, slot: int, line: Line) -> Token:
        assert slot not in self.held, "the slot is taken"
        if "begin" in self.fails:
            raise CapacityError("the prompt is too long")
        self.held[slot] = line, 0
        return self._next(slot)

    def decode(self, slots: Sequence[int]) -> list[Token]:
        if "decode" in self.fails:
            raise RuntimeError("out of memory")
        self.decoded.append(tuple(slots))
        return [self._next(slot) for slot in slots]

    def _next(self, slot: int) -> Token:
        line, given = self.held[slot]
        self.held[slot] = line, given + 1
        if given == line.params:
            return Token(0, finish="stop")
        return Token(given, code=given if isinstance(line.prompt, str) else None)

    def free(self, slot: int) -> None:
        self.held.pop(slot, None)

    def open_voice(self, key: int, voice: Any, seed: int) -> None:
        self.voices[key] = seed / 1000

    def speak(
        self, codes: Mapping[int, Sequence[int]], last: frozenset[int]
    ) -> dict[int, np.ndarray]:
        if "speak" in self.fails:
            raise RuntimeError("out of memory")
        self.spoken.append(tuple(codes))
        sound = {
            key: np.full(CODE_SAMPLES * len(part), self.voices[key], np.float32)
            for key, part in codes.items()
        }
        for key in last:
            self.close_voice(key)
        return sound

    def close_voice(self, key: int) -> None:
        self.voices.pop(key, None)

    # ---- mind --------------------------------------------------------------------------------

    hears_sound = False

    def ahead(self, entries: Sequence[Entry], options: ReplyOptions) -> Line | None:
        return None

    def dictation(self, sounds: Sequence[Any]) -> Question:
        raise AssertionError("there are transcripts")

    def ask(
        self, entries: Sequence[Entry], options: ReplyOptions, truncation: Any = "auto"
    ) -> Question:
        said = [f"{entry.kind}: {entry.content}" for entry in entries if entry.content]
        self.asked.append(said)
        names = tuple(str(tool["name"]) for tool in options.tools)
        usage = PromptTokens(text=10 * len(entries), audio=sum(e.num_audio for e in entries))
        if entries and entries[-1].kind == "user" and not entries[-1].understood:
            return Question(None, "pardon", usage=usage)
        words = entries[-1].content.split() if entries else ["hello"]
        line = Line(prompt=words, params=len(words))
        is_plain = options.modality == "text" and not names
        return Question(line, tools=names, usage=usage, stream=Words() if is_plain else None)

    def read(self, question: Question, token_ids: Sequence[int]) -> Answer:
        if self.calls:
            return Answer("", (self.calls.pop(0),))
        if self.answers:
            return Answer(self.answers.pop(0))
        assert question.line is not None
        return Answer(" ".join(reversed(question.line.prompt)))

    def script(self, text: str, wish: SpeechWish) -> Script:
        if text == "unspeakable":
            raise CapacityError("nothing can be said")
        seed = sum(map(ord, text)) % 900 + 1
        phrases = tuple(
            Phrase(
                part.strip(),
                Line(prompt=part, params=self.phrase_codes),
                expected_s=self.phrase_codes * 0.04,
                pause_s=0.2,
                seed=seed,
            )
            for part in text.split(",")
        )
        return Script(phrases, wish.voice)


def settings(
    detection: TurnDetection | None = None, *, transcribe: bool = True, **reply: Any
) -> Configure:
    return Configure(
        turn_detection=detection,
        transcription=TranscriptionOptions() if transcribe else None,
        noise_reduction=None,
        reply=ReplyOptions(**({"voice": "kathleen"} | reply)),
    )


VAD = settings(TurnDetection())
MANUAL = settings()


class Clock:
    """Drives a core: every step takes some time, and idle time passes at once."""

    def __init__(
        self,
        model: ScriptedModel | None = None,
        *,
        core: EngineCore | None = None,
        max_sessions: int = 8,
        step_s: float = 0.001,
    ):
        self.model = model or ScriptedModel()
        self.core = core or EngineCore(self.model, self.model, max_sessions=max_sessions)
        self.now = 100.0
        self.step_s = step_s
        self.users: list[User] = []

    def open(self, how: Configure = VAD) -> User:
        user = User(self, len(self.users), how)
        self.users.append(user)
        return user

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            plan = self.core.step(self.now)
            if not plan.is_empty:
                self.now += self.step_s
            else:
                self.now = min(end, end if plan.wake_at is None else plan.wake_at)

    def settle(self, limit: int = 10_000) -> StepPlan:
        """Run until there is nothing to do at this very time."""
        for _ in range(limit):
            plan = self.core.step(self.now)
            if plan.is_empty:
                return plan
        raise AssertionError("there is no end")


class User:
    """One session: what it is told, and a gateway that commits turns and asks for answers."""

    def __init__(self, clock: Clock, number: int, how: Configure) -> None:
        self.clock = clock
        self.number = number
        self.events: list[Event] = []
        self.at: list[float] = []
        self.answers_turns = True
        self.active: str | None = None
        self.played: Callable[[], int] | None = None
        self._num_turns = 0
        clock.core.open(number, how, self._hear)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self.at.append(self.clock.now)

    def send(self, *commands: Command | Say) -> None:
        for command in commands:
            self.clock.core.obey(self.number, command, self.clock.now)

    def ask(self, text_id: str = "r", options: ReplyOptions = SPEAKER, **how: Any) -> None:
        self.active = text_id
        self.send(Respond(response_id=text_id, item_id=f"item-{text_id}", options=options, **how))

    def sound(self, ms: int, level: float = 0.3) -> None:
        """Speak or be silent in real time, in frames of 20 ms; a gateway reacts."""
        for _ in range(ms // 20):
            seen = len(self.events)
            self.send(AppendAudio(np.full(INPUT_RATE // 50, level, np.float32)))
            for event in self.events[seen:]:
                self._react(event)
            self.clock.run(0.02)

    def _react(self, event: Event) -> None:
        if isinstance(event, SpeechStarted) and self.active is not None:
            self.send(CancelResponse(self.active, self.heard_ms(self.active)))
            self.active = None
        if isinstance(event, SpeechStopped) and self.answers_turns:
            self._num_turns += 1
            self.send(CommitAudio(f"turn-{self._num_turns}", event.audio_ms))
            self.ask(f"r{self._num_turns}")

    def heard_ms(self, response_id: str) -> int:
        """What a player has played by now."""
        end = start = None
        total = 0.0
        for event, at in zip(self.events, self.at, strict=True):
            if isinstance(event, OutputAudio) and event.response_id == response_id:
                ms = len(event.samples) / 24
                start = at if end is None or end < at else end
                end = start + ms / 1000
                total += ms
        return 0 if end is None else round(total - max(0.0, end - self.clock.now) * 1000)

    def of(self, kind: type[Any], response_id: str | None = None) -> list[Any]:
        found = [event for event in self.events if isinstance(event, kind)]
        if response_id is None:
            return found
        return [event for event in found if event.response_id == response_id]

    def text(self, response_id: str) -> str:
        return "".join(event.text for event in self.of(OutputText, response_id))

    def audio(self, response_id: str) -> np.ndarray:
        pieces = [event.samples for event in self.of(OutputAudio, response_id)]
        return np.concatenate([np.zeros(0, np.float32), *pieces])

    def finished(self, response_id: str) -> OutputFinished | None:
        return next(iter(self.of(OutputFinished, response_id)), None)


__all__ = ["MANUAL", "SPEAKER", "VAD", "WRITER", "Clock", "ScriptedModel", "User", "settings"]
