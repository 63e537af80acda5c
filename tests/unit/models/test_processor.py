from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

from stepaudio.audio.frames import PIECE_SAMPLES
from stepaudio.conversation import (
    AudioPart,
    Message,
    Prompts,
    task_messages,
    text_message,
)
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.config import AudioEncoderConfig
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.processor import StepAudioProcessor
from stepaudio.text.tokenizer import TextTokenizer

VECTORS = Path(__file__).parents[2] / "assets" / "vectors"
PUBLIC = json.loads((VECTORS / "config.json").read_text())
WAV = np.load(VECTORS / "wav_3s_16k.npy")
AUDIO = {"type": "audio"}
PROMPTS = Prompts(asr="Transcribe.")


def streaming_config() -> AudioEncoderConfig:
    return AudioEncoderConfig.from_dict(
        PUBLIC["audio_encoder_config"]
        | {"n_mels": 80, "chunk_frames": 64, "left_context": 256, "mel_floor": "fixed"}
        | {"conv_strides": [2, 2], "position": "rotary", "adapter_type": "linear"}
        | {"adapter_stride": 1}
    )


@pytest.fixture(scope="module")
def processor(tokenizer: TextTokenizer) -> StepAudioProcessor:
    config = AudioEncoderConfig.from_dict(PUBLIC["audio_encoder_config"])
    return StepAudioProcessor(tokenizer, config, PROMPTS)


def user(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def test_features_of_the_reference(processor: StepAudioProcessor) -> None:
    reference = load_file(VECTORS / "main_single.safetensors")
    inputs = processor(user(AUDIO), [WAV])
    # Bins 80 dB below the loudest one show the rounding of the transform.
    torch.testing.assert_close(inputs["input_features"], reference["mel"], atol=5e-5, rtol=0)
    assert inputs["feature_lens"].tolist() == reference["mel_len"].tolist()
    vocab = processor.tokenizer.vocab
    patches = (inputs["input_ids"] == vocab.audio_patch).sum()
    assert patches == (reference["input_ids"] == 312).sum()


def test_batch_of_the_reference(processor: StepAudioProcessor) -> None:
    reference = load_file(VECTORS / "main_batch.safetensors")
    frames = (reference["mel_len"] + 2).tolist()
    waveforms = [WAV[: 160 * n - 320] for n in frames]
    inputs = processor([user(AUDIO, AUDIO), user(AUDIO)], waveforms)
    assert inputs["input_features"].shape == reference["mel"].shape
    assert inputs["feature_lens"].tolist() == reference["mel_len"].tolist()
    for features, length in zip(inputs["input_features"], frames, strict=True):
        assert not features[:, length:].any()
    vocab = processor.tokenizer.vocab
    starts = (inputs["input_ids"] == vocab.audio_start).sum(dim=1).tolist()
    assert starts == [2, 1]
    ends = (inputs["input_ids"] == vocab.audio_end).nonzero()[:, 1]
    begins = (inputs["input_ids"] == vocab.audio_start).nonzero()[:, 1]
    assert (ends - begins - 1).tolist() == reference["n_tokens"].tolist()


def test_layout(processor: StepAudioProcessor) -> None:
    messages = task_messages(processor.prompts.asr, [AudioPart(38, "x")])
    inputs = processor(messages, [torch.from_numpy(WAV)])
    (text,) = processor.batch_decode(inputs["input_ids"], skip_special_tokens=False)
    patches = "<audio_patch>" * 38
    assert text == (
        "<|BOT|>system\nTranscribe.<|EOT|><|BOT|>human\n"
        f"<audio_start>{patches}<audio_end><|EOT|><|BOT|>assistant\n"
    )
    assert processor.decode(inputs["input_ids"][0]) == "system\nTranscribe.human\nassistant\n"
    assert inputs["attention_mask"].all()


def test_text_alone_has_no_features(processor: StepAudioProcessor) -> None:
    inputs = processor([text_message("user", "Q")], mode="speech")
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"][0, -1] == processor.tokenizer.vocab.tts_start


def test_base_model_text(processor: StepAudioProcessor) -> None:
    assert processor.decode(processor("the cat")["input_ids"][0]) == "the cat"
    inputs = processor(PROMPTS.asr, [WAV], mode="speech")
    shown = processor.decode(inputs["input_ids"][0], skip_special_tokens=False)
    assert shown.startswith("Transcribe.<audio_start><audio_patch>")
    assert shown.endswith("<audio_patch><audio_end><tts_start>")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_ids(processor: StepAudioProcessor, side: Any) -> None:
    inputs = processor(["ab", "abcd"], padding_side=side)
    pad = processor.tokenizer.vocab.pad
    short = processor.tokenizer.encode("ab")
    row, mask = inputs["input_ids"][0].tolist(), inputs["attention_mask"].tolist()
    assert row == ([*short, pad, pad] if side == "right" else [pad, pad, *short])
    assert mask == [[1, 1, 0, 0] if side == "right" else [0, 0, 1, 1], [1, 1, 1, 1]]


def test_long_audio_is_cut_into_pieces(processor: StepAudioProcessor) -> None:
    rng = np.random.default_rng(0)
    long = rng.standard_normal(PIECE_SAMPLES + 16000).astype(np.float32)
    inputs = processor(user(AUDIO), [long])
    assert inputs["feature_lens"].tolist() == [2500, 100]
    assert inputs["input_features"].shape == (2, 128, 2502)
    alone = processor(user(AUDIO), [long[PIECE_SAMPLES:]])["input_features"]
    assert torch.equal(inputs["input_features"][1, :, :102], alone[0])


def test_streaming_geometry(tokenizer: TextTokenizer) -> None:
    processor = StepAudioProcessor(tokenizer, streaming_config())
    inputs = processor(user(AUDIO), [WAV])
    assert inputs["input_features"].shape == (1, 80, 302)
    assert inputs["feature_lens"].tolist() == [302]
    assert (inputs["input_ids"] == tokenizer.vocab.audio_patch).sum() == 302 // 8


@pytest.mark.parametrize(
    ("text", "audio", "options", "reason"),
    [
        ([], [], {}, "empty"),
        (user(AUDIO), [], {}, "audio is missing"),
        (user({"type": "text", "text": "x"}), [WAV], {}, "0 audio pieces"),
        (["a", "b"], [WAV], {}, "0 audio pieces"),
        ([Message("user", (AudioPart(7, "x"),))], [WAV], {}, r"\[7\].*\[38\]"),
        (user(AUDIO), [WAV[None]], {}, r"must be mono.*\(1, 48000\)"),
        (user(AUDIO), [WAV[:0]], {}, "audio 0"),
        (user(AUDIO), [WAV], {"sampling_rate": 8000}, "must be at 16000 Hz, not 8000"),
    ],
)
def test_what_does_not_fit(
    processor: StepAudioProcessor, text: Any, audio: Any, options: Any, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        processor(text, audio, **options)


# ---- files -----------------------------------------------------------------------------------


def write_config(folder: Path, tokenizer: TextTokenizer, **changes: Any) -> None:
    vocab = tokenizer.vocab
    text = PUBLIC["text_config"] | {
        "vocab_size": vocab.size,
        "eos_token_id": list(tokenizer.vocab.stop_ids),
    }
    ids = {
        "audio_start_token_id": vocab.audio_start,
        "audio_patch_token_id": vocab.audio_patch,
        "prompts": {"asr": "Transcribe."},
    }
    (folder / "config.json").write_text(json.dumps(PUBLIC | {"text_config": text} | ids | changes))


def test_processor_folder(processor: StepAudioProcessor, tmp_path: Path) -> None:
    paths = processor.save_pretrained(tmp_path / "p")
    assert sorted(Path(p).name for p in paths) == ["processor_config.json", "tokenizer.json"]
    loaded = StepAudioProcessor.from_pretrained(tmp_path / "p")
    assert loaded.to_dict() == processor.to_dict()
    first, second = processor(user(AUDIO), [WAV]), loaded(user(AUDIO), [WAV])
    assert all(torch.equal(first[name], second[name]) for name in loaded.model_input_names)


def test_checkpoint_folder(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    """A public checkpoint has no processor file; config.json tells everything."""
    tokenizer.save(tmp_path)
    write_config(tmp_path, tokenizer)
    loaded = StepAudioProcessor.from_pretrained(str(tmp_path), trust_remote_code=True)
    assert loaded.prompts == PROMPTS
    assert loaded.audio_config.n_mels == 128


def test_model_configuration_wins(processor: StepAudioProcessor, tmp_path: Path) -> None:
    StepAudioProcessor(processor.tokenizer, streaming_config()).save_pretrained(tmp_path)
    write_config(tmp_path, processor.tokenizer)
    assert StepAudioProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_auto_processor(processor: StepAudioProcessor, tmp_path: Path) -> None:
    AutoProcessor.register(StepAudioConfig, StepAudioProcessor, exist_ok=True)
    processor.save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), StepAudioProcessor)
    (tmp_path / "processor_config.json").unlink()
    write_config(tmp_path, processor.tokenizer)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), StepAudioProcessor)


def test_folder_without_configuration(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    with pytest.raises(CheckpointError, match="neither"):
        StepAudioProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("changes", [{"audio_start_token_id": 1}, {"text_config": None}])
def test_contradicting_files(tokenizer: TextTokenizer, tmp_path: Path, changes: Any) -> None:
    tokenizer.save(tmp_path)
    if "text_config" in changes:
        changes = {"text_config": PUBLIC["text_config"]}
    write_config(tmp_path, tokenizer, **changes)
    with pytest.raises(ConfigError, match=r"are not those of|has vocab_size 640"):
        StepAudioProcessor.from_pretrained(tmp_path)


def test_unknown_option(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="padding"):
        StepAudioProcessor.from_pretrained(tmp_path, padding=True)


def test_model_that_is_not_in_the_cache(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a model"):
        StepAudioProcessor.from_pretrained(
            "nobody/nothing", local_files_only=True, cache_dir=tmp_path
        )


def test_model_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("stepaudio.models.processor.cached_file", fail)
    with pytest.raises(CheckpointError, match=r"nobody/nothing: .* no connection"):
        StepAudioProcessor.from_pretrained("nobody/nothing")
