"""Conversations of a model that writes down what it hears before it answers.

The question is recognised by the same foundation, and the transcript takes its place in the
conversation; an adapter answers in text, which another mode reads aloud. See `DialogueConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from stepaudio.audio.decoding import AudioSource
from stepaudio.conversation import Message, Prompt, text_message, tool_names_message, tools_message
from stepaudio.generation.completion import GenerationPrompt
from stepaudio.generation.constraint import TextOnly
from stepaudio.generation.sampling import SamplingParams
from stepaudio.generation.stats import GenerationStats
from stepaudio.tasks.dialogue import Dialogue, DialogueOptions
from stepaudio.tasks.listening import Heard, Listener
from stepaudio.tasks.recognizer import Recognizer
from stepaudio.tasks.reply import Reply, read_reply
from stepaudio.text.normalize import get_normalizer
from stepaudio.text.word_model import WordModel

if TYPE_CHECKING:
    from stepaudio.tasks.step_audio import StepAudio

# Answers are short, and a small model's likeliest one is its best.
_PARAMS = SamplingParams(max_new_tokens=64)


class TranscriptEngine:
    """What conversations of one checkpoint share: who listens, and who answers.

    Attributes:
        config: how the checkpoint converses.
    """

    def __init__(self, model: StepAudio, folder: Path | None) -> None:
        """Bind a checkpoint; weights are loaded when they are first needed.

        Args:
            model: the checkpoint.
            folder: where its word model is, if it has one.
        """
        self._model = model
        self._folder = folder
        self.config = model.config.dialogue

    @cached_property
    def listener(self) -> Listener:
        """Writes down questions."""
        words = None if self._folder is None else WordModel.load(self._folder)
        model = self._model
        recognizer = Recognizer(model.model, model.tokenizer, words, precision=model.precision)
        return Listener(recognizer)

    def spoken(self, text: str) -> str:
        """A text in the form that the model knows."""
        language = self.config.language
        return get_normalizer(language).written_to_spoken(text) if language else text

    def write(self, prompt: Prompt, params: SamplingParams, tools: Sequence[str]) -> Reply:
        """Answer a rendered conversation in text.

        Raises:
            CapacityError: it does not fit the context.
        """
        model = self._model
        model.check_prompt(prompt)
        adapter = model.adapters.id_of(self.config.adapter or None)
        constraint = TextOnly(model.tokenizer.vocab.text_size)
        (completion,) = model.generator.generate(
            [GenerationPrompt(prompt.ids, adapter=adapter)],
            dataclasses.replace(params, constraint=constraint),
        )
        return read_reply(completion, model.tokenizer, "text", tools=tools)


class TranscriptDialogue(Dialogue):
    """A conversation in text about what is heard; see `Dialogue` and the module's text.

    Speech without a transcript that can be relied on is answered at once, and leaves no trace in
    the history.

    Attributes:
        heard: the latest spoken question, written down.
    """

    def __init__(
        self, model: StepAudio, engine: TranscriptEngine, options: DialogueOptions
    ) -> None:
        """Begin a conversation; errors as `Dialogue`."""
        self._engine = engine
        self.heard: Heard | None = None
        # The answer is text, and reading it aloud is another mode's task.
        super().__init__(model, dataclasses.replace(options, answer="text"))

    def say(
        self,
        *,
        text: str | None = None,
        audio: AudioSource | Tensor | None = None,
        params: SamplingParams | None = None,
    ) -> Reply:
        """See `Dialogue.say`; a text stands behind the transcript of the audio."""
        question = self._user_message(text, audio)
        if self._is_unclear(text):
            self.last = self._not_understood()
            return self.last
        return self._turn([question], params)

    def answer_tools(self, results: Sequence[str], params: SamplingParams | None = None) -> Reply:
        """See `Dialogue.answer_tools`."""
        return super().answer_tools([self._engine.spoken(result) for result in results], params)

    @property
    def default_params(self) -> SamplingParams:
        """The likeliest answer."""
        return _PARAMS

    def _opening(self) -> list[Message]:
        options = self._options
        messages = [text_message("system", self._engine.spoken(options.system))]
        if options.tools:
            by_name = self._engine.config.tools == "names"
            declared = tool_names_message(self._tool_names) if by_name else None
            messages.append(declared or tools_message(options.tools))
        return messages

    def _user_message(self, text: str | None, audio: AudioSource | Tensor | None) -> Message:
        if text is None and audio is None:
            raise ValueError("give text or audio")
        self.heard = None if audio is None else self._engine.listener(audio)
        transcript = "" if self.heard is None else self.heard.text
        written = "" if text is None else self._engine.spoken(text)
        return text_message("user", f"{transcript} {written}".strip())

    def _is_unclear(self, text: str | None) -> bool:
        config = self._engine.config
        if self.heard is None:
            return not self._engine.spoken(text or "")
        return not self.heard.text or self.heard.confidence < config.min_confidence

    def _not_understood(self, error: str | None = None) -> Reply:
        text = self._engine.config.not_understood
        ids = tuple(self._model.tokenizer.encode(text))
        stats = self.heard.stats if self.heard is not None else GenerationStats()
        return Reply("text", ids, text, ids, (), "stop", stats, tool_error=error)

    def _complete(self, messages: Sequence[Message], params: SamplingParams) -> Reply:
        reply = self._engine.write(self._render(messages), params, self._tool_names)
        if reply.tool_error is not None or not (reply.text or reply.tool_calls):
            return self._not_understood(reply.tool_error)
        if self.heard is not None:
            reply.stats.add(self.heard.stats)
            self.heard = dataclasses.replace(self.heard, stats=GenerationStats())
        return reply
