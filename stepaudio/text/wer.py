"""Word and character error rates: the only place that uses jiwer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorRate:
    """Errors of hypotheses against references. Rates of several sets are added with ``+``.

    Attributes:
        words: words (or characters) in the references.
        substitutions: of them heard as another word.
        deletions: of them not in the hypotheses.
        insertions: words of the hypotheses that no reference has.
    """

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word; with empty references the number of insertions."""
        return self.errors / max(self.words, 1)

    def __add__(self, other: ErrorRate) -> ErrorRate:
        return ErrorRate(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def _pairs(references: Iterable[str], hypotheses: Iterable[str]) -> list[tuple[str, str]]:
    references, hypotheses = list(references), list(hypotheses)
    if len(references) != len(hypotheses):
        raise ValueError(
            f"as many hypotheses as references are needed, got {len(hypotheses)} "
            f"and {len(references)}"
        )
    return list(zip(references, hypotheses, strict=True))


def _spaced_characters(text: str) -> str:
    return " ".join("".join(text.split()))


def word_error_rate(references: Iterable[str], hypotheses: Iterable[str]) -> ErrorRate:
    """Count word errors over all pairs together, with the fewest edits per pair.

    Words are what white space parts; both sides should come from the same
    `TextNormalizer.for_scoring`. An empty reference makes every word heard an insertion, an empty
    hypothesis every reference word a deletion.

    Raises:
        ValueError: there are not as many hypotheses as references.
    """
    pairs = _pairs(references, hypotheses)
    # jiwer refuses empty references.
    spoken = [(ref, hyp) for ref, hyp in pairs if ref.strip()]
    insertions = sum(len(hyp.split()) for ref, hyp in pairs if not ref.strip())
    if not spoken:
        return ErrorRate(insertions=insertions)
    import jiwer

    out = jiwer.process_words([ref for ref, _ in spoken], [hyp for _, hyp in spoken])
    return ErrorRate(
        words=out.hits + out.substitutions + out.deletions,
        substitutions=out.substitutions,
        deletions=out.deletions,
        insertions=out.insertions + insertions,
    )


def character_error_rate(references: Iterable[str], hypotheses: Iterable[str]) -> ErrorRate:
    """Count character errors, white space left out, as is usual for Chinese.

    Raises:
        ValueError: there are not as many hypotheses as references.
    """
    pairs = _pairs(references, hypotheses)
    return word_error_rate(
        [_spaced_characters(ref) for ref, _ in pairs], [_spaced_characters(hyp) for _, hyp in pairs]
    )


def alignment_report(
    references: Sequence[str], hypotheses: Sequence[str], names: Sequence[str] | None = None
) -> str:
    """Show the pairs that differ, word under word, the worst ones first.

    Each block has the name, the error rate, and the lines REF and HYP with the errors marked below
    as S, D and I.

    Args:
        references: what was said.
        hypotheses: what was recognised.
        names: name of every pair; its number if omitted.

    Raises:
        ValueError: the lengths differ.
    """
    pairs = _pairs(references, hypotheses)
    names = [str(number) for number in range(1, len(pairs) + 1)] if names is None else names
    blocks = []
    for name, (ref, hyp) in zip(names, pairs, strict=True):
        rate = word_error_rate([ref], [hyp])
        if rate.errors:
            head = f"{name}: {rate.errors} of {rate.words} words ({100 * rate.rate:.1f} %)"
            blocks.append((rate.rate, f"{head}\n{_aligned(ref, hyp)}\n"))
    blocks.sort(key=lambda block: -block[0])
    return "\n".join(text for _, text in blocks)


def _aligned(reference: str, hypothesis: str) -> str:
    if not reference.strip():
        return f"REF:\nHYP: {hypothesis}"
    import jiwer

    shown: str = jiwer.visualize_alignment(
        jiwer.process_words(reference, hypothesis), show_measures=False
    )
    return "\n".join(line.rstrip() for line in shown.splitlines()[1:] if line.strip())
