"""Transcription in two passes: words from the phones, then the decoder chooses among them.

A decoder that has been trained on little speech goes on in words of its own. Here it never writes;
it judges the best transcripts of a search over pronunciations, beside the language model and both
CTC heads (two-pass recognition, Sainath et al., "Two-pass end-to-end speech recognition", 2019).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.generation.completion import Completion, GenerationPrompt
from stepaudio.generation.generator import CTCPosteriors, Generator
from stepaudio.generation.stats import GenerationStats
from stepaudio.generation.word_search import WordHypothesis, WordSearch, WordSearchOptions
from stepaudio.text.ctc import ctc_targets
from stepaudio.text.phrases import PhraseAutomaton
from stepaudio.text.word_model import WordModel

_UNSPELLABLE = -1e9  # log-probability of a text with more letters than there are frames


@dataclass(frozen=True)
class TwoPassOptions:
    """Settings; the score of a transcript is the weighted sum of its log-probabilities.

    Attributes:
        search: the first pass.
        phones: weight of the phone head.
        characters: weight of the character head.
        language: weight of the language model.
        decoder: weight of the decoder.
        word_reward: added for every word.
        num_judged: transcripts that the decoder judges: the best by all other scores.
    """

    search: WordSearchOptions = field(default_factory=WordSearchOptions)
    phones: float = 0.7
    characters: float = 0.3
    language: float = 1.0
    decoder: float = 0.25
    word_reward: float = 0.0
    num_judged: int = 16


DEFAULT_TWO_PASS_OPTIONS = TwoPassOptions()


class TwoPassDecoder:
    """Search over words, judged by the decoder."""

    def __init__(
        self,
        generator: Generator,
        words: WordModel,
        tokenize: Callable[[str], list[int]],
        options: TwoPassOptions = DEFAULT_TWO_PASS_OPTIONS,
        *,
        wanted: PhraseAutomaton | None = None,
    ) -> None:
        """Prepare both passes.

        Args:
            generator: the decoder, of a model with both CTC heads.
            words: what can be said.
            tokenize: text to the decoder's tokens.
            options: weights and widths.
            wanted: phrases (of ids of words) that make a transcript better, such as hotwords.
        """
        self._generator = generator
        self._words = words
        self._tokenize = tokenize
        self._options = options
        self._characters = generator.model.config.audio_encoder_config.ctc_tokens
        self.search = WordSearch(words.tree(), words.ngrams, options.search, wanted)

    @torch.inference_mode()
    def complete(self, prompt: GenerationPrompt, posteriors: CTCPosteriors) -> Completion:
        """Transcribe one clip.

        Args:
            prompt: what the transcript continues, with the clip's latents.
            posteriors: what the clip's CTC heads heard.

        Raises:
            CapacityError: the clip does not fit the model's context.
        """
        started = time.perf_counter()
        hypotheses = self.search(posteriors.phones.float().cpu().numpy())
        completion = self.judge(prompt, posteriors.characters, hypotheses)
        completion.stats.decode_s = time.perf_counter() - started
        return completion

    def text(self, words: Sequence[int]) -> str:
        """Ids of words as text."""
        return self._words.text(words)

    @torch.inference_mode()
    def judge(
        self,
        prompt: GenerationPrompt,
        characters: Tensor,
        hypotheses: Sequence[WordHypothesis],
    ) -> Completion:
        """Choose among the transcripts that a search has found.

        Args:
            prompt: what the transcript continues, with the clip's latents.
            characters: [T, 1 + characters] posteriors of the clip.
            hypotheses: the search's transcripts; none: silence.

        Raises:
            CapacityError: the clip does not fit the model's context.
        """
        started = time.perf_counter()
        if not hypotheses:
            hypotheses = [WordHypothesis((), 0.0, 0.0)]
        texts = [self._words.text(hypothesis.words) for hypothesis in hypotheses]
        scores = self._first_scores(hypotheses, texts, characters)
        judged = np.argsort(-scores)[: self._options.num_judged].tolist()
        continuations = [self._tokenize(texts[i]) if texts[i] else [] for i in judged]
        stats = GenerationStats(audio_s=prompt.audio_s, prompt_tokens=len(prompt.ids))
        best = 0
        if len(judged) > 1:
            judgement = self._generator.score(prompt, continuations).cpu().numpy()
            best = int(np.argmax(scores[judged] + self._options.decoder * judgement))
            stats.passes = 1
        stats.tokens = len(continuations[best]) + 1
        stats.decode_s = time.perf_counter() - started
        return Completion(continuations[best], [], "stop", stats)

    def _first_scores(
        self, hypotheses: Sequence[WordHypothesis], texts: Sequence[str], characters: Tensor
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Score of each transcript without the decoder's judgement."""
        options = self._options
        spelled = spelling_scores(texts, characters, self._characters).double().cpu().numpy()
        # Finite, because a weight may be zero.
        spelled = np.maximum(spelled, _UNSPELLABLE)
        phones = np.array([hypothesis.phones for hypothesis in hypotheses])
        language = np.array([hypothesis.language for hypothesis in hypotheses])
        counts = np.array([len(hypothesis.words) for hypothesis in hypotheses])
        total: np.ndarray[tuple[int], np.dtype[np.float64]] = (
            options.phones * phones
            + options.characters * spelled
            + options.language * language
            + options.word_reward * counts
            + np.array([hypothesis.bonus for hypothesis in hypotheses])
        )
        return total


def spelling_scores(texts: Sequence[str], log_probs: Tensor, characters: str) -> Tensor:
    """CTC log-probability [N] of each text in one clip.

    Args:
        texts: what may have been said.
        log_probs: [T, 1 + characters] posteriors of the clip.
        characters: the head's characters, from index 1.
    """
    targets = [torch.tensor(ctc_targets(text, characters), dtype=torch.long) for text in texts]
    sizes = torch.tensor([len(target) for target in targets], device=log_probs.device)
    padded = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True).to(log_probs.device)
    frames = log_probs[:, None].expand(-1, len(texts), -1)
    lens = torch.full_like(sizes, len(log_probs))
    return -F.ctc_loss(frames, padded, lens, sizes, reduction="none")
