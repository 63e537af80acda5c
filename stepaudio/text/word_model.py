"""The words that a model can hear: their pronunciations and what follows what.

One file, ``words.safetensors``, beside the weights of a model whose phone head needs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from stepaudio.atomic import write_bytes_atomic
from stepaudio.errors import CheckpointError
from stepaudio.text.ngram import NUM_RESERVED, NgramModel
from stepaudio.text.packed_arrays import pack, unpack
from stepaudio.text.word_tree import WordTree

WORDS_FILE = "words.safetensors"
_NGRAMS = "ngrams."


@dataclass(frozen=True)
class WordModel:
    """Vocabulary, pronunciations and language model; word ids begin at `NUM_RESERVED`.

    Attributes:
        words: the words, by id less `NUM_RESERVED`.
        phones: names of the phones, by index less 1.
        num_spoken: [words] number of pronunciations of each word.
        spoken_lens: number of phones of each pronunciation, word by word.
        spoken_phones: phones of all pronunciations, one behind the other.
        ngrams: language model.
    """

    words: tuple[str, ...]
    phones: tuple[str, ...]
    num_spoken: NDArray[np.uint8]
    spoken_lens: NDArray[np.uint8]
    spoken_phones: NDArray[np.uint8]
    ngrams: NgramModel

    def tree(self) -> WordTree:
        """The words in a tree of their pronunciations."""
        ids = np.arange(NUM_RESERVED, NUM_RESERVED + len(self.words))
        spoken, lens = (a.astype(np.int64) for a in (self.spoken_phones, self.spoken_lens))
        return WordTree.build(np.repeat(ids, self.num_spoken), spoken, lens, len(self.phones))

    def text(self, ids: Sequence[int]) -> str:
        """Words as text."""
        return " ".join(self.words[word - NUM_RESERVED] for word in ids)

    def with_words(
        self, spoken: Mapping[str, Sequence[Sequence[str]]], log_prob: float
    ) -> WordModel:
        """The model with more words behind the known ones.

        Args:
            spoken: new words with their pronunciations in phones of the model.
            log_prob: log-probability of each new word, whatever stands before it.
        """
        index = {phone: number for number, phone in enumerate(self.phones, 1)}
        ways = [way for several in spoken.values() for way in several]

        def joined(known: NDArray[np.uint8], new: Iterable[int]) -> NDArray[np.uint8]:
            return np.concatenate([known, np.array(list(new), np.uint8)])

        return replace(
            self,
            words=(*self.words, *spoken),
            num_spoken=joined(self.num_spoken, map(len, spoken.values())),
            spoken_lens=joined(self.spoken_lens, map(len, ways)),
            spoken_phones=joined(self.spoken_phones, (index[p] for way in ways for p in way)),
            ngrams=self.ngrams.with_words(np.full(len(spoken), log_prob, np.float32)),
        )

    def save(self, folder: Path) -> Path:
        """Write the file, atomically; returns its path.

        Raises:
            OutputError: it cannot be written.
        """
        arrays = {
            "words": _as_array(self.words),
            "phones": _as_array(self.phones),
            "num_spoken": self.num_spoken,
            "spoken_lens": self.spoken_lens,
            "spoken_phones": self.spoken_phones,
            **{_NGRAMS + name: array for name, array in self.ngrams.arrays().items()},
        }
        path = folder / WORDS_FILE
        packed, types = pack(arrays)
        # One entry: several are written in any order, and equal models shall be equal files.
        write_bytes_atomic(path, save(packed, {"types": json.dumps(types)}))
        return path

    @classmethod
    def load(cls, folder: Path) -> WordModel | None:
        """Read the file of a model's folder; None if there is none.

        Raises:
            CheckpointError: it is damaged.
        """
        path = folder / WORDS_FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, "np") as file:
                packed = {name: file.get_tensor(name) for name in file.keys()}
                types = json.loads(file.metadata()["types"])
            arrays = unpack(packed, types)
            ngrams = {
                n.removeprefix(_NGRAMS): a for n, a in arrays.items() if n.startswith(_NGRAMS)
            }
            words, phones = (_as_texts(arrays[name]) for name in ("words", "phones"))
            counts, lens, indices = (
                arrays[name].astype(np.uint8, copy=False)
                for name in ("num_spoken", "spoken_lens", "spoken_phones")
            )
            model = cls(words, phones, counts, lens, indices, NgramModel.from_arrays(ngrams))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); copy it again") from error
        if not model._is_consistent():
            raise CheckpointError(f"{path}: damaged (its parts do not fit); copy it again")
        return model

    def _is_consistent(self) -> bool:
        """Whether sizes agree and every index is in range; numbers come from a file."""
        phones = self.spoken_phones
        return (
            self.ngrams.vocab_size
            == len(self.words) + NUM_RESERVED
            == self.num_spoken.size + NUM_RESERVED
            and int(self.num_spoken.sum()) == self.spoken_lens.size
            and int(self.spoken_lens.sum()) == phones.size > 0
            and bool(self.spoken_lens.min() > 0 and phones.min() > 0)
            and int(phones.max()) <= len(self.phones)
            and self.ngrams.is_consistent()
        )


def _as_array(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Lines of text as bytes."""
    return np.frombuffer("\n".join(texts).encode(), np.uint8)


def _as_texts(data: NDArray[np.generic]) -> tuple[str, ...]:
    """What `_as_array` was given."""
    return tuple(data.tobytes().decode().split("\n"))
