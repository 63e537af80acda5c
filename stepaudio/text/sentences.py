"""Text of any language to sentences, and long sentences to clauses; nothing is lost or repeated.

Every function cuts its text into consecutive pieces: joined they are the text again, to the last
character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

# Never the end of a sentence: a name or number follows.
_TITLES = frozenset(
    "mr mrs ms mx dr prof gen sen rep st mt ft sgt capt cpt lt col cpl maj cmdr adm rev hon gov"
    " pres fr vs cf ca approx dept univ apt bldg est eds e.g i.e".split()
)
_BEFORE_NUMBERS = frozenset("no nos fig figs vol vols p pp ch sec eq art ed op".split())
# May end one; then what follows begins as sentences do.
_MAYBE = frozenset(
    "etc inc ltd corp co bros jr sr esq ave blvd rd ln hwy sq ext tel min max hr hrs sec lb lbs oz"
    " in ft mi jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri"
    " sat sun".split()
)
_STARTERS = frozenset(
    "the a an this that these those it its he she they we i you his her their our my your there"
    " here in on at for from with by to as if when while after before since because but and or so"
    " yet then now what who why how where which is are was were do does did can could will would"
    " should not no yes one some many most all any each every both however also still just"
    " only".split()
)
_MARK = re.compile(
    r"(?P<wide>[。！？｡]+[」』”’）】]*)"
    r"|(?P<narrow>(?:[.!?]|…)+[\"'”’»)\]]*)(?=\s|$)"
    r"|(?P<glued>(?<=[a-z])[.!?])(?=[A-Z][a-z])"
    r"|(?P<break>\n[^\S\n]*\n\s*|\n[^\S\n]*(?=(?:[-*•+]|\d{1,3}[.)])\s))"
)
_LAST_WORD = re.compile(r"[^\s\"'“”‘’(\[]*$")
_NEXT_WORD = re.compile(r"\s*[\"'“‘«(\[]*([^\W_]+)")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_ITEM_NUMBER = re.compile(r"(?:\A|\n|[.!?]\s)[^\S\n]*\d{1,3}$")
_LONGEST_WORD = 80
# Where a clause may be cut, from the best places to the worst.
_CUTS = (
    re.compile(r"[;:；：—]+[\"'”’)]*(?=\s|$)|[；：]|\s[-–—]+(?=\s)"),
    re.compile(r"[,)]+[\"'”’]*(?=\s)|[，、]"),
    re.compile(
        r"(?=\s(?:and|or|but|nor|so|yet|because|which|who|that|while|when|where|if|although|though"
        r"|after|before|since|until|unless)\s)",
        re.IGNORECASE,
    ),
)
_BETWEEN_WORDS = re.compile(r"(?=\s)")
_NUMERAL = re.compile("[IVXLC]+")
_SPACE = re.compile(r"\s*")
_MIN_SHARE = 0.2  # no piece is much shorter than the other one


def split_sentences(text: str) -> list[str]:
    """Cut a text behind its sentences and paragraphs.

    Full stops of abbreviations, initials, numbers and addresses end nothing.

    >>> split_sentences("Dr. Lee left. Why? It was 5.30 p.m. by then.")
    ['Dr. Lee left. ', 'Why? ', 'It was 5.30 p.m. by then.']

    Returns:
        Pieces with the white space behind them; together they are `text`.
    """
    ends = [end for match in _MARK.finditer(text) if (end := _end(text, match)) is not None]
    return list(_cut_at(text, ends))


def split_clauses(
    text: str, limit: int, length: Callable[[str], int], *, hard_limit: int | None = None
) -> list[str]:
    """Cut a sentence until its pieces are short enough, at the best places there are.

    Clause marks come first, then commas, conjunctions, spaces, and in the end any place; of
    equally good ones it is the place nearest to the middle.

    Args:
        text: one sentence.
        limit: longest piece, at least 1, where there are marks, commas or conjunctions.
        length: of a piece, in the unit of the limits.
        hard_limit: longest piece, where there are none; None: the same.

    Returns:
        The pieces; together they are `text`. A single character stays whole.
    """
    size = length(text)
    if len(text) < 2 or size <= limit:
        return [text]
    place = _clause_end(text)
    if place is None and size <= (limit if hard_limit is None else hard_limit):
        return [text]
    place = place or _word_end(text)
    return [
        piece
        for half in (text[:place], text[place:])
        for piece in split_clauses(half, limit, length, hard_limit=hard_limit)
    ]


def _clause_end(text: str) -> int | None:
    """The best place between clauses, not too far from the middle."""
    shortest = _MIN_SHARE * len(text)
    for marks in _CUTS:
        place = _nearest_to_middle(marks, text)
        if place is not None and shortest < place < len(text) - shortest:
            return place
    return None


def _word_end(text: str) -> int:
    """A place between words, or any place inside of the text."""
    place = _nearest_to_middle(_BETWEEN_WORDS, text)
    return len(text) // 2 if place is None else place


def _nearest_to_middle(marks: re.Pattern[str], text: str) -> int | None:
    places = (match.end() for match in marks.finditer(text))
    inside = (place for place in places if 0 < place < len(text))
    return min(inside, key=lambda place: abs(place - len(text) / 2), default=None)


def _cut_at(text: str, ends: list[int]) -> Iterator[str]:
    start = 0
    for end in [*ends, len(text)]:
        if end > start:
            yield text[start:end]
            start = end


def _end(text: str, match: re.Match[str]) -> int | None:
    """Where the sentence of a mark ends, with the white space behind it; None if it goes on."""
    if match["break"] is not None or match["glued"] is not None:
        return match.end()
    space = _SPACE.match(text, match.end())
    end = space.end() if space is not None else match.end()
    if match["wide"] is not None:
        return end
    following = _NEXT_WORD.match(text, match.end())
    after = "" if following is None else following[1]
    if match["narrow"].rstrip("\"'”’»)]") == "." and not _ends(text, match.start(), after):
        return None
    # "Wait... what?" and "'Why?' she asked" go on.
    if after[:1].islower() and (
        match["narrow"][-1] not in ".!?" or match["narrow"].startswith("..")
    ):
        return None
    return end


def _ends(text: str, place: int, after: str) -> bool:
    """Whether a single full stop ends a sentence, before the word `after` or at the text's end."""
    before = text[max(place - _LONGEST_WORD, 0) : place]
    found = _LAST_WORD.search(before)
    word = found.group().lower() if found is not None else ""
    if _ITEM_NUMBER.search(before):
        return False
    if not after:
        return True
    if after[0].islower() or word in _TITLES:
        return False
    if word in _BEFORE_NUMBERS:
        return not (after[0].isdigit() or _NUMERAL.fullmatch(after))
    if word in _MAYBE or _INITIALS.fullmatch(word):
        return after.lower() in _STARTERS and (after != "I" or len(word) > 1)
    return True
