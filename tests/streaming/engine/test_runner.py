"""The passes of a real, small model: lines in slots and voices are those of the library."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stepaudio.errors import CapacityError
from stepaudio.generation.completion import GenerationPrompt
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.config import TextConfig
from stepaudio.models.kv_cache import SlotKVCache
from stepaudio.tasks.step_audio import StepAudio
from stepaudio_streaming.audio import StreamResampler
from stepaudio_streaming.engine.mind import TranscriptMind
from stepaudio_streaming.engine.parts import Heard, Line, SpeechWish
from stepaudio_streaming.engine.runner import ModelRunner
from stepaudio_streaming.engine.slots import SlotMemory, named_tokens


def hear_nothing(samples: torch.Tensor) -> Iterator[Heard]:
    yield Heard("", understood=False)


@pytest.fixture(scope="module")
def runner(talker: StepAudio, cache: Path) -> ModelRunner:
    engine = talker.synthesizer.engine
    return ModelRunner(talker, hear_nothing, engine, num_slots=3, max_tokens=256)


def lines(talker: StepAudio) -> list[Line]:
    mind = TranscriptMind(talker, talker.synthesizer, max_tokens=256)
    spoken = [
        mind.script(text, SpeechWish("kathleen", seed=seed)).phrases[0].line
        for seed, text in enumerate(["hello", "the dog"])
    ]
    text = Line(
        prompt=GenerationPrompt(talker.tokenizer.encode("the lazy dog")),
        params=SamplingParams(max_new_tokens=9),
    )
    return [spoken[0], text, spoken[1]]


def test_lines_in_slots_are_those_of_the_generator(talker: StepAudio, runner: ModelRunner) -> None:
    wanted = [talker.generator.generate([line.prompt], line.params)[0] for line in lines(talker)]
    given: list[list[int]] = [[], [], []]
    live: dict[int, int] = {}
    waiting = list(enumerate(lines(talker)))
    while live or waiting:
        if waiting:
            # They begin at different times, and sit in scattered slots.
            index, line = waiting.pop(0)
            slot = 2 - index
            tokens = {slot: runner.begin(slot, line)}
            live[slot] = index
        else:
            slots = sorted(live)
            tokens = dict(zip(slots, runner.decode(slots), strict=True))
        for slot, token in tokens.items():
            if token.finish != "stop":
                given[live[slot]].append(token.id)
            if token.finish is not None:
                assert token.finish == wanted[live[slot]].finish_reason
                runner.free(slot)
                del live[slot]
    assert given == [completion.ids for completion in wanted]


def test_codes_are_told_apart_from_text(talker: StepAudio, runner: ModelRunner) -> None:
    spoken, text, _ = lines(talker)
    first = runner.begin(0, spoken)
    assert first.code is None  # the first token of a group is text
    codes = [runner.decode([0])[0].code for _ in range(4)]
    assert all(code is not None for code in codes)
    runner.free(0)
    held = [runner.begin(0, text), *(runner.decode([0])[0] for _ in range(8))]
    vocab = talker.tokenizer.vocab
    assert [token.code is not None for token in held] == [vocab.is_audio(t.id) for t in held]
    runner.free(0)


def test_voices_in_one_batch_speak_as_alone(talker: StepAudio, runner: ModelRunner) -> None:
    engine = talker.synthesizer.engine
    voice = talker.synthesizer.prepare_voice("kathleen")
    codes = {1: list(range(40)), 2: list(range(70, 20, -1))}
    for key in codes:
        runner.open_voice(key, voice, seed=key)
    found: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for start in range(0, 50, 10):
        parts = {key: part[start : start + 10] for key, part in codes.items() if start < len(part)}
        last = frozenset(key for key in parts if start + 10 >= len(codes[key]))
        for key, sound in runner.speak(parts, last).items():
            found[key].append(sound)
    for key, part in codes.items():
        stream = engine.stream(voice, seed=key)
        pieces = [stream.push(part[at : at + 10]) for at in range(0, len(part) - 10, 10)]
        pieces.append(stream.finish(part[-10:]))
        resampler = StreamResampler(engine.sample_rate, 24_000)
        alone = resampler.push(torch.cat(pieces).numpy())
        alone = np.concatenate([alone, resampler.flush()])
        together = np.concatenate(found[key])
        assert together.shape == alone.shape == (len(part) * 960,)
        np.testing.assert_allclose(together, alone, atol=1e-3)


def test_a_voice_that_says_nothing_ends_nevertheless(
    talker: StepAudio, runner: ModelRunner
) -> None:
    runner.open_voice(5, talker.synthesizer.prepare_voice("kathleen"), seed=0)
    assert len(runner.speak({5: []}, frozenset({5}))[5]) == 0
    runner.close_voice(5)


def test_prompts_that_do_not_fit_are_refused(talker: StepAudio, runner: ModelRunner) -> None:
    line = lines(talker)[1]
    long = dataclasses.replace(line, prompt=GenerationPrompt([1] * 300))
    with pytest.raises(CapacityError, match="do not fit"):
        runner.begin(0, long)
    runner.free(0)


def test_speech_is_told_from_silence(runner: ModelRunner) -> None:
    silence, state = runner.speech_probabilities(np.zeros(512 * 5, np.float32), runner.init_vad())
    assert len(silence) == 5 and max(silence) < 0.3
    assert runner.speech_probabilities(np.zeros(0, np.float32), state)[0] == []


def test_slots_share_what_they_hold_with_the_next_prompt() -> None:
    config = TextConfig(
        vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, rms_norm_eps=1e-6, rope_theta=1e4,
        max_position_embeddings=64, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    cache = SlotKVCache(config, 2, 32)
    memory = SlotMemory(cache)

    def read(slot: int, named: list[int], adapter: int = 0) -> int:
        known = memory.keep(slot, named, adapter)
        assert cache.lengths[slot] == known
        memory.add(slot, named[known:])
        cache.lengths[slot] = len(named)
        return known

    sound = named_tokens([5, 9, 9, 9, 6, 5, 9, 9, 6], [3, 4], patch=9)
    assert sound == [5, -4, -4, -4, 6, 5, -5, -5, 6]
    assert read(0, sound) == 0
    assert read(0, [*sound, 7, 8]) == 9
    assert read(0, [*sound, 7, 8]) == 10  # the last one is read for what follows it
    assert read(0, [*sound[:6], -6, -6, 6]) == 5  # another sound: from the mark before it
    assert read(0, [5, -4, -4, -4, 6, 1]) == 5
    assert read(0, [5, -4, -4]) == 0  # a sound is kept whole or not at all
    assert read(1, [1, 2, 3], adapter=1) == 0
    assert read(1, [1, 2, 3, 4]) == 0  # another decoder has read it
    cache.truncate(1, 2)
    assert read(1, [1, 2, 3, 4]) == 2  # what was forgotten elsewhere is not known
