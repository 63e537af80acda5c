"""Beam search over words whose phones a CTC head hears, with a language model.

Time runs in the outer loop: a hypothesis is a history of words and a place in the tree of
pronunciations, with the probability of all CTC paths that lead there (Hannun et al.,
"First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs",
2014). All hypotheses of a frame are rows of a few arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepaudio.text.ngram import END, Contexts, NgramModel
from stepaudio.text.phrases import NO_PHRASE, PhraseAutomaton
from stepaudio.text.word_tree import ROOT, WordTree

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_BLANK = 0
_IMPOSSIBLE = -1e30
_NOTHING_SAID = 0  # history of a hypothesis that has no finished word
_MIX = np.uint64(0x9E3779B97F4A7C15)

# Number of a history -> the history without its last word, and that word.
_Histories = dict[int, tuple[int, int]]


@dataclass(frozen=True)
class WordSearchOptions:
    """Settings of the search; scores are natural logarithms.

    Attributes:
        language_weight: weight of the language model beside the phones.
        word_reward: added for every word.
        num_hypotheses: hypotheses that live on from frame to frame.
        margin: a hypothesis that is this much worse than the best one is dropped.
        phone_margin: a phone that is this much less likely than its frame's best is not tried.
        num_results: transcripts that are returned.
        wanted_loss: what the bonus of a wanted word loses, for the choice of hypotheses that live
            on, with every phone of it that is missing.
    """

    language_weight: float = 1.0
    word_reward: float = 0.5
    num_hypotheses: int = 160
    margin: float = 14.0
    phone_margin: float = 7.0
    num_results: int = 32
    wanted_loss: float = 0.5


DEFAULT_WORD_SEARCH_OPTIONS = WordSearchOptions()


@dataclass(frozen=True)
class WordHypothesis:
    """A transcript and its scores.

    Attributes:
        words: ids of the words.
        phones: log-probability of the pronunciation.
        language: log-probability of the words.
        bonus: what the wanted phrases in it are worth.
    """

    words: tuple[int, ...]
    phones: float
    language: float
    bonus: float = 0.0


class _Beam(NamedTuple):
    """Hypotheses, a row each.

    `history` numbers the finished words, `pair` and `word` are their `Contexts`, `phrase` is their
    state in the automaton of wanted phrases; `language` and `bonus` are what they add to the score;
    `phone` is the last phone; `symbol` and `blank` are the log-probabilities of the paths that end
    in it and behind it.
    """

    history: NDArray[np.uint64]
    pair: Ints
    word: Ints
    phrase: Ints
    language: Floats
    bonus: Floats
    node: Ints
    phone: Ints
    symbol: Floats
    blank: Floats

    def rows(self, chosen: Ints) -> _Beam:
        """Some of the hypotheses, in this order."""
        return _Beam._make(column[chosen] for column in self)


class SearchState(NamedTuple):
    """A search on its way through a clip: its hypotheses, and what their histories consist of."""

    beam: _Beam
    histories: _Histories


class WordSearch:
    """Turns phone posteriors into transcripts."""

    def __init__(
        self,
        tree: WordTree,
        language: NgramModel,
        options: WordSearchOptions = DEFAULT_WORD_SEARCH_OPTIONS,
        wanted: PhraseAutomaton | None = None,
    ) -> None:
        """Take the words with their pronunciations, what follows what, and the settings.

        Args:
            tree: words in a tree of their pronunciations.
            language: language model.
            options: widths and weights.
            wanted: phrases (of ids of words) that make a transcript better; None: none.
        """
        self._tree = tree
        self._language = language
        self._options = options
        self._wanted = wanted or PhraseAutomaton.build((), {})
        self._column = self._wanted.column_of(language.vocab_size)
        # A word that has begun is as good as the most frequent one that it can become, and the
        # more of a wanted one is there the better.
        likely = np.float32(options.language_weight) * language.unigram
        gains = self._wanted.gains[NO_PHRASE, self._column].astype(np.float32)
        wanted_now = np.where(gains > 0, likely + gains, -np.inf).astype(np.float32)
        self._prospect = np.maximum(
            tree.best_below(likely), tree.best_below(wanted_now, options.wanted_loss)
        )

    def __call__(self, log_probs: NDArray[np.float32]) -> list[WordHypothesis]:
        """Best transcripts, the best first; one without words means silence.

        Args:
            log_probs: [T, 1 + phones] posteriors of one clip.
        """
        return self.finish(self.advance(self.start(), log_probs))

    def start(self) -> SearchState:
        """State of a search that has heard nothing."""
        start = self._language.start()
        certain = np.zeros(1)
        beam = _Beam(
            np.array([_NOTHING_SAID], np.uint64), start.pair, start.word, np.array([NO_PHRASE]),
            certain, certain, np.array([ROOT]), np.array([_BLANK]), certain + _IMPOSSIBLE, certain,
        )  # fmt: skip
        return SearchState(beam, {})

    def advance(self, state: SearchState, log_probs: NDArray[np.float32]) -> SearchState:
        """The search some frames on; those of all calls together are one clip."""
        beam, histories = state.beam, dict(state.histories)
        for frame in log_probs.astype(np.float64):
            beam = self._advance(beam, frame, histories)
        return SearchState(beam, _reachable(beam, histories))

    def finish(self, state: SearchState) -> list[WordHypothesis]:
        """Best transcripts of what was heard; all of them begin with the `certain_words`."""
        return self._finish(state.beam, dict(state.histories))

    def certain_words(self, state: SearchState) -> tuple[int, ...]:
        """The words that all hypotheses begin with: no later frame can change them."""
        spoken = [_words(history, state.histories) for history in set(state.beam.history.tolist())]
        first, last = min(spoken), max(spoken)
        same = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        return first[: next(same, min(len(first), len(last)))]

    def settle(
        self, state: SearchState, doubt: float, *, older_doubt: float, num_recent: int
    ) -> SearchState:
        """Decide for words that are almost certain, by dropping the hypotheses without them.

        Args:
            state: what was heard.
            doubt: share of the probability of all hypotheses that may be dropped, 0 to 1.
            older_doubt: the same for words that have `num_recent` others behind them, of which
                what follows will hardly change the opinion.
            num_recent: see `older_doubt`.
        """
        scores = self._scores(state.beam)
        share = np.exp(scores - scores.max())
        share /= share.sum()
        histories = state.beam.history.tolist()
        spoken = {history: _words(history, state.histories) for history in set(histories)}
        kept = np.ones(len(histories), bool)
        likely = self.likely_words(state)
        for place, word in enumerate(likely):
            allowed = older_doubt if place < len(likely) - num_recent else doubt
            agrees = np.array([spoken[h][place : place + 1] == (word,) for h in histories])
            if share[kept & agrees].sum() < 1 - allowed:
                break
            kept &= agrees
        beam = state.beam.rows(np.flatnonzero(kept))
        return SearchState(beam, _reachable(beam, state.histories))

    def likely_words(self, state: SearchState) -> tuple[int, ...]:
        """The finished words of the best hypothesis so far."""
        best = int(np.argmax(self._scores(state.beam)))
        return _words(int(state.beam.history[best]), state.histories)

    def _advance(self, beam: _Beam, frame: Floats, histories: _Histories) -> _Beam:
        """The hypotheses one frame on; notes the histories that are new."""
        total = np.logaddexp(beam.symbol, beam.blank)
        again = np.where(beam.phone == _BLANK, _IMPOSSIBLE, beam.symbol + frame[beam.phone])
        stayed = beam._replace(symbol=again, blank=total + frame[_BLANK])
        phones = 1 + np.flatnonzero(frame[1:] > frame.max() - self._options.phone_margin)
        if not len(phones):
            return stayed
        inside = self._expand(beam, total, phones, frame)
        ended, parents = self._end_words(beam)
        at_root = ended._replace(node=np.full(len(ended.node), ROOT))
        outside = self._expand(at_root, np.logaddexp(ended.symbol, ended.blank), phones, frame)
        kept = self._prune(_merge([stayed, inside, outside]))
        new = np.flatnonzero(np.isin(ended.history, kept.history))
        _note(histories, ended.rows(new), parents[new])
        return kept

    def _expand(self, beam: _Beam, total: Floats, phones: Ints, frame: Floats) -> _Beam:
        """The hypotheses with one phone more."""
        children = self._tree.children[beam.node[:, None], phones]
        rows, columns = np.nonzero(children)
        phone = phones[columns]
        # The same phone twice needs a blank between.
        before = np.where(phone == beam.phone[rows], beam.blank[rows], total[rows])
        return beam.rows(rows)._replace(
            node=children[rows, columns].astype(np.int64),
            phone=phone,
            symbol=before + frame[phone],
            blank=np.full(len(rows), _IMPOSSIBLE),
        )

    def _end_words(self, beam: _Beam) -> tuple[_Beam, NDArray[np.uint64]]:
        """The hypotheses that may end a word here, with that word; and their earlier histories."""
        rows, words = self._tree.words_at(beam.node)
        beam = beam.rows(rows)
        contexts = Contexts(beam.pair, beam.word)
        score = self._options.language_weight * self._language.score(contexts, words)
        contexts = self._language.extend(contexts, words)
        column = self._column[words]
        number = (beam.history ^ words.astype(np.uint64)) * _MIX
        ended = beam._replace(
            history=number ^ (number >> np.uint64(29)),
            pair=contexts.pair,
            word=contexts.word,
            phrase=self._wanted.following[beam.phrase, column],
            language=beam.language + score + self._options.word_reward,
            bonus=beam.bonus + self._wanted.gains[beam.phrase, column],
        )
        return ended, beam.history

    def _scores(self, beam: _Beam) -> Floats:
        total = np.logaddexp(beam.symbol, beam.blank)
        scores: Floats = total + beam.language + beam.bonus + self._prospect[beam.node]
        return scores

    def _prune(self, beam: _Beam) -> _Beam:
        scores = self._scores(beam)
        kept = np.flatnonzero(scores > scores.max() - self._options.margin)
        if len(kept) > self._options.num_hypotheses:
            order = np.argpartition(-scores[kept], self._options.num_hypotheses)
            kept = kept[order[: self._options.num_hypotheses]]
        return beam.rows(kept)

    def _finish(self, beam: _Beam, histories: _Histories) -> list[WordHypothesis]:
        options = self._options
        silent = beam.rows(np.flatnonzero((beam.history == _NOTHING_SAID) & (beam.node == ROOT)))
        spoken, parents = self._end_words(beam)
        _note(histories, spoken, parents)
        ended = _join([silent, spoken])
        phones = np.logaddexp(ended.symbol, ended.blank)
        end = np.full(len(ended.word), END)
        language = self._language.score(Contexts(ended.pair, ended.word), end)
        bonus = ended.bonus - self._wanted.pending[ended.phrase]
        scores = phones + ended.language + options.language_weight * language + bonus
        # One transcript may be here in several pronunciations.
        best: dict[tuple[int, ...], WordHypothesis] = {}
        for row in np.argsort(-scores, kind="stable").tolist():
            words = _words(int(ended.history[row]), histories)
            before = ended.language[row] - options.word_reward * len(words)
            total = float(before / options.language_weight + language[row])
            found = WordHypothesis(words, float(phones[row]), total, float(bonus[row]))
            best.setdefault(words, found)
            if len(best) == options.num_results:
                break
        return list(best.values())


def _note(histories: _Histories, ended: _Beam, parents: NDArray[np.uint64]) -> None:
    """Keep what the histories of some hypotheses consist of."""
    columns = (ended.history.tolist(), parents.tolist(), ended.word.tolist())
    for history, parent, word in zip(*columns, strict=True):
        histories.setdefault(history, (parent, word))


def _reachable(beam: _Beam, histories: _Histories) -> _Histories:
    """The histories that live hypotheses still have."""
    kept: _Histories = {}
    for history in set(beam.history.tolist()):
        while history != _NOTHING_SAID and history not in kept:
            kept[history] = histories[history]
            history = kept[history][0]
    return kept


def _words(history: int, histories: _Histories) -> tuple[int, ...]:
    words: list[int] = []
    while history != _NOTHING_SAID:
        history, word = histories[history]
        words.append(word)
    return tuple(reversed(words))


def _join(beams: Sequence[_Beam]) -> _Beam:
    return _Beam(*(np.concatenate(columns) for columns in zip(*beams, strict=True)))


def _merge(beams: Sequence[_Beam]) -> _Beam:
    """Hypotheses that are the same in words and place, their paths summed."""
    beam = _join(beams)
    key = beam.history * _MIX + beam.node.astype(np.uint64)
    _, first, owner = np.unique(key, return_index=True, return_inverse=True)
    return beam.rows(first)._replace(
        symbol=_sum_by(owner, beam.symbol, len(first)), blank=_sum_by(owner, beam.blank, len(first))
    )


def _sum_by(owner: Ints, log_probs: Floats, num_owners: int) -> Floats:
    """Logarithm of the summed probabilities of each owner."""
    largest = np.full(num_owners, _IMPOSSIBLE)
    np.maximum.at(largest, owner, log_probs)
    sums = np.bincount(owner, np.exp(log_probs - largest[owner]), num_owners)
    total: Floats = largest + np.log(sums)
    return total
