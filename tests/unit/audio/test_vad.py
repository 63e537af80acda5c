import importlib.util
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepaudio.audio import vad
from stepaudio.audio.io import load_audio
from stepaudio.audio.vad import (
    VAD_FRAME_SAMPLES,
    EnergyDetector,
    SileroDetector,
    VoiceActivityDetector,
    silero_detector,
)
from stepaudio.errors import StepAudioError

EXAMPLES = Path(__file__).parents[3] / "examples" / "audio"
SPEECH = load_audio(EXAMPLES / "us_female_1.ogg").samples
DETECTORS = [silero_detector(), EnergyDetector()]


def test_silero_gives_the_probabilities_of_the_packaged_model() -> None:
    package = importlib.util.find_spec("silero_vad")
    assert package is not None and package.origin is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.load(Path(package.origin).parent / "data" / "silero_vad.jit")
    with torch.no_grad():
        expected = script.audio_forward(SPEECH[None], 16_000)[0]

    detector = silero_detector()
    actual, _ = detector.speech_probabilities(SPEECH, detector.init_state(), last=True)

    assert torch.allclose(actual, expected, atol=1e-5)


def test_loading_does_not_touch_the_threads() -> None:
    before = torch.get_num_threads()
    SileroDetector()
    assert torch.get_num_threads() == before
    assert "silero_vad" not in sys.modules  # its import sets one thread


@pytest.mark.parametrize("detector", DETECTORS, ids=["silero", "energy"])
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 40_000), max_size=6))
def test_stream_equals_whole(detector: VoiceActivityDetector[Any], cuts: list[int]) -> None:
    samples = SPEECH[:40_100]
    whole, _ = detector.speech_probabilities(samples, detector.init_state(), last=True)

    state, parts = detector.init_state(), []
    bounds = [0, *sorted(cuts), len(samples)]
    for start, stop in pairwise(bounds):
        part, state = detector.speech_probabilities(
            samples[start:stop], state, last=stop == len(samples)
        )
        parts.append(part)

    assert len(whole) == -(-len(samples) // VAD_FRAME_SAMPLES)
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


@pytest.mark.parametrize("detector", DETECTORS, ids=["silero", "energy"])
def test_state_is_not_kept_in_the_detector(
    detector: VoiceActivityDetector[Any],
) -> None:
    before, _ = detector.speech_probabilities(SPEECH, detector.init_state(), last=True)
    detector.speech_probabilities(torch.rand(5000), detector.init_state())
    after, _ = detector.speech_probabilities(SPEECH, detector.init_state(), last=True)
    assert torch.equal(before, after)


@pytest.mark.parametrize("detector", DETECTORS, ids=["silero", "energy"])
def test_speech_stands_out_of_silence(detector: VoiceActivityDetector[Any]) -> None:
    silence = 1e-4 * torch.randn(16_000, generator=torch.manual_seed(0))
    sound = torch.cat([silence, SPEECH, silence])
    probabilities, _ = detector.speech_probabilities(sound, detector.init_state(), last=True)
    inside = probabilities[35 : 35 + len(SPEECH) // VAD_FRAME_SAMPLES]
    assert inside.median() > 0.8
    assert probabilities[:28].max() < 0.35
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_nothing_heard_gives_nothing() -> None:
    for detector in DETECTORS:
        probabilities, _ = detector.speech_probabilities(
            torch.zeros(0), detector.init_state(), last=True
        )
        assert len(probabilities) == 0


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StepAudioError, match="pip install silero-vad"):
        SileroDetector()


def test_other_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad, "_silero_weights", dict)
    with pytest.raises(StepAudioError, match=r"install silero-vad>=6\.2"):
        SileroDetector()
