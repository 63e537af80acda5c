"""Roman numerals, where what stands before them shows that they are none of the words I, V or X."""

from __future__ import annotations

import re

from num2words import num2words

_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
# Canonical numerals to 89; larger ones are years or initials.
_NUMERAL = r"(?=[IVXL])(?:XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
_RULERS = (
    "Henry|Louis|Elizabeth|George|Charles|Edward|William|Richard|James|John|Paul|Pius|Benedict"
    "|Philip|Catherine|Alexander|Nicholas|Ivan|Peter|Leo|Innocent|Gregory|Napoleon|Frederick"
    "|Ferdinand|Ramses|Francis|Clement|Urban|Mehmed|Mary|Margaret|Otto|Wilhelm|Robert|Boniface"
    "|Constantine|Theodosius|Justinian|Sixtus|Julius|Adrian|Harald|Christian|Carl|Gustav|Felipe"
    "|Juan Carlos|Queen|King|Pope|Emperor"
)
_COUNTED = (
    "War|Chapter|Part|Act|Scene|Book|Volume|Section|Phase|Type|Class|Grade|Stage|Appendix|Article"
    "|Title|Level|Episode|Bowl|Season|Round|Unit|Figure|Table|Division|Group|Region|Category|Mark"
    "|Sonata|Symphony|Factor|Schedule|Tier|Verse|Canto|Lesson|Exhibit"
)
_NOT_NAMES = "The|An|And|But|Or|If|When|While|His|Her|My|Our|Your|Its|This|That|Then|Can|May|Mr|Dr"
_OF_RULERS = re.compile(rf"\b({_RULERS})\s+({_NUMERAL})\b(?!\.\w)('s)?")
_OF_COUNTED = re.compile(rf"\b((?i:{_COUNTED}))\s+({_NUMERAL})\b")
_LONG = re.compile(rf"\b(?!(?:{_NOT_NAMES})\b)([A-Z][a-z]{{2,}})\s+(?=[IVXL]{{2}})({_NUMERAL})\b")


def read_roman(text: str) -> str:
    """Read Roman numerals behind rulers as ordinals, behind what is counted as numbers.

    >>> read_roman("Henry VIII in World War II, but I gave Malcolm X an IV")
    'Henry the eighth in World War two, but I gave Malcolm X an IV'
    """
    text = _OF_RULERS.sub(lambda m: f"{m[1]} the {_words(m[2], 'ordinal')}{m[3] or ''}", text)
    text = _OF_COUNTED.sub(lambda m: f"{m[1]} {_words(m[2], 'cardinal')}", text)
    return _LONG.sub(lambda m: f"{m[1]} {_words(m[2], 'cardinal')}", text)


def _words(numeral: str, kind: str) -> str:
    values = [_VALUES[letter] for letter in numeral]
    following = [*values[1:], 0]
    value = sum(-v if v < after else v for v, after in zip(values, following, strict=True))
    words: str = num2words(value, lang="en", to=kind)
    return words.replace("-", " ")
