"""Texts to sound with a small random checkpoint: what is prompted, chosen, checked and streamed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from stepaudio import StepAudio
from stepaudio.catalog import find_voice, list_voices
from stepaudio.errors import CheckpointError, ConfigError, SpeechTextError, VoiceError
from stepaudio.generation.completion import Completion, GenerationPrompt
from stepaudio.generation.generator import Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.token2wav.folder import save_parts
from stepaudio.tasks.speech_options import SpeechOptions
from stepaudio.tasks.speech_prompt import SpeechPrompter
from stepaudio.tasks.speech_result import SpokenText
from stepaudio.tasks.tts import NamedVoice, Synthesizer, Utterance, attempt_seed, sentence_seed
from stepaudio.text.word_model import WORDS_FILE
from tests.speaking import SPEECH, speaking_checkpoint
from tests.unit.models.token2wav.parts import CODEBOOK, RATE, SAMPLES_PER_TOKEN, small_parts
from tests.unit.tasks.conftest import CODES, Scripted
from tests.unit.tasks.conftest import SPEECH as HELLO_WORLD

TEXT = "Hello, the dog. 2 dogs, xyzzy!\n\nHello?"
NO_RETRIES = SpeechOptions(retries=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking_checkpoint(tmp_path_factory.mktemp("checkpoints") / "speaker")


@pytest.fixture(scope="module")
def synthesizer(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Synthesizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return Synthesizer.from_pretrained(folder, device="cpu", options=NO_RETRIES)


# ---- prompts -----------------------------------------------------------------------------------


def test_the_prompt_is_what_the_voice_was_trained_with(synthesizer: Synthesizer) -> None:
    script = synthesizer.script(Utterance("Hello, xyzzy dog!", "kathleen", "slow", 1))
    (job,) = script.jobs
    tokenizer = synthesizer.model.tokenizer
    shown = tokenizer.decode(job.prompt.ids, skip_special=False)
    phones = ["HH", "AH", "L", "OW", "D", "AO", "G"]
    for phone in phones:
        shown = shown.replace(f"<phone_{phone}>", f"{phone}-")
    assert shown == (
        "<|BOT|>system\n read this aloud as kathleen slowly<|EOT|><|BOT|>human\n"
        "HH-AH-L-OW- x y z z y D-AO-G-<|EOT|><|BOT|>assistant\n<tts_start>"
    )
    assert job.prompt.adapter == synthesizer.model.adapters.id_of("tts") == 1
    assert job.expected_s == pytest.approx(1.3 * (0.6 + 0.18 * 12))


def test_voices_without_a_name_are_not_named(synthesizer: Synthesizer) -> None:
    def instruction(voice: str | Path | None) -> str:
        (job,) = synthesizer.script(Utterance("Hello", voice)).jobs
        return synthesizer.model.tokenizer.decode(job.prompt.ids).split("\n")[1]

    assert instruction(None).startswith(" read this aloud as kathleen human")
    assert instruction("emodb03").startswith(" read this aloud human")
    assert instruction(find_voice("kathleen")).startswith(" read this aloud human")
    voice = synthesizer.prepare_voice("kathleen")
    assert isinstance(voice, NamedVoice)
    assert synthesizer.prepare_voice("kathleen") is voice
    assert synthesizer.prepare_voice(voice) is voice


# ---- speech ------------------------------------------------------------------------------------


def test_a_text_becomes_sound(synthesizer: Synthesizer) -> None:
    spoken = synthesizer.speak(TEXT, seed=3)
    assert [s.text for s in spoken.sentences] == ["hello the dog", "two dogs xyzzy", "hello"]
    assert spoken.text == "hello the dog two dogs xyzzy hello"
    assert spoken.sample_rate == RATE
    assert spoken.samples.dtype == torch.float32
    assert max(spoken.codes) < CODEBOOK
    pauses = (0.2 + 0.5) * RATE
    assert len(spoken.samples) == len(spoken.codes) * SAMPLES_PER_TOKEN + round(pauses)
    first, second, third = spoken.sentences
    assert first.start_s == 0
    assert second.start_s == pytest.approx(len(first.codes) / 25 + 0.2)
    start = round(third.start_s * RATE)
    assert (spoken.samples[start - round(0.5 * RATE) : start] == 0).all()
    assert spoken.samples[start:].abs().max() > 0
    assert spoken.duration_s == spoken.stats.speech_s == len(spoken.samples) / RATE
    assert spoken.stats.rtf == pytest.approx(spoken.stats.total_s / spoken.duration_s)
    assert spoken.stats.generation.tokens > len(spoken.codes)
    # Every text token of the answer is followed by four codes.
    ids = synthesizer.model.tokenizer.encode(first.text)
    assert len(first.codes) >= 4 * len(ids)
    assert len(first.codes) % 4 == 0


def test_the_same_seed_gives_the_same_speech(synthesizer: Synthesizer) -> None:
    one, same, other = (synthesizer.speak("Hello dog", seed=seed) for seed in (1, 1, 2))
    assert one.codes == same.codes
    assert torch.equal(one.samples, same.samples)
    assert one.codes != other.codes
    loud = synthesizer.speak("Hello dog", seed=1, voice="emodb03")
    assert len(loud.codes) != 0
    assert not torch.equal(one.samples, loud.samples[: len(one.samples)])


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_texts_of_a_batch_do_not_depend_on_each_other(
    synthesizer: Synthesizer, batch_size: int
) -> None:
    options = dataclasses.replace(NO_RETRIES, batch_size=batch_size)
    batched = Synthesizer(synthesizer.model, synthesizer.engine, options)
    texts = ["Hello. The dog.", "", "Two dogs, hello!", "...", TEXT]
    results = list(batched.speak_many(Utterance(text, seed=5) for text in texts))
    kinds = [type(result) for result in results]
    assert kinds == [SpokenText, SpeechTextError, SpokenText, SpeechTextError, SpokenText]
    assert str(results[3]) == "nothing in '...' can be said; give letters or digits"
    for text, result in zip(texts, results, strict=True):
        if isinstance(result, SpokenText):
            alone = synthesizer.speak(text, seed=5)
            assert result.codes == alone.codes
            assert torch.equal(result.samples, alone.samples)


def test_streamed_speech_is_offline_speech(synthesizer: Synthesizer) -> None:
    offline = synthesizer.speak(TEXT, instruction="quickly, sad", seed=4)
    stream = synthesizer.stream(TEXT, instruction="quickly, sad", seed=4)
    parts = list(stream)
    assert len(parts) > 10
    assert (torch.cat(parts) - offline.samples).abs().max() < 1e-4
    spoken = stream.spoken
    assert torch.equal(spoken.samples, torch.cat(parts))
    assert spoken.codes == offline.codes
    assert spoken.sentences == offline.sentences
    assert spoken.style == offline.style
    assert spoken.stats.generation.tokens == offline.stats.generation.tokens
    assert spoken.stats.first_sound_s is not None
    assert 0 < spoken.stats.first_sound_s < spoken.stats.total_s
    with pytest.raises(RuntimeError, match="already been read"):
        next(iter(stream))


def test_a_stream_can_be_left(synthesizer: Synthesizer) -> None:
    stream = synthesizer.stream(TEXT, seed=4)
    first = next(iter(stream))
    assert torch.equal(stream.spoken.samples, first)
    assert stream.spoken.sentences == ()


def test_from_the_checkpoint(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = StepAudio.from_pretrained(folder, device="cpu", lazy=True)
    spoken = model.tts("Hello the dog", voice="kathleen", instruction="cheerful", seed=2)
    assert spoken.style.used == ("cheerful",)
    assert spoken.codes == model.tts("hello the dog", instruction="cheerful", seed=2).codes


# ---- problems and retries ----------------------------------------------------------------------


class ScriptedGenerator:
    """Gives codes by the seed of a request."""

    def __init__(self, model: StepAudio, by_seed: dict[int, list[int]]) -> None:
        self.model = model
        self.by_seed = by_seed
        self.asked: list[list[int]] = []

    def generate(
        self,
        prompts: Sequence[GenerationPrompt],
        params: Sequence[SamplingParams],
        *,
        num_slots: int,
    ) -> list[Completion]:
        vocab = self.model.tokenizer.vocab
        seeds = [p.seed for p in params if p.seed is not None]
        self.asked.append(seeds)
        return [
            Completion(
                [vocab.audio_0 + code for code in self.by_seed[seed]],
                [-1.0] * len(self.by_seed[seed]),
                "stop",
            )
            for seed in seeds
        ]


def varied(seconds: float) -> list[int]:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(CODEBOOK, (round(25 * seconds),), generator=draw).tolist()


@pytest.mark.parametrize("second_is_better", [True, False])
def test_the_better_of_two_attempts_is_kept(
    folder: Path, synthesizer: Synthesizer, second_is_better: bool
) -> None:
    model = StepAudio.from_pretrained(folder, device="cpu", lazy=True)
    expected_s = 0.6 + 0.18 * 4
    fine, short = varied(expected_s), varied(0.2)
    stuck = [*fine, *[7] * 80]
    first = [sentence_seed(9, index) for index in range(3)]
    again = attempt_seed(first[1], 1)
    by_seed = {
        first[0]: fine,
        first[1]: short if second_is_better else stuck,
        first[2]: fine,
        again: fine if second_is_better else [*fine, *[7] * 400],
    }
    generator = ScriptedGenerator(model, by_seed)
    model.generator = generator  # type: ignore[assignment]
    spoken = Synthesizer(model, synthesizer.engine).speak("Hello. Hello! Hello?", seed=9)
    assert generator.asked == [first, [again]]
    assert [s.attempts for s in spoken.sentences] == [1, 2, 1]
    assert spoken.stats.retries == 1
    kept = spoken.sentences[1]
    if second_is_better:
        assert (kept.seed, kept.codes, spoken.problems) == (again, tuple(fine), ())
        assert spoken.warnings == ()
    else:
        assert (kept.seed, kept.codes) == (first[1], tuple(stuck))
        assert {problem.kind for problem in spoken.problems} == {"stuck", "too_long"}
        assert spoken.warnings[0] == '"hello": 2 s have an entropy of 0.0 bits only (stuck)'


class LengthJudge:
    """Understands speech of a certain length best."""

    def __init__(self, model: StepAudio) -> None:
        self.heard: list[tuple[float, tuple[str, ...]]] = []

    def loss(self, samples: torch.Tensor, sample_rate: int, words: Sequence[str]) -> float:
        seconds = len(samples) / sample_rate
        self.heard.append((round(seconds, 2), tuple(words)))
        return abs(seconds - 1.4)


def test_of_several_takes_the_one_that_is_understood_best_is_kept(
    folder: Path, synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepaudio.tasks.tts.SpeechJudge", LengthJudge)
    model = StepAudio.from_pretrained(folder, device="cpu", lazy=True)
    hello, dog = (sentence_seed(3, index) for index in range(2))
    takes = [[attempt_seed(seed, take) for take in range(4)] for seed in (hello, dog)]
    loop = [7] * 80  # a problem: not worth to be heard
    by_seed = dict(zip(takes[0], map(varied, (1.0, 1.48, 2.0)), strict=False))
    by_seed |= dict(zip(takes[1], (varied(1.2), loop, loop), strict=False))
    generator = ScriptedGenerator(model, by_seed)
    model.generator = generator  # type: ignore[assignment]
    chooser = Synthesizer(model, synthesizer.engine, SpeechOptions(takes=3))
    spoken = chooser.speak("Hello. Dog!", seed=3)
    assert generator.asked == [[*takes[0][:3], *takes[1][:3]]]
    assert isinstance(chooser._judge, LengthJudge)
    assert chooser._judge.heard == [(s, ("hello",)) for s in (1.0, 1.48, 2.0)]
    first, second = spoken.sentences
    assert (first.seed, first.codes, first.attempts) == (takes[0][1], tuple(varied(1.48)), 3)
    assert (second.seed, second.codes) == (takes[1][0], tuple(varied(1.2)))
    assert spoken.stats.retries == 0


def test_all_takes_of_a_sentence_are_retried_once(
    folder: Path, synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepaudio.tasks.tts.SpeechJudge", LengthJudge)
    model = StepAudio.from_pretrained(folder, device="cpu", lazy=True)
    seed = sentence_seed(3, 0)
    seeds = [attempt_seed(seed, take) for take in range(3)]
    generator = ScriptedGenerator(
        model, {seeds[0]: [7] * 80, seeds[1]: [7] * 80, seeds[2]: varied(1.3)}
    )
    model.generator = generator  # type: ignore[assignment]
    spoken = Synthesizer(model, synthesizer.engine, SpeechOptions(takes=2)).speak("Hello", seed=3)
    assert generator.asked == [seeds[:2], seeds[2:]]
    assert (spoken.sentences[0].seed, spoken.stats.retries) == (seeds[2], 1)


def test_only_who_hears_phones_can_choose(folder: Path, synthesizer: Synthesizer) -> None:
    with pytest.raises(ConfigError, match=r"cannot choose between takes: .* speak one take"):
        Synthesizer(synthesizer.model, synthesizer.engine, SpeechOptions(takes=2))


def test_silence_is_a_problem_and_no_error(folder: Path, synthesizer: Synthesizer) -> None:
    model = StepAudio.from_pretrained(folder, device="cpu", lazy=True)
    seed = sentence_seed(0, 0)
    by_seed: dict[int, list[int]] = {seed: [], attempt_seed(seed, 1): []}
    model.generator = ScriptedGenerator(model, by_seed)  # type: ignore[assignment]
    spoken = Synthesizer(model, synthesizer.engine).speak("Hello")
    assert len(spoken.samples) == 0
    assert [problem.kind for problem in spoken.problems] == ["silent"]
    assert spoken.stats.rtf == 0


def test_a_limit_ends_what_does_not_end(synthesizer: Synthesizer) -> None:
    (job,) = synthesizer.script(Utterance("Hello dog")).jobs
    longest = 5 * (2 * job.expected_s + 0.3 + 1) * 25 / 4
    assert longest <= job.params.max_new_tokens <= longest + 5
    assert job.sampling(7).seed == 7


# ---- public checkpoints --------------------------------------------------------------------------


def test_a_base_model_reads_text_as_it_is(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = scripted(HELLO_WORLD, name="mini-Base")
    save_parts(tmp_path / "mini-Base" / "token2wav", small_parts())
    prompts: list[str] = []
    generate = Generator.generate

    def watched(self: Generator, given: Sequence[GenerationPrompt], *args: object, **options: object
                ) -> list[Completion]:  # fmt: skip
        prompts.extend(model.tokenizer.decode(p.ids, skip_special=False) for p in given)
        return generate(self, given, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "generate", watched)
    spoken = model.tts("Dr. Lee, 5 km! 你好。", voice="kathleen")
    own = model.processor.prompts.read_aloud
    assert prompts[:2] == [f"{own}Dr. Lee, 5 km!<tts_start>", f"{own}你好。<tts_start>"]
    assert list(spoken.sentences[0].codes) == CODES
    assert model.tts("Hi", instruction="Whisper").style.used == ("Whisper",)
    assert prompts[-1] == "Whisper\nHi<tts_start>"


def test_checkpoints_that_cannot_read_aloud(scripted: Scripted, tmp_path: Path) -> None:
    model = scripted(HELLO_WORLD)
    with pytest.raises(ConfigError, match="has no mode 'tts'; it has asr, chat"):
        SpeechPrompter(model, SpeechOptions())
    with pytest.raises(ConfigError, match="has no mode 'tts'"):
        Synthesizer.from_pretrained(tmp_path / "mini")
    silent = speaking_checkpoint(tmp_path / "silent", with_parts=False)
    with pytest.raises(CheckpointError, match="cannot speak"):
        Synthesizer.from_pretrained(silent)
    (silent / WORDS_FILE).unlink()
    mute = SpeechPrompter(StepAudio.from_pretrained(silent, lazy=True), SpeechOptions())
    with pytest.raises(ConfigError, match=rf"silent: .* no {WORDS_FILE}"):
        mute.sentences("Hello")
    other = speaking_checkpoint(
        tmp_path / "other", with_parts=False, speech=SPEECH | {"adapter": "sing"}
    )
    with pytest.raises(ConfigError, match="no adapter 'sing'"):
        SpeechPrompter(StepAudio.from_pretrained(other, lazy=True), SpeechOptions())


def test_voices(synthesizer: Synthesizer, tmp_path: Path) -> None:
    assert {"kathleen", "emodb03"} <= set(list_voices())
    with pytest.raises(VoiceError, match=r"nobody: no such file, and no voice .*kathleen"):
        synthesizer.speak("Hello", voice="nobody")
    (outcome,) = synthesizer.speak_many([Utterance("Hello", "nobody")])
    assert isinstance(outcome, VoiceError)


@pytest.mark.parametrize(
    "values",
    [
        {"retries": -1},
        {"takes": 0},
        {"batch_size": 0},
        {"temperature": -1.0},
        {"pauses": {"clause": -0.1}},
    ],
)
def test_wrong_options(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SpeechOptions(**values)  # type: ignore[arg-type]
