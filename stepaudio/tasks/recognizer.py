"""Recognition of a batch of short waveforms with one model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stepaudio.audio.frames import PIECE_SAMPLES, SAMPLE_RATE
from stepaudio.audio.mel import log_mel
from stepaudio.conversation import ChatTemplate, Prompts, audio_parts
from stepaudio.errors import ConfigError
from stepaudio.generation.bias import TokenBias
from stepaudio.generation.generator import (
    Completion,
    CTCPosteriors,
    GenerationPrompt,
    Generator,
)
from stepaudio.generation.multi_token import MultiTokenGenerator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.generation.stats import GenerationStats
from stepaudio.generation.two_pass import (
    DEFAULT_TWO_PASS_OPTIONS,
    TwoPassDecoder,
    TwoPassOptions,
    spelling_scores,
)
from stepaudio.models.fused import Precision
from stepaudio.models.mtp import MultiTokenPredictor
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.tasks.expectations import NO_HOTWORDS, Expectations
from stepaudio.tasks.instructions import task_prompt
from stepaudio.tasks.modes import checked_variant
from stepaudio.text.hotwords import Hotwords
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.word_model import WORDS_FILE, WordModel

Decoding = Literal["auto", "greedy", "words", "mtp"]

_MAX_TOKENS_PER_S = 8  # fluent speech stays below 6; more is a loop of the decoder
_EXTRA_TOKENS = 8


@dataclass(frozen=True)
class Recognition:
    """What was made of one waveform.

    Attributes:
        text: the transcript.
        confidence: 0 to 1; with words the geometric mean of what the CTC head gives to each
            character, else of what the decoder gives to each token. 0 without a transcript.
        stats: what it cost.
    """

    text: str
    confidence: float
    stats: GenerationStats


def check_decoding(decoding: Decoding, words: WordModel | None) -> None:
    """Raise ConfigError if words are asked of a model without a word model."""
    if decoding == "words" and words is None:
        raise ConfigError(f"this model has no {WORDS_FILE}: use greedy decoding, or auto")


class Recognizer:
    """Transcribes waveforms of at most one piece."""

    def __init__(
        self,
        model: StepAudio2ForCausalLM,
        tokenizer: TextTokenizer,
        words: WordModel | None = None,
        decoding: Decoding = "auto",
        options: TwoPassOptions = DEFAULT_TWO_PASS_OPTIONS,
        *,
        blocks: MultiTokenPredictor | None = None,
        precision: Precision = "float",
    ) -> None:
        """Prepare a loaded model.

        Args:
            model: model to transcribe with.
            tokenizer: its tokenizer.
            words: its word model, if it has one.
            decoding: "greedy": the decoder writes; "mtp": the same text in fewer passes, see
                `MultiTokenGenerator`; "words": the decoder judges what a search over words has
                found, see `TwoPassDecoder`; "auto": words where there is a word model, else mtp
                where there are blocks, else greedy.
            options: widths and weights of the search over words.
            blocks: its prediction blocks, if it has any.
            precision: of the decoder's weights, see `Generator`.

        Raises:
            ConfigError: the model lacks what decoding or precision need, or the word model is not
                this model's.
        """
        check_decoding(decoding, words)
        if decoding == "mtp" and blocks is None:
            raise ConfigError("mtp decoding needs prediction blocks: give `blocks`")
        self._generator = Generator(model.eval(), text_only=True, precision=precision)
        self._encoder = model.config.audio_encoder_config
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._instruction = Prompts.from_dict(model.config.prompts).asr
        self._variant = checked_variant(model.config, model.config.name_or_path)
        self._writer: Generator | MultiTokenGenerator = self._generator
        if blocks is not None and decoding in ("auto", "mtp"):
            self._writer = MultiTokenGenerator(self._generator, blocks)
        self._two_pass: TwoPassDecoder | None = None
        if words is not None and decoding in ("auto", "words"):
            if words.phones != self._encoder.ctc_phones or not self._encoder.ctc_tokens:
                raise ConfigError(f"{WORDS_FILE} belongs to another model: use greedy decoding")
            self._two_pass = TwoPassDecoder(self._generator, words, tokenizer.encode, options)
        self._expectations = Expectations(self._generator, tokenizer, words, options)

    @property
    def model(self) -> StepAudio2ForCausalLM:
        """The model."""
        return self._generator.model

    @property
    def can_stream(self) -> bool:
        """Whether words can be searched while the encoder goes on chunk by chunk."""
        encoder = self._encoder
        streams = encoder.chunk_frames is not None and encoder.left_context is not None
        alone = encoder.geometry.adaptor_stride == 1 and encoder.mel_floor == "fixed"
        return self._two_pass is not None and streams and alone

    def two_pass(self, hotwords: Hotwords = NO_HOTWORDS) -> TwoPassDecoder:
        """The search over words, and the decoder that judges.

        Raises:
            ConfigError: there is no word model, or it cannot hear a hotword.
        """
        two_pass, _ = self._expect(hotwords)
        if two_pass is None:
            raise ConfigError(f"this model has no {WORDS_FILE}, or decodes without it")
        return two_pass

    def check_hotwords(self, hotwords: Hotwords) -> None:
        """Prepare hotwords, which are then ready for the next recognition.

        Raises:
            ConfigError: this model cannot hear one of them.
        """
        if hotwords:
            self._expect(hotwords)

    def _expect(self, hotwords: Hotwords) -> tuple[TwoPassDecoder | None, TokenBias | None]:
        """The way to decode with these hotwords."""
        if not hotwords:
            return self._two_pass, None
        if self._two_pass is not None:
            return self._expectations.two_pass(hotwords), None
        return None, self._expectations.bias(hotwords)

    def recognize(
        self, wavs: Sequence[Tensor], hotwords: Hotwords = NO_HOTWORDS
    ) -> tuple[list[str], list[GenerationStats]]:
        """Transcribe waveforms, float32 [samples] at 16 kHz each, and say what each cost.

        Args:
            wavs: what to transcribe.
            hotwords: words that are expected.

        Raises:
            ValueError: a waveform is longer than one piece.
            CapacityError: a waveform does not fit the model's context.
            ConfigError: this model cannot hear a hotword.
        """
        found = self.recognize_scored(wavs, hotwords)
        return [one.text for one in found], [one.stats for one in found]

    @torch.inference_mode()
    def recognize_scored(
        self, wavs: Sequence[Tensor], hotwords: Hotwords = NO_HOTWORDS
    ) -> list[Recognition]:
        """Transcribe as `recognize`, and say how certain each transcript is."""
        found = [Recognition("", 0.0, GenerationStats()) for _ in wavs]
        heard = [i for i, wav in enumerate(wavs) if self._num_tokens(wav)]
        if not heard:
            return found
        started = time.perf_counter()
        encoder = self._encoder
        mels = [log_mel(wavs[i], encoder.n_mels, floor=encoder.mel_floor) for i in heard]
        posteriors: list[CTCPosteriors] = []
        if self._two_pass is not None:
            latents, posteriors = self._generator.encode_with_ctc(mels)
        else:
            latents = self._generator.encode(mels)
        encode_s = time.perf_counter() - started
        prompts = [
            self.prompt(wavs[i].shape[-1], values) for i, values in zip(heard, latents, strict=True)
        ]
        completions = self._complete(prompts, posteriors, hotwords)
        audio_s = sum(prompt.audio_s for prompt in prompts)
        for place, (i, prompt, completion) in enumerate(
            zip(heard, prompts, completions, strict=True)
        ):
            text = self.text(completion)
            completion.stats.encode_s = encode_s * prompt.audio_s / audio_s
            frames = posteriors[place] if posteriors else None
            found[i] = Recognition(
                text, self._confidence(text, completion, frames), completion.stats
            )
        return found

    def _confidence(self, text: str, completion: Completion, frames: CTCPosteriors | None) -> float:
        if not text:
            return 0.0
        if frames is None:
            return math.exp(sum(completion.log_probs) / len(completion.log_probs))
        spelled = spelling_scores([text], frames.characters, self._encoder.ctc_tokens)
        return math.exp(float(spelled[0]) / len(text))

    def _complete(
        self,
        prompts: Sequence[GenerationPrompt],
        posteriors: Sequence[CTCPosteriors],
        hotwords: Hotwords,
    ) -> list[Completion]:
        two_pass, bias = self._expect(hotwords)
        if two_pass is not None:
            pairs = zip(prompts, posteriors, strict=True)
            return [two_pass.complete(prompt, heard) for prompt, heard in pairs]
        params = [
            SamplingParams(
                max_new_tokens=int(p.audio_s * _MAX_TOKENS_PER_S) + _EXTRA_TOKENS, bias=bias
            )
            for p in prompts
        ]
        return self._writer.generate(prompts, params, num_slots=len(prompts))

    def _num_tokens(self, wav: Tensor) -> int:
        if wav.shape[-1] > PIECE_SAMPLES:
            raise ValueError(f"a piece may have {PIECE_SAMPLES} samples, got {wav.shape[-1]}")
        return self._encoder.geometry.tokens_for_samples(wav.shape[-1])

    def prompt(self, num_samples: int, latents: Tensor) -> GenerationPrompt:
        """What a transcript continues: the instruction and the latents of so many samples."""
        parts = audio_parts(num_samples, self._encoder.geometry, "audio")
        prompt = task_prompt(self._template, self._variant, self._instruction, parts)
        return GenerationPrompt(prompt.ids, [latents], num_samples / SAMPLE_RATE)

    def text(self, completion: Completion) -> str:
        """What the decoder has written, on one line."""
        return " ".join(self._tokenizer.decode(completion.ids).split())
