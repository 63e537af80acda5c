"""The small world of dialogue: answers are right, and nothing that is held out is trained."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from stepaudio.conversation import ToolCall
from stepaudio.errors import ConfigError
from stepaudio.text.normalize import get_normalizer
from stepaudio.tools import builtin_tools, calculate, parse_number
from stepaudio_recipes.dialogue_world import (
    NOT_UNDERSTOOD,
    REFUSALS,
    UNABLE,
    Conversation,
    Split,
    Turn,
    World,
    WorldConfig,
)
from stepaudio_recipes.dialogue_world.mishearing import SoundAlikes, mishear
from stepaudio_recipes.dialogue_world.phrases import Word, parse_templates, read_templates
from stepaudio_recipes.dialogue_world.replies import TOO_HARD
from stepaudio_recipes.dialogue_world.skills import CALCULATIONS
from stepaudio_recipes.dialogue_world.slots import NUMBERS
from stepaudio_recipes.lexicon import Lexicon

CLEAN = WorldConfig(severities=((0.0, 1.0),), politeness=0.0)
NOUNS = "cats dogs trains boats houses rivers lakes birds cars books songs films games plays"
TEXTS = [
    f"i {verb} {noun} {tail}"
    for verb in ("like", "see", "want", "love", "hate", "read")
    for noun in NOUNS.split()
    for tail in ("a lot", "in the morning", "on the big blue sea")
]
WORDS = {
    "two": ["T", "UW"],
    "to": ["T", "UW"],
    "do": ["D", "UW"],
    "time": ["T", "AY", "M"],
    "dime": ["D", "AY", "M"],
    "lime": ["L", "AY", "M"],
    "what": ["W", "AH", "T"],
    "cats": ["K", "AE", "T", "S"],
    "like": ["L", "AY", "K"],
    "lake": ["L", "EY", "K"],
    "the": ["DH", "AH"],
}
LEXICON = Lexicon({word: [phones] for word, phones in WORDS.items()})


def build(split: Split = "train", config: WorldConfig | None = None) -> World:
    return World.build([*TEXTS, *WORDS], LEXICON, split, config)


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    world = build(config=CLEAN)
    return [world.conversation(Random(n)) for n in range(400)]


def turns(conversations: list[Conversation], *skills: str) -> list[Turn]:
    found = [t for c in conversations for t in c.turns if t.skill in skills]
    assert found, f"no turn of {skills} was drawn"
    return found


def test_sums_are_right(conversations: list[Conversation]) -> None:
    checked: Counter[str] = Counter()
    for turn in turns(conversations, *CALCULATIONS):
        answer = turn.answer.removeprefix("sure thing ").removeprefix("certainly ")
        if answer == TOO_HARD:
            continue
        sum_, _, result = answer.partition(" is ")
        assert parse_number(result) == calculate(sum_)
        if turn.call is not None:
            assert turn.call == ToolCall("calculator", {"sum": f" {sum_}"})
            assert turn.result == answer
        checked["by the tool" if turn.call else "by heart"] += 1
    assert min(checked["by the tool"], checked["by heart"]) > 20


def test_words_are_spelled_and_sentences_repeated(conversations: list[Conversation]) -> None:
    for turn in turns(conversations, "spell"):
        assert turn.answer.replace(" ", "") in turn.user.split()
        assert all(len(letter) == 1 for letter in turn.answer.split())
    for turn in turns(conversations, "repeat"):
        assert turn.user.endswith(turn.answer)


def test_names_are_remembered(conversations: list[Conversation]) -> None:
    told = 0
    for conversation in conversations:
        user = None
        for turn in conversation.turns:
            if turn.skill == "my_name":
                user = turn.answer.split()[-1]
            if turn.skill == "ask_my_name":
                assert turn.answer.endswith(user or "you have not told me your name")
                told += user is not None
    assert told


def test_the_tools_are_the_builtin_ones(conversations: list[Conversation]) -> None:
    assert {tool for c in conversations for tool in c.tools} == set(builtin_tools().names)


def test_tools_are_called_where_they_are_declared(conversations: list[Conversation]) -> None:
    outcomes: Counter[bool] = Counter()
    for conversation in conversations:
        for turn in conversation.turns:
            if turn.skill not in ("time", "date", "timer", "weather"):
                continue
            declared = turn.skill in conversation.tools
            outcomes[declared] += 1
            if not declared:
                assert (turn.call, turn.answer) == (None, "sorry i have no tool for that")
                continue
            assert turn.call is not None
            assert turn.call.name == turn.skill
            for value in turn.call.arguments.values():
                assert value.startswith(" ")
                assert value.strip() in turn.user
            words = turn.answer.split()
            assert turn.result is not None
            if not turn.result.startswith("error"):
                assert set(turn.result.split()[-2:]) <= set(words)
    assert outcomes[True] > 30
    assert outcomes[False] > 5


def test_answers_can_be_spoken_as_they_are(conversations: list[Conversation]) -> None:
    normalizer = get_normalizer("en")
    for conversation in conversations:
        texts = [conversation.system, *(t.answer for t in conversation.turns)]
        texts += [t.result for t in conversation.turns if t.result is not None]
        for text in texts:
            assert text == normalizer.written_to_spoken(text)
        assert all(len(t.answer.split()) <= 16 for t in conversation.turns)


def test_the_persona_is_followed(conversations: list[Conversation]) -> None:
    named = [c for c in conversations if c.system.startswith("you are called ")]
    answers = [(c, t) for c in named for t in c.turns if t.skill in ("who", "bot_name")]
    assert answers
    for conversation, turn in answers:
        assert conversation.system.split()[-1] in turn.answer.split()
    formal = [c for c in conversations if "polite" in c.system or "formal" in c.system]
    asked = [t.answer for c in formal for t in c.turns if t.skill == "how_are_you"]
    assert set(asked) == {"i am very well thank you for asking"}


def test_only_what_is_outside_of_the_world_is_refused(conversations: list[Conversation]) -> None:
    for turn in (t for c in conversations for t in c.turns):
        wanted = {"noise": NOT_UNDERSTOOD, "foreign": UNABLE}.get(turn.skill)
        if wanted is not None:
            assert turn.answer == wanted
        elif turn.skill != "again":
            assert turn.answer not in REFUSALS


def test_a_conversation_depends_on_its_seed_alone() -> None:
    first, second = build(), build()
    assert [first.conversation(Random(n)) for n in range(30)] == [
        second.conversation(Random(n)) for n in range(30)
    ]
    assert first.conversation(Random(1)) != first.conversation(Random(2))


def test_held_out_templates_and_values_are_not_trained() -> None:
    trained, held_out = build("train"), build("held_out")
    for field in ("names", "places", "words", "durations", "sentences", "foreign", "professions"):
        ours, theirs = getattr(trained.slots, field), getattr(held_out.slots, field)
        assert ours
        assert theirs
        assert not set(ours) & set(theirs)
    for skill, found in read_templates().items():
        ours = {template.text for template in trained.templates[skill]}
        theirs = {template.text for template in held_out.templates[skill]}
        assert not ours & theirs
        assert theirs, skill
        assert len(found) == len(ours) + len(theirs)
    questions = [
        {
            t.user
            for n in range(150)
            for t in world.conversation(Random(n)).turns
            if t.skill not in ("noise", "place_only", "duration_only")
        }
        for world in (build("train", CLEAN), build("held_out", CLEAN))
    ]
    assert not questions[0] & questions[1]


def test_there_are_thousands_of_questions() -> None:
    world = build()
    asked = {t.user for n in range(2000) for t in world.conversation(Random(n)).turns}
    assert len(asked) > 5000


# ---- mishearing ------------------------------------------------------------------------------

SOUNDS = SoundAlikes(LEXICON, tuple(WORDS))
TIME = [Word("what", "filler"), Word("time", "cue"), Word("cats", "slot", "thing")]


def test_what_sounds_nearly_alike() -> None:
    assert set(SOUNDS.near("time")) == {"dime", "lime"}
    assert set(SOUNDS.near("two")) == {"to", "do"}
    assert SOUNDS.near("xyz") == ()


def test_good_ears_hear_everything() -> None:
    heard = mishear(TIME, 0.0, SOUNDS, Random(0))
    assert (heard.text, heard.verdict, dict(heard.slots)) == (
        "what time cats",
        "clear",
        {"thing": "cats"},
    )


def test_the_verdict_follows_from_the_cues() -> None:
    near, lost = 0, 0
    for seed in range(300):
        heard = mishear(TIME[1:2], 1.0, SOUNDS, Random(seed))
        words = heard.text.split()
        if "time" in words or {"dime", "lime"} & set(words):
            near += "time" not in words
            assert heard.verdict == "clear"
        else:
            lost += 1
            assert heard.verdict == "lost"
    assert near > 10
    assert lost > 10


def test_misheard_numbers_are_answered_as_heard_or_not_at_all() -> None:
    config = WorldConfig(severities=((0.6, 1.0),), skills=("add",), politeness=0.0)
    world = build(config=config)
    kinds: Counter[str] = Counter()
    for turn in (t for n in range(200) for t in world.conversation(Random(n)).turns):
        if turn.skill != "add" or turn.user == turn.said:
            continue
        if turn.answer in REFUSALS:
            kinds["refused"] += 1
        elif turn.answer != TOO_HARD:
            kinds["answered"] += 1
            sum_ = turn.answer.removeprefix("sure thing ").removeprefix("certainly ")
            a, _, b = sum_.partition(" is ")[0].partition(" plus ")
            heard = [NUMBERS[w] for w in turn.user.split() if w in NUMBERS]
            pairs = {x + y for x in heard for y in heard}
            assert {NUMBERS[a], NUMBERS[b]} <= {*heard, *pairs}
    assert min(kinds["refused"], kinds["answered"]) > 10


# ---- templates -------------------------------------------------------------------------------


def test_templates_are_parsed_and_filled() -> None:
    templates = parse_templates("# c\n[a]\n(please|) *spell {w}\n!how {w}\n")
    first, second = templates["a"]
    assert (first.held_out, second.held_out) == (False, True)
    filled = {" ".join(w.text for w in first.fill({"w": "a b"}, Random(n))) for n in range(20)}
    assert filled == {"please spell a b", "spell a b"}
    words = second.fill({"w": "x"}, Random(0))
    assert words == [Word("how", "filler"), Word("x", "slot", "w")]


@pytest.mark.parametrize(
    ("text", "reason"), [("hello", "before the first"), ("[a]\n!b", "no template to train")]
)
def test_wrong_templates(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_templates(text)


def test_messages_of_a_turn() -> None:
    call = ToolCall("time", {})
    turn = Turn("time", "what time is it", "it is two p m", call, "two p m")
    messages = Conversation("be brief", ("time",), (turn,)).messages()
    assert [m.role for m in messages] == [
        "system",
        "tool_json_schemas",
        "user",
        "assistant",
        "input",
        "assistant",
    ]
    assert [m.train for m in messages] == [False, False, False, True, False, True]
