"""A small random checkpoint that hears, thinks and speaks; what it says is noise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from stepaudio.tasks.step_audio import StepAudio
from stepaudio_recipes.lexicon import PHONES
from stepaudio_streaming.engine.engine import StreamingEngine
from stepaudio_streaming.engine.loading import EngineOptions, streaming_engine
from tests.speaking import speaking_checkpoint

DIALOGUE = {"hearing": "transcript", "adapter": "tts", "language": "en", "tools": "names"}
OPTIONS = EngineOptions(max_sessions=4, num_slots=3, max_tokens=512)


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> StepAudio:
    folder = tmp_path_factory.mktemp("checkpoints") / "talker"
    tiny = files("stepaudio_recipes") / "configs" / "pretrain" / "tiny_model.json"
    encoder = json.loads(tiny.read_text())["audio_encoder_config"]
    speaking_checkpoint(
        folder,
        modes=["asr", "chat", "voice_chat", "tools", "tts"],
        dialogue=DIALOGUE,
        audio_encoder_config=encoder | {"ctc_phones": list(PHONES)},
    )
    return StepAudio.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prepared voices are kept here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Path()


@pytest.fixture(scope="session")
def engine(talker: StepAudio, cache: Path) -> Iterator[StreamingEngine]:
    running = streaming_engine(talker, OPTIONS, name="nano")
    running.start().result()
    yield running
    running.stop()
