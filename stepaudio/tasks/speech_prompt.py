"""Texts to what a checkpoint is given, in the way that it was trained to read aloud."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from stepaudio.audio.frames import CODES_PER_SECOND
from stepaudio.conversation import Part, TextPart, TokenPart, task_messages
from stepaudio.errors import ConfigError, SpeechTextError
from stepaudio.generation.completion import Completion, GenerationPrompt
from stepaudio.generation.constraint import GivenText, HoldLimit
from stepaudio.generation.sampling import SamplingParams
from stepaudio.tasks.modes import require_mode
from stepaudio.tasks.speech_options import SpeechOptions
from stepaudio.tasks.speech_style import SpeechStyle
from stepaudio.text.lexicon import WordLexicon
from stepaudio.text.reading import read_words, reading_ids, reading_instruction
from stepaudio.text.speech_text import (
    Sentence,
    SpeechTextOptions,
    spoken_sentences,
    written_sentences,
)
from stepaudio.text.vocab import CODES_PER_GROUP
from stepaudio.text.word_model import WORDS_FILE, WordModel

if TYPE_CHECKING:
    from stepaudio.tasks.step_audio import StepAudio

_GROUP = CODES_PER_GROUP + 1
_SPARE_GROUPS = 4  # behind the text at least
_HELD_VARIETY = 4  # different codes of a silence
_SPOKEN_SHARE = 0.75  # of the expected length, behind which a long silence is the end


@dataclass(frozen=True)
class SpeechJob:
    """One sentence, ready to be generated.

    Attributes:
        sentence: what is said.
        prompt: what the model continues.
        params: how, without a seed.
        expected_s: how long it should last.
    """

    sentence: Sentence
    prompt: GenerationPrompt
    params: SamplingParams
    expected_s: float

    def sampling(self, seed: int, warmer: float = 0.0) -> SamplingParams:
        """Sampling of one attempt, at a temperature that is so much higher."""
        temperature = self.params.temperature + warmer
        return dataclasses.replace(self.params, seed=seed, temperature=temperature)


class SpeechPrompter:
    """Cuts texts and prompts for a checkpoint; it reads the word model when it first needs it.

    Args:
        model: the checkpoint.
        options: how texts are cut and sampled.

    Raises:
        ConfigError: the checkpoint cannot read aloud.
    """

    def __init__(self, model: StepAudio, options: SpeechOptions) -> None:
        if "read_aloud" not in model.modes:
            require_mode("tts", model.modes, model.name)
        self.config = model.config.speech
        self._model = model
        self._options = options
        self._text = options.text or SpeechTextOptions(max_letters=self.config.max_letters)
        self._adapter = model.adapters.id_of(self.config.adapter or None)

    @cached_property
    def _lexicon(self) -> WordLexicon:
        folder = self._model.folder
        words = None if folder is None else WordModel.load(folder)
        if words is None:
            raise ConfigError(
                f"{self._model.name}: its prompts need pronunciations, but it has no {WORDS_FILE}"
            )
        return WordLexicon(words)

    def sentences(self, text: str) -> list[Sentence]:
        """Cut a text.

        Raises:
            SpeechTextError: nothing in it can be said.
            CheckpointError: the word model is damaged.
        """
        if self.config.reading == "phones":
            found = spoken_sentences(text, self._text, known=self._lexicon)
        else:
            found = written_sentences(text, self._text)
        if not found:
            shown = " ".join(text.split())[:40]
            reason = f"nothing in {shown!r} can be said" if shown else "there is no text"
            raise SpeechTextError(f"{reason}; give letters or digits")
        return found

    def job(self, sentence: Sentence, voice: str | None, style: SpeechStyle) -> SpeechJob:
        """Prompt for one sentence.

        Args:
            sentence: what to say.
            voice: name of the voice, if the checkpoint knows it.
            style: how to say it.

        Raises:
            CapacityError: the prompt does not fit the context.
        """
        model, config = self._model, self.config
        content, num_sounds = self._content(sentence)
        prompt = self._render(content, voice, style)
        expected_s = style.length * (config.pause_s + config.seconds_a_phone * num_sounds)
        longest_s = self._options.checks.max_ratio * expected_s + self._options.checks.slack_s
        groups = math.ceil((longest_s + 1) * CODES_PER_SECOND / CODES_PER_GROUP)
        params = self._options.sampling(config.temperature)
        if config.given_text:
            text_ids = tuple(model.tokenizer.encode(sentence.text))
            groups = max(groups, len(text_ids) + _SPARE_GROUPS)
            vocab = model.tokenizer.vocab
            spoken = round(_SPOKEN_SHARE * expected_s * CODES_PER_SECOND)
            hold = HoldLimit(self._options.max_hold, _HELD_VARIETY, spoken)
            constraint = GivenText(text_ids, vocab, hold)
            params = dataclasses.replace(params, constraint=constraint, stop_ids=(vocab.tts_end,))
        params = dataclasses.replace(params, max_new_tokens=_GROUP * groups)
        return SpeechJob(
            sentence, GenerationPrompt(prompt, adapter=self._adapter), params, expected_s
        )

    def code_log_probs(self, completion: Completion) -> list[float]:
        """Log-probabilities of the audio codes of a completion."""
        vocab = self._model.tokenizer.vocab
        pairs = zip(completion.ids, completion.log_probs, strict=False)
        return [log_prob for token, log_prob in pairs if vocab.is_audio(token)]

    def _content(self, sentence: Sentence) -> tuple[Part, int]:
        """What the user message has, and the number of its phones or letters."""
        if self.config.reading == "text":
            return TextPart(sentence.text), sentence.num_letters
        reading = read_words(sentence.words, self._lexicon)
        phones = [word.split("-") if word[0] != "(" else word[1:-1] for word in reading.split()]
        ids = reading_ids(self._model.tokenizer, reading)
        return TokenPart(tuple(ids)), sum(map(len, phones))

    def _render(self, content: Part, voice: str | None, style: SpeechStyle) -> list[int]:
        model, prompts = self._model, self._model.processor.prompts
        if model.variant == "base":
            instruction = f"{style.used[0]}\n" if style.used else prompts.read_aloud
            prompt = model.template.render_flat([TextPart(instruction), content], mode="speech")
        else:
            said = " ".join(style.used)
            instruction = reading_instruction(prompts.tts, voice=voice, style=said)
            prompt = model.template.render(task_messages(instruction, [content]), mode="speech")
        model.check_prompt(prompt)
        return prompt.ids
