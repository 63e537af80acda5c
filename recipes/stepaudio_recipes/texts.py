"""The text pool of the recipes: sentences by source, held-out ones taken away, order seeded."""

import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stepaudio.errors import StepAudioError
from stepaudio_recipes.spoken_form import split_sentences, spoken_form

DICTIONARY = "cmudict.dict.gz"
MIN_SPOKEN_WORDS = 2
MAX_SPOKEN_WORDS = 16
MAX_TEXT_WORDS = 40
# A word that no dictionary knows is read differently by every synthesizer; one is tolerable.
_MAX_UNKNOWN_WORDS = 1


@dataclass(frozen=True)
class Sentence:
    """One sentence in the training form.

    Attributes:
        text: The training form.
        source: Name of the text source, a key of `TEXT_SOURCES`.
    """

    text: str
    source: str


@dataclass(frozen=True)
class Turn:
    """A paragraph or dialogue turn: as written, and its sentences in the training form.

    Sentences that have no training form are left out of `sentences`.
    """

    raw: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class TextPool:
    """All text that the recipes train on.

    Attributes:
        sentences: Unique sentences of all lengths, in the order of the files.
        turns: Unique paragraphs and dialogue turns.
        words: Words of the pronunciation dictionary.
    """

    sentences: tuple[Sentence, ...]
    turns: tuple[Turn, ...]
    words: tuple[str, ...]

    def without(self, held_out: AbstractSet[str]) -> "TextPool":
        """Return the pool without the sentences in `held_out` and the turns that hold one."""
        kept = tuple(item for item in self.sentences if item.text not in held_out)
        turns = tuple(turn for turn in self.turns if not held_out & set(turn.sentences))
        return TextPool(sentences=kept, turns=turns, words=self.words)


@dataclass(frozen=True)
class TextSource:
    """Where sentences come from, how often they are spoken, and under which licence.

    Attributes:
        file: Name in the `text` folder of the data.
        share: Share of the synthetic sentences.
        license: Licence of the text.
        paragraphs: Gives the paragraphs of one parsed row.
    """

    file: str
    share: float
    license: str
    paragraphs: Callable[[Any], Iterable[str]]


def _turns(row: Any) -> Iterator[str]:
    return (turn["text"] for turn in row["turns"])


def _reward_turns(row: Any) -> Iterator[str]:
    for turn in [*json.loads(row["context"]), json.loads(row["generation"])]:
        if isinstance(turn, dict) and isinstance(turn.get("text"), str):
            yield turn["text"]


def _instructions(row: Any) -> Iterator[str]:
    # An absent input is NaN in the original table.
    keys = ("instruction", "input", "response1", "response2")
    return (row[key] for key in keys if isinstance(row[key], str))


def _passages(row: Any) -> Iterator[str]:
    for sentences in row["context"]["sentences"]:
        yield " ".join(sentence.strip() for sentence in sentences)


TEXT_SOURCES = {
    "topical_chat": TextSource("topical_chat.jsonl.gz", 0.45, "CDLA-Sharing-1.0", _turns),
    "hotpotqa": TextSource(
        "hotpotqa_dev_qa.jsonl.gz", 0.12, "CC-BY-SA-4.0", lambda row: [row["question"]]
    ),
    "hotpotqa_passages": TextSource(
        "hotpotqa_distractor_sample.jsonl.gz", 0.03, "CC-BY-SA-4.0", _passages
    ),
    "sgd": TextSource("sgd_task_dialogue.jsonl.gz", 0.24, "CC-BY-SA-4.0", _turns),
    "taskmaster4": TextSource("taskmaster4_coffee.jsonl.gz", 0.05, "CC-BY-4.0", _turns),
    "taskmaster_reward": TextSource("taskmaster_reward.jsonl.gz", 0.03, "CC-BY-4.0", _reward_turns),
    "pandalm": TextSource("pandalm_human_preference.jsonl.gz", 0.08, "Apache-2.0", _instructions),
}
PROSE_SOURCES = frozenset({"topical_chat", "hotpotqa"})


def seeded_unit(seed: int, *key: object) -> float:
    """Return a number in (0, 1) that depends on `seed` and `key` only, on every machine."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return (int.from_bytes(digest[:8], "big") + 0.5) / 2**64


def _read_jsonl_gz(path: Path) -> Iterator[Any]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise StepAudioError(f"{path}: cannot read this text ({error}); fetch it anew") from error


def _read_dictionary(path: Path) -> tuple[str, ...]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        words = (line.split(" ", 1)[0] for line in lines)
        # "word(2)" lines are further pronunciations of a word that is there already.
        return tuple(dict.fromkeys(word for word in words if spoken_form(word) == word))


def read_text_pool(text_dir: Path) -> TextPool:
    """Read the text sources present in `text_dir`.

    Args:
        text_dir: The `text` folder of the data: gzipped JSON lines and `cmudict.dict.gz`.

    Raises:
        StepAudioError: If no source is there, or one cannot be read.
    """
    # Task dialogues repeat their sentences a lot.
    form_of = lru_cache(maxsize=None)(spoken_form)
    turns: dict[str, str] = {}
    for name, source in TEXT_SOURCES.items():
        if (path := text_dir / source.file).exists():
            for row in _read_jsonl_gz(path):
                turns |= {
                    " ".join(part.split()): name for part in source.paragraphs(row) if part.strip()
                }
    if not turns:
        raise StepAudioError(f"{text_dir}: holds none of the text sources; give a data folder")
    sentences: dict[str, str] = {}
    parsed = []
    for raw, name in turns.items():
        spoken = [text for part in split_sentences(raw) if (text := form_of(part))]
        parsed.append(Turn(raw, tuple(spoken)))
        for text in spoken:
            if len(text.split()) <= MAX_TEXT_WORDS:
                sentences.setdefault(text, name)
    dictionary = text_dir / DICTIONARY
    return TextPool(
        sentences=tuple(Sentence(text, name) for text, name in sentences.items()),
        turns=tuple(parsed),
        words=_read_dictionary(dictionary) if dictionary.exists() else (),
    )


def speakable(pool: TextPool, seed: int) -> list[Sentence]:
    """Return the sentences worth speaking, in a seeded order that keeps each source's share.

    The order is an exponential race: a sentence's key is an exponential draw with its source's
    share divided by the source's size as rate, so every prefix has about the wanted shares.
    """
    known = frozenset(pool.words)
    chosen = [item for item in pool.sentences if _is_speakable(item.text, known)]
    sizes: dict[str, int] = {}
    for item in chosen:
        sizes[item.source] = sizes.get(item.source, 0) + 1
    rates = {name: TEXT_SOURCES[name].share / size for name, size in sizes.items()}
    return sorted(
        chosen,
        key=lambda item: -math.log(seeded_unit(seed, "order", item.text)) / rates[item.source],
    )


def _is_speakable(text: str, known: frozenset[str]) -> bool:
    words = text.split()
    if not MIN_SPOKEN_WORDS <= len(words) <= MAX_SPOKEN_WORDS:
        return False
    unknown = [
        word for word in words if known and word not in known and word.split("'")[0] not in known
    ]
    return len(unknown) <= _MAX_UNKNOWN_WORDS and all(set(word) & set("aeiouy") for word in unknown)
