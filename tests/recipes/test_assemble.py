"""The recipe that joins the parts of a speaking model."""

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.config_file import read_config
from stepaudio.models.token2wav.vocoder_checkpoint import write_vocoder_config
from stepaudio.tasks.tts import Synthesizer
from stepaudio_recipes import assemble
from stepaudio_recipes.config import load_config
from tests.speaking import SPEECH, speaking_checkpoint
from tests.unit.models.token2wav.parts import small_parts

CONFIG = Path(assemble.__file__).parent / "configs" / "assemble" / "nano.yaml"


def write(folder, name, module):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.half().contiguous() for key, value in module.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / name)


@pytest.fixture
def config(tmp_path):
    """Settings for parts as the other recipes leave them."""
    parts = small_parts("source_filter")
    write(tmp_path / "codec", "speech_tokenizer.safetensors", parts.tokenizer)
    (tmp_path / "codec" / "config.json").write_text(json.dumps(parts.tokenizer.config.to_dict()))
    write(tmp_path / "flow", "flow.safetensors", parts.flow)
    write(tmp_path / "flow", "speaker.safetensors", parts.speaker)
    values = {"flow": parts.flow.config.to_dict(), "speaker": parts.speaker.config.to_dict()}
    (tmp_path / "flow" / "flow.json").write_text(json.dumps(values))
    write(tmp_path / "vocoder", "vocoder.safetensors", parts.vocoder)
    values = write_vocoder_config(parts.vocoder.config)
    (tmp_path / "vocoder" / "vocoder.json").write_text(json.dumps(values))
    model = speaking_checkpoint(tmp_path / "model", with_parts=False)
    return assemble.AssembleConfig(
        recipe="assemble",
        output_dir=str(tmp_path / "out"),
        model=str(model),
        words=str(model),
        codec=str(tmp_path / "codec"),
        token2wav=str(tmp_path / "flow"),
        vocoder=str(tmp_path / "vocoder"),
        mel=dataclasses.asdict(parts.mel),
        sections=assemble.SectionsConfig(
            modes=("asr", "tts"), prompts={"tts": "say it"}, speech=SPEECH
        ),
    )


def test_the_checkpoint_speaks(config, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = assemble.main(config)
    synthesizer = Synthesizer.from_pretrained(folder)
    assert synthesizer.model.processor.prompts.tts == "say it"
    assert len(synthesizer.speak("hello dogs").samples)


def test_weights_are_written_in_half_precision(config):
    folder = assemble.main(config)
    for path in (folder / "token2wav").glob("*.safetensors"):
        kinds = {str(tensor.dtype) for tensor in safetensors.torch.load_file(path).values()}
        assert kinds == {"torch.float16"}, path.name


def test_running_it_again_gives_the_same(config):
    folder = assemble.main(config)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assemble.main(config)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert before == after


def test_a_missing_part_is_named(config):
    with pytest.raises(CheckpointError, match="speech_pretrain"):
        assemble.main(dataclasses.replace(config, model="nowhere"))
    with pytest.raises((CheckpointError, ConfigError), match="nowhere"):
        assemble.main(dataclasses.replace(config, vocoder="nowhere"))


def test_a_wrong_section_is_refused(config):
    sections = dataclasses.replace(config.sections, speech={"reading": "aloud"})
    with pytest.raises(ConfigError, match="reading"):
        assemble.main(dataclasses.replace(config, sections=sections))


def test_parts_that_do_not_fit_are_refused(config):
    codec = Path(config.codec) / "config.json"
    values = json.loads(codec.read_text())
    values["codebook_levels"] = [3] * (len(values["codebook_levels"]) + 1)
    codec.write_text(json.dumps(values))
    with pytest.raises((CheckpointError, ConfigError)):
        assemble.main(config)


def test_the_shipped_config_can_be_read():
    shipped = load_config(assemble.Config, CONFIG)
    assert "tts" in shipped.sections.modes
    assert shipped.sections.speech["adapter"] == "tts"


def test_words_and_prediction_blocks_of_another_folder_are_kept(config, tmp_path):
    names = ("words.safetensors", "words.LICENSE", "mtp.safetensors")
    (tmp_path / "other").mkdir()
    for name in names:
        (tmp_path / "other" / name).write_text(name)
    folder = assemble.main(dataclasses.replace(config, words=str(tmp_path / "other")))
    assert [(folder / name).read_text() for name in names] == list(names)


def test_other_libraries_are_told_to_write_text(config):
    folder = assemble.main(config)
    values = json.loads((folder / "generation_config.json").read_text())
    sizes = read_config(folder)
    end = sizes.text_config.vocab_size
    assert values["suppress_tokens"] == list(range(sizes.audio_start_token_id, end))
