"""A conversation of several turns, whose history is kept as ids.

The model keeps nothing: a `Dialogue` holds the messages and the audio that was heard, encoded
once. History is as the public client keeps it (specification, sections 8 and 9): past speech as
the generated ids, past audio as audio, thoughts dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stepaudio.audio.decoding import AudioSource
from stepaudio.conversation import (
    Message,
    Mode,
    Part,
    Prompt,
    SpeechPart,
    TextPart,
    text_message,
    tools_message,
)
from stepaudio.errors import ToolError
from stepaudio.generation.sampling import SamplingParams
from stepaudio.tasks.hearing import Clip, hear
from stepaudio.tasks.modes import DEFAULTS
from stepaudio.tasks.reply import Reply

if TYPE_CHECKING:
    from stepaudio.tasks.step_audio import StepAudio


@dataclass(frozen=True)
class DialogueOptions:
    """What holds for a whole conversation.

    Attributes:
        answer: kind of the answers.
        system: system message; a Base model has none.
        think: think before every answer.
        tools: OpenAI function schemas.
    """

    answer: Mode
    system: str
    think: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()


class Dialogue:
    """A conversation with one model; see `StepAudio.dialogue`.

    Attributes:
        messages: the conversation so far.
        last: the latest answer.
    """

    def __init__(self, model: StepAudio, options: DialogueOptions) -> None:
        """Begin a conversation.

        Raises:
            ToolError: a schema names no tool.
        """
        self._model = model
        self._options = options
        self._tool_names = tuple(_tool_name(schema) for schema in options.tools)
        self._clips: dict[str, Clip] = {}
        self._num_heard = 0
        self.last: Reply | None = None
        self.messages: list[Message] = self._opening()

    def _opening(self) -> list[Message]:
        """Messages before the first turn."""
        messages = []
        if self._model.variant != "base":
            messages.append(text_message("system", self._options.system))
        if self._options.tools:
            messages.append(tools_message(self._options.tools))
        return messages

    def say(
        self,
        *,
        text: str | None = None,
        audio: AudioSource | Tensor | None = None,
        params: SamplingParams | None = None,
    ) -> Reply:
        """Say something and get the answer; both become history unless an error is raised.

        Args:
            text: written question; behind the audio where both are given.
            audio: spoken question.
            params: sampling; None: as the public examples do.

        Raises:
            AudioLoadError: the audio cannot be read.
            CapacityError: the conversation no longer fits the context.
            ValueError: neither text nor audio was given.
        """
        return self._turn([self._user_message(text, audio)], params)

    def answer_tools(self, results: Sequence[str], params: SamplingParams | None = None) -> Reply:
        """Give the results of the calls of the last answer, and get what the model makes of them.

        Args:
            results: text of every result, in the order of `Reply.tool_calls`.
            params: sampling.

        Raises:
            ToolError: the last answer has another number of calls.
            CapacityError: the conversation no longer fits the context.
        """
        num_calls = len(self.last.tool_calls) if self.last is not None else 0
        if len(results) != num_calls or not results:
            raise ToolError(
                f"{len(results)} results were given, but the last answer has {num_calls} calls"
            )
        summary = self._model.processor.prompts.tool_summary
        return self._turn([text_message("input", "\n".join(results) + summary)], params)

    def add_user(
        self, *, text: str | None = None, audio: AudioSource | Tensor | None = None
    ) -> None:
        """Add a past question, to rebuild a conversation; arguments and errors as `say`."""
        self.messages.append(self._user_message(text, audio))

    def add_answer(self, text: str, codes: Sequence[int] | None = None) -> None:
        """Add a past answer from its text and, if it was speech, its audio codes.

        Raises:
            ValueError: a code is out of range.
        """
        vocab = self._model.tokenizer.vocab
        for code in codes or ():
            vocab.id_of_code(code)
        part: Part = TextPart(text) if codes is None else SpeechPart(text, tuple(codes))
        self.messages.append(Message("assistant", (part,)))

    @property
    def default_params(self) -> SamplingParams:
        """How answers are sampled unless a turn says otherwise."""
        return DEFAULTS["voice_chat" if self._options.answer == "speech" else "chat"].sampling

    def prompt(self) -> Prompt:
        """The conversation as the model would see it now, asking for an answer."""
        return self._render(self.messages)

    def _user_message(self, text: str | None, audio: AudioSource | Tensor | None) -> Message:
        parts: list[Part] = []
        if audio is not None:
            geometry = self._model.config.audio_encoder_config.geometry
            clips, heard = hear(audio, geometry, str(self._num_heard))
            self._num_heard += 1
            self._clips |= clips
            parts += heard
        if text is not None:
            parts.append(TextPart(text))
        if not parts:
            raise ValueError("give text or audio")
        return Message("user", tuple(parts))

    def _turn(self, new: list[Message], params: SamplingParams | None) -> Reply:
        messages = [*self.messages, *new]
        reply = self._complete(messages, params or self.default_params)
        self.messages = [*messages, reply.message()]
        self.last = reply
        return reply

    def _complete(self, messages: Sequence[Message], params: SamplingParams) -> Reply:
        options, model = self._options, self._model
        if options.think:
            return model.answer_after_thinking(
                messages, self._clips, options.answer, params, self._tool_names
            )
        prompt = self._render(messages)
        return model.answer(prompt, self._clips, options.answer, params, self._tool_names)

    def _render(self, messages: Sequence[Message]) -> Prompt:
        template, answer = self._model.template, self._options.answer
        if self._model.variant == "base":
            flat = [part for message in messages for part in message.parts]
            return template.render_flat(flat, mode=answer)
        return template.render(messages, mode=answer)


def _tool_name(schema: Mapping[str, Any]) -> str:
    function = schema.get("function", schema)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ToolError(f"a tool needs a function with a name, got {schema!r}")
    return name
