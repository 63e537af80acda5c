"""Conversations of a checkpoint that writes down what it hears, and reads its answers aloud."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from stepaudio.conversation import (
    Message,
    TextPart,
    TokenPart,
    ToolCall,
    text_message,
    tool_call_parts,
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
    Call,
    Line,
    Phrase,
    Question,
    Script,
    SpeechWish,
    TextStream,
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

    def ask(self, entries: Sequence[Entry], options: ReplyOptions) -> Question:
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
        tools = _offered(options)
        names = tuple(str(tool["function"]["name"]) for tool in tools)
        ids = self._fitting(self._opening(options, names), self._turns(entries), options)
        answer_tokens = min(_MAX_ANSWER, options.max_output_tokens or _MAX_ANSWER)
        line = Line(
            prompt=GenerationPrompt(ids, adapter=self._adapter),
            params=self._params(options, answer_tokens),
        )
        return Question(line, tools=names, usage=PromptTokens(text=len(ids), audio=num_audio))

    def read(self, question: Question, token_ids: Sequence[int]) -> Answer:
        """See `Mind`."""
        reply = read_reply(
            Completion(ids=list(token_ids)), self._model.tokenizer, "text", tools=question.tools
        )
        if reply.tool_error is not None or not (reply.text or reply.tool_calls):
            return Answer(self._config.not_understood, remembered=False)
        calls = tuple(
            Call(call.name, json.dumps(dict(call.arguments), ensure_ascii=False))
            for call in reply.tool_calls
        )
        return Answer(reply.text, calls)

    def written(self) -> TextStream:
        """See `Mind`."""
        return self._model.tokenizer.stream()

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

    def _params(self, options: ReplyOptions, max_new_tokens: int) -> SamplingParams:
        """The likeliest answer, unless something else is wished for."""
        params = SamplingParams(
            max_new_tokens=max_new_tokens,
            constraint=TextOnly(self._model.tokenizer.vocab.text_size),
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
            messages.append(tools_message(_offered(options)))
        return messages

    def _turns(self, entries: Sequence[Entry]) -> list[Message]:
        messages: list[Message] = []
        results: list[str] = []
        for entry in entries:
            if entry.kind == "function_call_output":
                results.append(self._engine.spoken(entry.content))
                continue
            messages += self._results(results)
            results = []
            messages += self._message(entry)
        messages += self._results(results)
        if not messages or messages[-1].role in ("assistant", "system"):
            # Nobody has said anything: the assistant begins, or goes on by itself.
            messages.append(text_message("user", _GREETING))
        return messages

    def _results(self, results: Sequence[str]) -> list[Message]:
        if not results:
            return []
        summary = self._model.processor.prompts.tool_summary
        return [text_message("input", "\n".join(results) + summary)]

    def _message(self, entry: Entry) -> list[Message]:
        if entry.kind == "function_call":
            arguments = json.loads(entry.content or "{}")
            return [Message("assistant", tool_call_parts(ToolCall(entry.name, arguments)))]
        if entry.kind == "assistant" and entry.is_whole and entry.token_ids:
            return [Message("assistant", (TokenPart(entry.token_ids),))]
        text = self._engine.spoken(entry.content)
        if not text or not entry.understood:
            return []
        role = "system" if entry.kind == "system" else entry.kind
        assert role in ("system", "user", "assistant")
        return [Message(role, (TextPart(text),))]

    def _fitting(
        self, opening: list[Message], turns: list[Message], options: ReplyOptions
    ) -> list[int]:
        """Render; the oldest turns are left out where they do not fit.

        Raises:
            CapacityError: not even the latest one fits.
        """
        room = self._max_tokens - _MAX_ANSWER
        while True:
            ids = self._model.template.render([*opening, *turns]).ids
            if len(ids) <= room:
                return ids
            if len(turns) == 1:
                raise CapacityError(
                    f"instructions and the latest message have {len(ids)} tokens, but only {room} "
                    "fit: shorten them"
                )
            turns = turns[1:]


def text_to_repeat(instructions: str) -> str | None:
    """Text that instructions want said word by word, in quotation marks.

    >>> text_to_repeat('Greet the caller. Say exactly: "Hello, this is Ann."')
    'Hello, this is Ann.'
    """
    found = _QUOTED.search(instructions)
    return found.group(1).strip() or None if found else None


def _is_clear(entry: Entry) -> bool:
    return entry.understood and bool(entry.content)


def _offered(options: ReplyOptions) -> list[dict[str, Any]]:
    """Functions that may be called."""
    choice = options.tool_choice
    if choice == "none":
        return []
    tools = [dict(tool) for tool in options.tools]
    if choice.startswith("="):
        return [tool for tool in tools if tool["function"]["name"] == choice[1:]]
    return tools


def _pace(speed: float) -> str:
    if speed <= _SLOWLY:
        return "slowly"
    return "quickly" if speed >= _QUICKLY else ""
