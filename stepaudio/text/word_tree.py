"""Words in a tree of their pronunciations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

ROOT = 0
"""Node before the first phone. No node has it as a child, so that 0 also means "no child"."""


@dataclass(frozen=True)
class WordTree:
    """Nodes of the tree; node 0 is the root, and children have larger numbers than parents.

    Attributes:
        children: [nodes, 1 + phones] child behind each phone (from 1), or 0.
        first_word: [nodes + 1] place in `words` where each node's words begin.
        words: ids of the words that end at a node, node by node.
        levels: first node of each depth, and the number of nodes.
    """

    children: NDArray[np.int32]
    first_word: Ints
    words: Ints
    levels: tuple[int, ...]

    @classmethod
    def build(cls, words: Ints, phones: Ints, lengths: Ints, num_phones: int) -> WordTree:
        """Make the tree of some pronunciations.

        Args:
            words: [N] word of each pronunciation.
            phones: phones (from 1) of all pronunciations, one behind the other.
            lengths: [N] number of phones of each; at least 1.
            num_phones: number of phones there are.
        """
        ends = np.cumsum(lengths)
        node = np.full(len(lengths), ROOT, np.int64)
        tables, levels = [], [ROOT, 1]
        for depth in range(int(lengths.max(initial=0))):
            alive = np.flatnonzero(lengths > depth)
            here = phones[ends[alive] - lengths[alive] + depth]
            edges, owner = np.unique(node[alive] * (num_phones + 1) + here, return_inverse=True)
            node[alive] = levels[-1] + owner
            tables.append(edges)
            levels.append(levels[-1] + len(edges))
        children = np.zeros((levels[-1], num_phones + 1), np.int32)
        edges = np.concatenate([np.zeros(0, np.int64), *tables])
        children.reshape(-1)[edges] = np.arange(1, levels[-1])
        order = np.argsort(node, kind="stable")
        first_word = np.searchsorted(node[order], np.arange(levels[-1] + 1))
        return cls(children, first_word, words[order], tuple(levels))

    def words_at(self, nodes: Ints) -> tuple[Ints, Ints]:
        """Rows of `nodes` at which a word ends, and the word; a row for each homophone."""
        first = self.first_word[nodes]
        counts = self.first_word[nodes + 1] - first
        rows = np.repeat(np.arange(len(nodes)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.words[first[rows] + within]

    def best_below(self, scores: Floats, loss: float = 0.0) -> Floats:
        """[nodes] best of the scores (by word) among the words at and below each node.

        Args:
            scores: [words] by id.
            loss: what a score loses with every phone that is missing to its word.
        """
        best = np.full(len(self.children), -np.inf, np.float32)
        owners = np.repeat(np.arange(len(best)), np.diff(self.first_word))
        np.maximum.at(best, owners, scores[self.words])
        for start, stop in zip(self.levels[-3::-1], self.levels[-2:0:-1], strict=True):
            rows, columns = np.nonzero(self.children[start:stop])
            np.maximum.at(best, start + rows, best[self.children[start + rows, columns]] - loss)
        return best
