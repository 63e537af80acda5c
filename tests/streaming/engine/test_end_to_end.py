"""Sessions of a checkpoint that hears sound and speaks while it thinks, under virtual time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stepaudio.generation.completion import GenerationPrompt
from stepaudio.generation.constraint import SpeechGroups
from stepaudio.generation.sampling import SamplingParams
from stepaudio.tasks.step_audio import StepAudio
from stepaudio_streaming.engine.core import EngineCore
from stepaudio_streaming.engine.history import Entry
from stepaudio_streaming.engine.loading import EngineOptions, load_engine
from stepaudio_streaming.engine.runner import ModelRunner
from stepaudio_streaming.engine.speech_mind import heard_ids
from stepaudio_streaming.events import (
    AppendAudio,
    CancelResponse,
    CommitAudio,
    ContextItem,
    ContextPart,
    InsertItem,
    OutputAudio,
    OutputStarted,
    OutputText,
    OutputToolCall,
    ReplyOptions,
    TruncateItem,
    UserTranscript,
)
from tests.streaming.engine.end_to_end import (
    loaded,
    random_checkpoint,
    speaking_script,
    spoken_script,
)
from tests.streaming.engine.fakes import Clock, User, settings
from tests.streaming.engine.test_core import text_item

OPTIONS = EngineOptions(num_slots=4, max_sessions=4, max_tokens=900, max_read=64)
SPOKEN = ReplyOptions(temperature=0.0, max_output_tokens=70)
WRITTEN = ReplyOptions(modality="text", temperature=0.0, max_output_tokens=40)
SILENT = settings(transcribe=False, temperature=0.0)
CODE_S = 0.04


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StepAudio:
    return loaded(random_checkpoint(tmp_path_factory.mktemp("public") / "Step-Audio-2-mini"))


@pytest.fixture(scope="module")
def core(model: StepAudio, cache: Path) -> EngineCore:
    return load_engine(model, OPTIONS, name="mini").core


@pytest.fixture
def clock(core: EngineCore) -> Any:
    clock = Clock(core=core)
    yield clock
    for user in clock.users:
        core.close(user.number)
    assert core.num_free_slots == OPTIONS.num_slots and core.num_sessions == 0


def runner_of(core: EngineCore) -> ModelRunner:
    runner = core._runner
    assert isinstance(runner, ModelRunner)
    return runner


class Reads:
    """Counts the tokens that are read into the cache, single ones apart, and keeps the logits."""

    def __init__(self, core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.logits: list[torch.Tensor] = []
        generator = runner_of(core)._generator
        read: Callable[..., torch.Tensor] = generator.read

        def counted(embeds: torch.Tensor, *args: Any) -> torch.Tensor:
            self.sizes.append(embeds.shape[1])
            self.logits.append(read(embeds, *args))
            return self.logits[-1]

        monkeypatch.setattr(generator, "read", counted)

    def take(self) -> int:
        total, self.sizes = sum(self.sizes), []
        return total


@pytest.fixture
def reads(core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(core, monkeypatch)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0, 0.1, int(16_000 * seconds))
    return samples.astype(np.float32)


def say(user: User, sound: np.ndarray) -> None:
    """Append in real time, as manual turns do."""
    for start in range(0, len(sound), 3200):
        user.send(AppendAudio(sound[start : start + 3200]))
        user.clock.run(0.2)


def ask(user: User, response_id: str, sound: np.ndarray, options: ReplyOptions = SPOKEN) -> None:
    say(user, sound)
    user.send(CommitAudio(f"said-{response_id}"))
    user.ask(response_id, options)


def until(clock: Clock, is_so: Callable[[], bool]) -> None:
    """Make steps, while no time passes, until something is so."""
    for _ in range(1000):
        if is_so():
            return
        clock.core.step(clock.now)
    raise AssertionError("that never comes")


def codes_of(model: StepAudio, ids: tuple[int, ...]) -> list[int]:
    return model.tokenizer.vocab.split_ids(ids)[1]


def answer_ids(user: User, item_id: str) -> tuple[int, ...]:
    session = user.clock.core._sessions[user.number]
    entry = session.history.find(item_id)
    assert entry is not None and entry.token_ids is not None
    return entry.token_ids


# ---- hearing and answering ---------------------------------------------------------------------


def test_answers_are_those_of_the_library(model: StepAudio, clock: Clock) -> None:
    sound = noise(2.0)
    user = clock.open(SILENT)
    ask(user, "r", sound)
    clock.run(20.0)
    dialogue = model.dialogue(speech=True)
    params = SamplingParams(
        repetition_penalty=1.05,
        constraint=SpeechGroups(model.tokenizer.vocab),
        max_new_tokens=70,
    )
    reply = dialogue.say(audio=torch.from_numpy(sound), params=params)
    assert answer_ids(user, "item-r") == reply.ids
    # What is told is what is spoken: no calls, and nothing behind the speech.
    vocab, spoken = model.tokenizer.vocab, reply.ids
    if vocab.tts_end in spoken:
        spoken = spoken[: spoken.index(vocab.tts_end)]
    text = model.tokenizer.decode(vocab.split_ids(spoken)[0]).partition("<tool_call>")[0]
    assert user.text("r") == text
    # The sound is that of the same codes, in a stream of its own.
    engine = runner_of(clock.core)._token2wav
    assert engine is not None
    alone = engine.stream(clock.core._desk.mind._voice(""), seed=0)  # type: ignore[attr-defined]
    samples = torch.cat([alone.push(list(reply.codes)), alone.finish([])]).numpy()
    ours = user.audio("r")
    assert abs(len(ours) / 24_000 - len(samples) / engine.sample_rate) < 0.01
    assert abs(len(ours) / 24_000 - CODE_S * len(reply.codes)) < 0.05
    usage = user.of(OutputStarted)[0].prompt
    assert usage.audio == 25 and usage.cached_audio == 0


def test_a_second_turn_is_that_of_the_library(model: StepAudio, clock: Clock) -> None:
    user = clock.open(SILENT)
    dialogue = model.dialogue(speech=True, system="Be kind.")
    params = SamplingParams(
        repetition_penalty=1.05,
        constraint=SpeechGroups(model.tokenizer.vocab),
        max_new_tokens=40,
    )
    options = ReplyOptions(temperature=0.0, max_output_tokens=40, instructions="Be kind.")
    for turn in range(3):
        ask(user, f"r{turn}", noise(1.5, seed=turn), options)
        clock.run(15.0)
        reply = dialogue.say(audio=torch.from_numpy(noise(1.5, seed=turn)), params=params)
        assert answer_ids(user, f"item-r{turn}") == reply.ids
    assert user.of(OutputStarted)[2].prompt.cached_audio > 0


def test_sound_is_read_while_the_user_still_speaks(clock: Clock, reads: Reads) -> None:
    user = clock.open(SILENT)
    say(user, noise(9.0))
    clock.settle()
    # Two pieces of three to four seconds at 12.5 tokens a second, and what stands before them.
    assert reads.take() > 75
    user.send(CommitAudio("said"))
    user.ask("r", SPOKEN)
    until(clock, lambda: bool(user.of(OutputText, "r")))
    usage = user.of(OutputStarted)[0].prompt
    assert usage.cached_audio >= 75 and usage.audio > 100
    rest = usage.text + usage.audio - usage.cached_text - usage.cached_audio
    assert reads.take() == rest < 50


def test_long_prompts_are_read_in_parts_between_which_others_speak(
    clock: Clock, reads: Reads
) -> None:
    speaker, other = clock.open(SILENT), clock.open(SILENT)
    ask(speaker, "r", noise(1.0))
    until(clock, lambda: bool(speaker.of(OutputAudio, "r")))
    said = len(answered := speaker.of(OutputText, "r"))
    assert answered
    reads.take()
    other.send(InsertItem(text_item("q", "a cat that sat " * 20), None))
    other.ask("r", WRITTEN)
    until(clock, lambda: bool(other.of(OutputStarted)))
    assert max(reads.sizes) == 64 and len(reads.sizes) > 2
    assert len(speaker.of(OutputText, "r")) + len(speaker.of(OutputAudio, "r")) > said


def test_sessions_together_are_sessions_alone(model: StepAudio, clock: Clock) -> None:
    alone: list[tuple[str, np.ndarray]] = []
    for seed in range(3):
        user = clock.open(SILENT)
        ask(user, "r", noise(1.0 + seed, seed))
        clock.run(15.0)
        alone.append((user.text("r"), user.audio("r")))
        clock.core.close(user.number)
    users = [clock.open(SILENT) for _ in range(3)]
    for seed, user in enumerate(users):
        user.send(AppendAudio(noise(1.0 + seed, seed)), CommitAudio("said"))
        user.ask("r", SPOKEN)
    clock.run(20.0)
    for user, (text, sound) in zip(users, alone, strict=True):
        assert user.text("r") == text
        assert user.audio("r").shape == sound.shape
        np.testing.assert_allclose(user.audio("r"), sound, atol=2e-3)
    assert len({text for text, _ in alone}) == 3


def test_transcripts_are_written_beside_the_answer(model: StepAudio, clock: Clock) -> None:
    user = clock.open(settings(temperature=0.0))
    ask(user, "r", noise(2.0))
    clock.run(20.0)
    final = user.of(UserTranscript)[-1]
    assert final.final and final.item_id == "said-r" and final.error is None
    pieces = [event.text for event in user.of(UserTranscript)[:-1]]
    assert "".join(pieces) == final.text == final.text.lstrip()
    wanted = model.asr(torch.from_numpy(noise(2.0)))
    assert final.text.strip() == wanted.text or wanted.finish_reason == "length"
    # The answer does not wait for it.
    assert user.events.index(user.of(OutputAudio)[0]) < user.events.index(final)


def test_written_answers_and_items_of_all_kinds(clock: Clock) -> None:
    user = clock.open(SILENT)
    part = (ContextPart("what is this"), ContextPart(samples=noise(1.0)))
    user.send(InsertItem(text_item("s", "Be brief.", "system"), None))
    user.send(InsertItem(ContextItem(item_id="q", kind="user", parts=part), "s"))
    user.ask("r", WRITTEN)
    clock.settle()
    assert user.finished("r") and not user.of(OutputAudio)
    assert user.of(OutputStarted)[0].prompt.audio == 13
    user.ask("side", SPOKEN, context=("q", text_item("x", "and this")))
    user.ask("again", WRITTEN)
    clock.settle()
    assert user.finished("side") and user.finished("again")
    assert user.of(OutputAudio, "side")


def test_silence_and_nothing_at_all_are_answered(clock: Clock) -> None:
    user = clock.open(SILENT)
    user.send(AppendAudio(np.zeros(100, np.float32)), CommitAudio("short"))
    user.ask("r", SPOKEN)
    clock.run(12.0)
    assert user.finished("r")
    user.send(AppendAudio(np.zeros(16_000, np.float32)), CommitAudio("silence"))
    user.ask("r2", WRITTEN)
    clock.settle()
    assert user.finished("r2")


# ---- context -----------------------------------------------------------------------------------


def test_the_cost_of_a_turn_does_not_grow_with_the_history(clock: Clock, reads: Reads) -> None:
    user = clock.open(SILENT)
    costs = []
    for turn in range(6):
        ask(user, f"r{turn}", noise(1.0, turn), dataclasses.replace(SPOKEN, max_output_tokens=30))
        clock.run(6.0)
        costs.append(reads.take())
        assert user.finished(f"r{turn}")
    # The end of the last answer, the question, and what stands around them.
    assert max(costs[1:]) == min(costs[1:]) < 45


def test_the_oldest_turns_are_forgotten_where_the_context_is_full(
    clock: Clock, reads: Reads
) -> None:
    user = clock.open(SILENT)
    history = clock.core._sessions[user.number].history
    sizes, costs = [], []
    for turn in range(24):
        user.send(InsertItem(text_item(f"q{turn}", "a cat that sat"), "unknown"))
        user.ask(f"r{turn}", dataclasses.replace(WRITTEN, max_output_tokens=20))
        clock.settle()
        assert user.finished(f"r{turn}").status in ("completed", "incomplete")  # type: ignore[union-attr]
        sizes.append(len(history.entries))
        costs.append(reads.take())
    assert sizes[-1] < 36 and min(b - a for a, b in itertools.pairwise(sizes)) < 0
    # What is forgotten makes room for several turns, which cost little then.
    assert 1 <= sum(cost > 200 for cost in costs[1:]) <= 4 and sum(c < 60 for c in costs) > 18
    whole = clock.open(dataclasses.replace(SILENT, context="disabled"))
    for turn in range(16):
        whole.send(InsertItem(text_item(f"q{turn}", "a cat that sat on " * 5), "unknown"))
    whole.ask("r", WRITTEN)
    clock.settle()
    finished = whole.finished("r")
    assert finished is not None and finished.status == "failed"
    assert "shorten" in str(finished.error)


# ---- interruptions -----------------------------------------------------------------------------


def interrupted(clock: Clock, played_s: float) -> User:
    user = clock.open(SILENT)
    ask(user, "r", noise(1.0))
    until(clock, lambda: user.audio("r").size >= 24_000 * played_s)
    user.send(CancelResponse("r", round(1000 * played_s)))
    return user


@pytest.mark.parametrize("played_s", [0.3, 0.5, 1.0, 1.27])
def test_an_interruption_leaves_the_state_of_never_having_said_the_rest(
    model: StepAudio, clock: Clock, reads: Reads, played_s: float
) -> None:
    user = interrupted(clock, played_s)
    runner, vocab = runner_of(clock.core), model.tokenizer.vocab
    ids = answer_ids(user, "item-r")
    groups = int(played_s / (4 * CODE_S) + 1e-6)
    assert len(codes_of(model, ids)) > 4 * groups
    user.send(InsertItem(text_item("next", "and now"), "item-r"))
    user.ask("r2", SPOKEN)
    until(clock, lambda: bool(user.of(OutputStarted, "r2")))
    ours = reads.logits[-1]
    (slot,) = runner._held
    length = runner._cache.lengths[slot]
    ours_kv = [buffer[:, slot, :, :length].clone() for buffer in runner._cache.buffers]

    entry = clock.core._sessions[user.number].history.entries[0]
    latents = [sound.latents for sound in entry.sounds]
    tokens = model.tokenizer
    header = [vocab.bot, *tokens.encode("human\n")]
    prompt = [
        vocab.bot,
        *tokens.encode("system\n"),
        *tokens.encode(model.processor.prompts.voice_chat),
        vocab.eot,
        *header,
        vocab.audio_start,
        *[vocab.audio_patch] * len(latents[0]),
        vocab.audio_end,
        vocab.eot,
        vocab.bot,
        *tokens.encode("assistant\n"),
        vocab.tts_start,
        *ids[: 5 * groups],
        vocab.tts_end,
        vocab.eot,
        *header,
        *tokens.encode("and now"),
        vocab.eot,
        vocab.bot,
        *tokens.encode("assistant\n"),
        vocab.tts_start,
    ]
    fresh = model.generator.new_cache(1, len(prompt))
    wanted = model.generator.prefill([GenerationPrompt(prompt, latents)], [0], fresh)
    assert length == len(prompt)
    torch.testing.assert_close(ours, wanted, atol=2e-4, rtol=1e-4)
    for mine, theirs in zip(ours_kv, fresh.buffers, strict=True):
        torch.testing.assert_close(mine, theirs[:, 0, :, :length], atol=2e-4, rtol=1e-4)
    # Only what follows the first difference was read again.
    usage = user.of(OutputStarted, "r2")[0].prompt
    assert usage.cached_audio == len(latents[0])
    kept = prompt.index(vocab.tts_start) + 1 + 5 * groups
    assert usage.cached_text + usage.cached_audio >= kept


def test_what_was_never_heard_was_never_said(clock: Clock) -> None:
    user = clock.open(SILENT)
    ask(user, "r", noise(1.0))
    until(clock, lambda: bool(user.of(OutputText, "r")))
    assert not user.of(OutputAudio)
    user.send(CancelResponse("r", 0))
    entries = clock.core._sessions[user.number].history.entries
    assert [entry.kind for entry in entries] == ["user"]


def test_a_client_that_tells_what_was_played_counts_more(model: StepAudio, clock: Clock) -> None:
    user = interrupted(clock, 1.0)
    entry = clock.core._sessions[user.number].history.find("item-r")
    assert entry is not None
    vocab = model.tokenizer.vocab
    assert len(heard_ids(entry, vocab)) == 5 * 6
    user.send(TruncateItem("item-r", 500))
    assert len(heard_ids(entry, vocab)) == 5 * 3
    user.send(TruncateItem("item-r", 100))
    assert heard_ids(entry, vocab) == ()


def test_two_interruptions_within_100_ms(clock: Clock) -> None:
    user = interrupted(clock, 0.5)
    user.send(InsertItem(text_item("q2", "stop"), "item-r"))
    user.ask("second", SPOKEN)
    clock.run(0.01)
    user.send(CancelResponse("second", 0), InsertItem(text_item("q3", "no"), "item-second"))
    user.ask("third", SPOKEN)
    clock.run(15.0)
    assert not user.finished("second") and user.finished("third")
    kinds = [e.kind for e in clock.core._sessions[user.number].history.entries]
    assert kinds == ["user", "assistant", "user", "user", "assistant"]


def test_an_interruption_in_the_last_piece_keeps_calls_that_were_made(
    model: StepAudio,
) -> None:
    vocab = model.tokenizer.vocab
    group = [5, *range(vocab.audio_0, vocab.audio_0 + 4)]
    call = [vocab.tts_end, vocab.tool_call or 0, 7, 8]
    entry = Entry("a", "assistant", "x", token_ids=(*group, *group, *call), spoken=True)
    entry.is_complete = True
    entry.cut_ms = 200.0
    assert heard_ids(entry, vocab) == (*group, *call)
    entry.is_complete = False  # cancelled before it was made
    assert heard_ids(entry, vocab) == (*group, vocab.tts_end)
    entry.cut_ms = 400.0
    assert heard_ids(entry, vocab) == (*group, *group, vocab.tts_end)


# ---- functions ---------------------------------------------------------------------------------

TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("search", "clock")
)


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> EngineCore:
    script = spoken_script(
        ["Wait", "Ġplease"],
        "<tool_call>",
        'functionĊsearchĊ{"query":Ġ"rain"}',
        "</tool_call>",
    )
    folder = tmp_path_factory.mktemp("scripted") / "mini"
    model = loaded(speaking_script(folder, [script]))
    return load_engine(model, OPTIONS, name="mini").core


def test_calls_follow_what_is_said_and_results_are_answered(caller: EngineCore) -> None:
    clock = Clock(core=caller)
    user = clock.open(SILENT)
    options = ReplyOptions(tools=TOOLS)
    ask(user, "r", noise(1.0), options)
    clock.run(5.0)
    (call,) = user.of(OutputToolCall)
    assert (call.name, call.arguments) == ("search", '{"query": "rain"}')
    assert user.text("r") == "Wait please" and len(user.audio("r")) / 24_000 > 0.3
    kinds = [type(event) for event in user.events]
    assert kinds.index(OutputAudio) < kinds.index(OutputToolCall) == len(kinds) - 2
    user.send(InsertItem(text_item("out", "dry", "function_call_output"), "item-r"))
    user.ask("r2", options)
    clock.run(5.0)
    assert user.text("r2") == "Wait please"
    # An interruption while the client runs the function: the call stays, and the talk goes on.
    user.send(TruncateItem("item-r2", 160), InsertItem(text_item("q", "stop"), "item-r2"))
    user.ask("r3", options)
    clock.run(5.0)
    assert user.finished("r3") and len(user.of(OutputToolCall)) == 3
    caller.close(user.number)


def test_calls_are_never_spoken_where_no_function_is_offered(caller: EngineCore) -> None:
    clock = Clock(core=caller)
    user = clock.open(SILENT)
    ask(user, "r", noise(1.0), ReplyOptions())
    clock.run(5.0)
    assert user.text("r") == "Wait please" and not user.of(OutputToolCall)
    caller.close(user.number)


@pytest.mark.parametrize(
    ("choice", "names"), [("required", ("search", "clock")), ("=clock", ("clock",))]
)
def test_a_call_can_be_demanded(clock: Clock, choice: str, names: tuple[str, ...]) -> None:
    user = clock.open(SILENT)
    options = dataclasses.replace(SPOKEN, tools=TOOLS, tool_choice=choice)
    ask(user, "r", noise(1.0), options)
    clock.run(5.0)
    (call,) = user.of(OutputToolCall)  # its weights are noise: the arguments cannot be read
    assert call.name in names and call.arguments == "{}"
    assert not user.of(OutputText) and not user.of(OutputAudio)
    strict = {"type": "object", "required": ["zone"]}
    needs = ({"type": "function", "function": {"name": "clock", "parameters": strict}},)
    user.ask("r2", dataclasses.replace(options, tools=needs))
    clock.run(5.0)
    finished = user.finished("r2")
    assert finished is not None and finished.status == "failed" and "clock" in str(finished.error)
