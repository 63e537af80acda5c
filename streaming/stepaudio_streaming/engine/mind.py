"""Conversations of a checkpoint that writes down what it hears, and reads its answers aloud."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from stepaudio.conversation import (
    Message,
    TextPart,
    TokenPart,
    text_message,
    tool_names_message,
    tools_message,
)
from stepaudio.errors import CapacityError, ConfigError
from stepaudio.generation.completion import Completion, GenerationPrompt
from stepaudio.generation.constraint import TextOnly
from stepaudio.generation.sampling import SamplingParams
from stepaudio.tasks.reply import read_reply
from stepaudio.tasks.step_audio import StepAudio
from stepaudio.tasks.tts import Synthesizer, Utterance
from stepaudio_streaming.engine.history import Entry
from stepaudio_streaming.engine.parts import (
    Answer,
    Line,
    Phrase,
    Question,
    Script,
    SpeechWish,
    Truncation,
)
from stepaudio_streaming.engine.prompting import (
    call_message,
    call_of,
    calls_of,
    forced_answer,
    must_call,
    name_of,
    offered,
    with_results,
)
from stepaudio_streaming.events import PromptTokens, ReplyOptions

_MAX_ANSWER = 64  # tokens; answers of small models are short
_SLOWLY, _QUICKLY = 0.93, 1.07  # from here on, a speed is a style
_QUOTED = re.compile(r"\b(?:say|repeat)\b[^\"“”]{0,40}[\"“]([^\"“”]+)[\"”]", re.IGNORECASE)
_GREETING = "hello"


class TranscriptMind:
    """See `Mind`.

    Args:
        model: a checkpoint whose conversations are transcripts.
        synthesizer: reads aloud; None: nothing is.
        max_tokens: of a prompt with its answer.
    """

    def __init__(
        self, model: StepAudio, synthesizer: Synthesizer | None, *, max_tokens: int
    ) -> None:
        self._model = model
        self._engine = model.transcripts
        self._config = model.config.dialogue
        self._synthesizer = synthesizer
        self._max_tokens = max_tokens
        self._adapter = model.adapters.id_of(self._config.adapter or None)

    @property
    def hears_sound(self) -> bool:
        """See `Mind`."""
        return False

    def ahead(self, entries: Sequence[Entry], options: ReplyOptions) -> Line | None:
        """See `Mind`: what was said is not known before it was written down."""
        return None

    def dictation(self, sounds: Sequence[Any]) -> Question:
        """See `Mind`: there are transcripts anyway."""
        raise ConfigError(f"{self._model.name}: hears transcripts, not sound")

    def ask(
        self, entries: Sequence[Entry], options: ReplyOptions, truncation: Truncation = "auto"
    ) -> Question:
        """See `Mind`."""
        num_audio = sum(entry.num_audio for entry in entries)
        said_last = (e for e in reversed(entries) if e.content or e.kind == "user" or e.token_ids)
        last = next(said_last, None)
        if last is not None and last.kind == "user" and not _is_clear(last):
            usage = PromptTokens(audio=num_audio)
            return Question(None, self._config.not_understood, usage=usage)
        quoted = text_to_repeat(options.instructions)
        if quoted is not None and (last is None or last.kind != "user"):
            return Question(None, quoted, usage=PromptTokens(audio=num_audio))
        tools, forced = tuple(offered(options)), must_call(options)
        names = tuple(map(name_of, tools))
        opening, turns = self._opening(options, names), self._turns(entries)
        num_forgotten, ids = self._fitting(opening, turns, truncation)
        line = Line(
            prompt=GenerationPrompt(ids, adapter=self._adapter),
            params=self._params(options, names if forced else ()),
        )
        is_plain = options.modality == "text" and not names
        return Question(
            line,
            tools=names,
            forced=tools if forced else (),
            usage=PromptTokens(text=len(ids), audio=num_audio),
            stream=self._model.tokenizer.stream() if is_plain else None,
            num_forgotten=num_forgotten,
        )

    def read(self, question: Question, token_ids: Sequence[int]) -> Answer:
        """See `Mind`."""
        tokenizer = self._model.tokenizer
        reply = read_reply(Completion(ids=list(token_ids)), tokenizer, "text", tools=question.tools)
        if question.forced:
            return forced_answer(reply, tokenizer.decode(token_ids), question.forced)
        has_words = any(map(str.isalnum, reply.text))  # nothing else can be said
        if reply.tool_error is not None or not (has_words or reply.tool_calls):
            return Answer(self._config.not_understood, remembered=False)
        return Answer(reply.text, calls_of(reply))

    def script(self, text: str, wish: SpeechWish) -> Script:
        """See `Mind`."""
        if self._synthesizer is None:
            raise ConfigError(f"{self._model.name}: cannot speak; ask for text")
        style = " ".join(part for part in (wish.style, _pace(wish.speed)) if part)
        utterance = Utterance(text, wish.voice or None, style or None, wish.seed)
        script = self._synthesizer.script(utterance)
        rate = self._synthesizer.sample_rate
        phrases = tuple(
            Phrase(
                job.sentence.text,
                Line(prompt=job.prompt, params=job.sampling(seed)),
                job.expected_s,
                len(self._synthesizer.pause(job)) / rate,
                seed,
            )
            for job, seed in script.seeded_jobs()
        )
        return Script(phrases, script.voice)

    # ---- prompts -----------------------------------------------------------------------------

    def _params(self, options: ReplyOptions, forced: Sequence[str]) -> SamplingParams:
        """The likeliest answer, unless something else is wished for."""
        tokenizer = self._model.tokenizer
        plain = TextOnly(tokenizer.vocab.text_size)
        params = SamplingParams(
            max_new_tokens=min(_MAX_ANSWER, options.max_output_tokens or _MAX_ANSWER),
            constraint=call_of(forced, tokenizer) if forced else plain,
            seed=options.seed,
        )
        if options.temperature is not None:
            params = dataclasses.replace(
                params, temperature=options.temperature, top_p=options.top_p or 1.0
            )
        return params

    def _opening(self, options: ReplyOptions, names: Sequence[str]) -> list[Message]:
        instructions = options.instructions or self._model.processor.prompts.chat
        messages = [text_message("system", self._engine.spoken(instructions))]
        if names and self._config.tools == "names":
            messages.append(tool_names_message(names))
        elif names:
            messages.append(tools_message(offered(options)))
        return messages

    def _turns(self, entries: Sequence[Entry]) -> list[tuple[int, Message]]:
        turns = with_results(
            entries,
            self._message,
            result_of=lambda entry: self._engine.spoken(entry.content),
            summary=self._model.processor.prompts.tool_summary,
        )
        if not turns or turns[-1][1].role in ("assistant", "system"):
            # Nobody has said anything: the assistant begins, or goes on by itself.
            turns.append((len(entries), text_message("user", _GREETING)))
        return turns

    def _message(self, entry: Entry) -> list[Message]:
        if entry.kind == "function_call":
            return [call_message(entry)]
        if entry.kind == "assistant" and entry.is_whole and entry.token_ids:
            return [Message("assistant", (TokenPart(entry.token_ids),))]
        text = self._engine.spoken(entry.content)
        if not text or not entry.understood:
            return []
        role = "system" if entry.kind == "system" else entry.kind
        assert role in ("system", "user", "assistant")
        return [Message(role, (TextPart(text),))]

    def _fitting(
        self, opening: list[Message], turns: list[tuple[int, Message]], truncation: Truncation
    ) -> tuple[int, list[int]]:
        """Render; the oldest turns are left out where they do not fit.

        Returns:
            Number of entries that are left out, and the prompt.

        Raises:
            CapacityError: not even the latest one fits, or nothing may be left out.
        """
        room = self._max_tokens - _MAX_ANSWER
        num_forgotten = 0
        while True:
            messages = [*opening, *(message for _, message in turns)]
            ids = self._model.template.render(messages).ids
            if len(ids) <= room:
                return num_forgotten, ids
            if len(turns) == 1 or truncation == "disabled":
                raise CapacityError(
                    f"instructions and the latest message have {len(ids)} tokens, but only {room} "
                    "fit: shorten them"
                )
            turns = turns[1:]
            num_forgotten = turns[0][0]


def text_to_repeat(instructions: str) -> str | None:
    """Text that instructions want said word by word, in quotation marks.

    >>> text_to_repeat('Greet the caller. Say exactly: "Hello, this is Ann."')
    'Hello, this is Ann.'
    """
    found = _QUOTED.search(instructions)
    return found.group(1).strip() or None if found else None


def _is_clear(entry: Entry) -> bool:
    return entry.understood and bool(entry.content)


def _pace(speed: float) -> str:
    if speed <= _SLOWLY:
        return "slowly"
    return "quickly" if speed >= _QUICKLY else ""
