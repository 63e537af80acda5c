"""Conversations of a checkpoint that hears sound and speaks while it thinks (Step-Audio 2)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from stepaudio.conversation import (
    AudioPart,
    Message,
    Mode,
    Part,
    Prompt,
    SpecialPart,
    TextPart,
    TokenPart,
    text_message,
    tools_message,
)
from stepaudio.errors import CapacityError, ConfigError
from stepaudio.generation.completion import Completion, GenerationPrompt
from stepaudio.generation.constraint import SpeechGroups, TextOnly, TokenConstraint
from stepaudio.generation.sampling import SamplingParams
from stepaudio.generation.split import AnswerText
from stepaudio.models.token2wav.token2wav import SpeechVoice
from stepaudio.tasks.instructions import task_prompt
from stepaudio.tasks.modes import DEFAULTS
from stepaudio.tasks.reply import read_reply
from stepaudio.tasks.step_audio import StepAudio
from stepaudio.text.vocab import CODES_PER_GROUP, TTS_END, TTS_START, Vocabulary
from stepaudio_streaming.engine.hearing import Sound
from stepaudio_streaming.engine.history import Entry
from stepaudio_streaming.engine.parts import (
    Answer,
    Line,
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
from stepaudio_streaming.engine.scheduler import CODE_MS
from stepaudio_streaming.events import PromptTokens, ReplyOptions

_GREETING = "hello"
_MAX_ANSWER = 1024  # tokens for which a prompt leaves room; half a minute of speech
_RETENTION = 0.7  # of the room is filled when the oldest entries had to go


class SpeechMind:
    """See `Mind`.

    Args:
        model: a checkpoint that converses in speech.
        voices: that speak its codes, by name; the first is the default. None: it only writes.
        max_tokens: of a prompt with its answer.
    """

    def __init__(
        self, model: StepAudio, voices: Mapping[str, SpeechVoice], *, max_tokens: int
    ) -> None:
        self._model = model
        self._vocab = model.tokenizer.vocab
        self._voices = voices
        self._room = max_tokens - min(_MAX_ANSWER, max_tokens // 3)

    @property
    def hears_sound(self) -> bool:
        """See `Mind`."""
        return True

    def ask(
        self, entries: Sequence[Entry], options: ReplyOptions, truncation: Truncation = "auto"
    ) -> Question:
        """See `Mind`."""
        speaks = options.modality == "audio"
        if speaks and not self._voices:
            raise ConfigError(f"{self._model.name}: cannot speak; ask for text")
        tools = tuple(offered(options))
        forced = must_call(options)
        mode: Mode = "speech" if speaks and not forced else "text"
        opening, turns = self._opening(options), self._turns(entries)
        num_forgotten, turns = self._fitting(opening, turns, truncation)
        prompt, sounds = self._render([*opening, *self._asked(turns)], entries, mode)
        num_audio = sum(len(sound.latents) for sound in sounds)
        names = tuple(map(name_of, tools))
        constraint: TokenConstraint = TextOnly(self._vocab.text_size)
        if forced:
            constraint = call_of(names, self._model.tokenizer)
        elif mode == "speech":
            constraint = SpeechGroups(self._vocab)
        return Question(
            self._line(prompt, sounds, self._params(options, mode, constraint)),
            tools=names,
            forced=tools if forced else (),
            usage=PromptTokens(text=len(prompt.ids) - num_audio, audio=num_audio),
            stream=AnswerText(self._model.tokenizer, mode),
            voice=self._voice(options.voice) if mode == "speech" else None,
            num_forgotten=num_forgotten,
        )

    def ahead(self, entries: Sequence[Entry], options: ReplyOptions) -> Line | None:
        """See `Mind`."""
        mode: Mode = "speech" if options.modality == "audio" and self._voices else "text"
        opening, turns = self._opening(options), self._turns(entries)
        messages = [*opening, *(message for _, message in turns)]
        is_asked = bool(entries) and bool(entries[-1].sounds)
        prompt, sounds = self._render(messages, entries, mode, prime=is_asked)
        if not prompt.ids or len(prompt.ids) > self._room:
            return None
        return self._line(prompt, sounds, None)

    def dictation(self, sounds: Sequence[Sound]) -> Question:
        """See `Mind`."""
        if not sounds:
            return Question(None)
        self._model.require("asr")
        parts = [_part(sound) for sound in sounds]
        instruction = self._model.processor.prompts.asr
        prompt = task_prompt(self._model.template, self._model.variant, instruction, parts, "text")
        params = dataclasses.replace(
            DEFAULTS["asr"].sampling, constraint=TextOnly(self._vocab.text_size)
        )
        return Question(
            self._line(prompt, sounds, params), stream=AnswerText(self._model.tokenizer, "text")
        )

    def read(self, question: Question, token_ids: Sequence[int]) -> Answer:
        """See `Mind`."""
        tokenizer, mode = self._model.tokenizer, "speech" if question.voice is not None else "text"
        completion = Completion(ids=list(token_ids))
        reply = read_reply(completion, tokenizer, mode, tools=question.tools)  # type: ignore[arg-type]
        if question.forced:
            written = tokenizer.decode(self._vocab.split_ids(token_ids)[0])
            return forced_answer(reply, written, question.forced)
        return Answer(reply.text, calls_of(reply))

    def script(self, text: str, wish: SpeechWish) -> Script:
        """See `Mind`."""
        raise ConfigError(f"{self._model.name}: converses, but does not read texts aloud")

    # ---- prompts -----------------------------------------------------------------------------

    def _voice(self, name: str) -> SpeechVoice:
        return self._voices.get(name) or next(iter(self._voices.values()))

    def _params(
        self, options: ReplyOptions, mode: Mode, constraint: TokenConstraint
    ) -> SamplingParams:
        """As the public examples sample, unless something else is wished for."""
        default = DEFAULTS["voice_chat" if mode == "speech" else "chat"].sampling
        params = dataclasses.replace(default, constraint=constraint, seed=options.seed)
        if options.temperature is not None:
            top_p = params.top_p if options.top_p is None else options.top_p
            params = dataclasses.replace(params, temperature=options.temperature, top_p=top_p)
        return params

    def _opening(self, options: ReplyOptions) -> list[Message]:
        if self._model.variant == "base":  # has no messages, and knows no instructions
            return []
        prompts = self._model.processor.prompts
        default = prompts.voice_chat if options.modality == "audio" else prompts.chat
        messages = [text_message("system", options.instructions or default)]
        tools = offered(options)
        return [*messages, tools_message(tools)] if tools else messages

    def _turns(self, entries: Sequence[Entry]) -> list[tuple[int, Message]]:
        return with_results(
            entries,
            self._message,
            result_of=lambda entry: entry.content,
            summary=self._model.processor.prompts.tool_summary,
        )

    def _message(self, entry: Entry) -> list[Message]:
        if entry.kind == "function_call":
            return [call_message(entry)]
        parts: list[Part] = [_part(sound) for sound in entry.sounds]
        if entry.kind == "assistant" and entry.token_ids is not None:
            parts += self._said(entry)
        elif entry.content:
            parts.append(TextPart(entry.content))
        role = entry.kind
        assert role in ("system", "user", "assistant")
        return [Message(role, tuple(parts))] if parts else []

    def _said(self, entry: Entry) -> list[Part]:
        """What the user has heard of an answer, as the model wrote it."""
        ids = heard_ids(entry, self._vocab)
        if not entry.spoken or not ids:
            return [TokenPart(ids)] if ids else []
        ends = () if self._vocab.tts_end in ids else (SpecialPart(TTS_END),)
        return [SpecialPart(TTS_START), TokenPart(ids), *ends]

    @staticmethod
    def _asked(turns: Sequence[tuple[int, Message]]) -> list[Message]:
        """Messages of a conversation to which there is something to answer."""
        messages = [message for _, message in turns]
        if not messages or messages[-1].role in ("assistant", "system"):
            # Nobody has said anything: the assistant begins, or goes on by itself.
            messages.append(text_message("user", _GREETING))
        return messages

    def _render(
        self, messages: Sequence[Message], entries: Sequence[Entry], mode: Mode, prime: bool = True
    ) -> tuple[Prompt, list[Sound]]:
        """Prompt of some messages, and the sounds in it."""
        template = self._model.template
        if self._model.variant == "base":
            flat = [part for message in messages for part in message.parts]
            prompt = template.render_flat(flat, mode=mode if prime else "text")
        else:
            prompt = template.render(messages, mode=mode, prime=prime)
        known = {str(sound.name): sound for entry in entries for sound in entry.sounds}
        return prompt, [known[key] for _, _, key in prompt.audio_spans]

    def _line(self, prompt: Prompt, sounds: Sequence[Sound], params: SamplingParams | None) -> Line:
        latents = [sound.latents for sound in sounds]
        names = tuple(sound.name for sound in sounds)
        return Line(prompt=GenerationPrompt(prompt.ids, latents), params=params, sounds=names)

    def _fitting(
        self, opening: Sequence[Message], turns: list[tuple[int, Message]], truncation: Truncation
    ) -> tuple[int, list[tuple[int, Message]]]:
        """Leave out the oldest turns where they do not fit, and some more, to do so seldom.

        Returns:
            Number of entries that are left out, and what is left.

        Raises:
            CapacityError: not even the latest one fits, or nothing may be left out.
        """
        sizes = [len(self._render_one(message).ids) for _, message in turns]
        head = sum(len(self._render_one(message).ids) for message in opening)
        room, retention = _limits(truncation, self._room, head)
        if head + sum(sizes) <= room:
            return 0, turns
        first = 0
        if truncation != "disabled":
            while first < len(turns) - 1 and head + sum(sizes[first:]) > retention * room:
                first += 1
        if head + sum(sizes[first:]) > room:
            raise CapacityError(
                f"the conversation has {head + sum(sizes[first:])} tokens, but only {room} fit: "
                "shorten the instructions or the latest message, or let old items be left out"
            )
        return turns[first][0], turns[first:]

    def _render_one(self, message: Message) -> Prompt:
        if self._model.variant == "base":
            return self._model.template.render_flat(message.parts)
        return self._model.template.render([message], prime=False)


def heard_ids(entry: Entry, vocab: Vocabulary) -> tuple[int, ...]:
    """Tokens of an answer that count: up to the last group of one text and four audio tokens
    whose sound was heard to its end. Calls that were made count however much was heard.

    Args:
        entry: an answer.
        vocab: ids of codes and marks.
    """
    ids = entry.token_ids or ()
    if entry.cut_ms is None or not entry.spoken:
        return ids
    end = ids.index(vocab.tts_end) if vocab.tts_end in ids else len(ids)
    num_heard = math.floor(entry.cut_ms / CODE_MS + 1e-6)
    kept = num_codes = 0
    size = CODES_PER_GROUP + 1
    for start in range(0, end, size):
        group = ids[start : min(start + size, end)]
        num_codes += sum(vocab.audio_0 <= token < vocab.audio_pad for token in group)
        if num_codes > num_heard:
            break
        kept = start + len(group)
    made = ids[end:] if entry.is_complete and len(ids) > end + 1 else ()
    if not kept and not made:
        return ()
    return (*ids[:kept], *(made or ids[end : end + 1]))


def _part(sound: Sound) -> AudioPart:
    return AudioPart(len(sound.latents), str(sound.name))


def _limits(truncation: Truncation, room: int, head: int) -> tuple[int, float]:
    """Tokens of a prompt, and the share of them that is filled when something is left out."""
    if isinstance(truncation, str):
        return room, _RETENTION
    limit = (truncation.get("token_limits") or {}).get("post_instructions")
    if limit is not None:
        room = min(room, head + int(limit))
    return room, float(truncation.get("retention_ratio", _RETENTION))
