"""Reading and writing of the public config.json."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

import stepaudio.models  # noqa: F401 - registers the Auto classes
from stepaudio.errors import ConfigError
from stepaudio.models.config import TextConfig
from stepaudio.models.hf_config import StepAudioConfig

PUBLIC: dict[str, Any] = {
    "architectures": ["StepAudio2ForCausalLM"],
    "model_type": "step_audio_2",
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "sliding_window": 2048,
    "max_window_layers": 21,
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_attention_groups": 4,
        "num_key_value_heads": 4,
        "num_hidden_layers": 28,
        "max_seq_len": 16384,
        "vocab_size": 158720,
        "rms_norm_eps": 1e-06,
        "eos_token_id": [151643, 151645, 151665],
        "pad_token_id": 151643,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 16384,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
    },
    "audio_encoder_config": {
        "n_mels": 128,
        "n_audio_ctx": 1500,
        "n_audio_state": 1280,
        "n_audio_head": 20,
        "n_audio_layer": 32,
        "n_codebook_size": 4096,
        "llm_dim": 3584,
        "kernel_size": 3,
        "adapter_stride": 2,
    },
}


def text(**changes: Any) -> dict[str, Any]:
    return PUBLIC["text_config"] | changes


def contains(written: Any, given: Any) -> bool:
    if isinstance(given, dict):
        return all(k in written and contains(written[k], v) for k, v in given.items())
    return bool(written == given)


def test_public_file_survives_two_round_trips(tmp_path: Path, vectors: Path) -> None:
    for given in (PUBLIC, json.loads((vectors / "config.json").read_text())):
        config = StepAudioConfig(**given)
        for name in ("a", "b"):
            config.save_pretrained(tmp_path / name)
            written = json.loads((tmp_path / name / "config.json").read_text())
            assert contains(written, given)
            assert "rope_parameters" not in json.dumps(written)
            loaded = AutoConfig.from_pretrained(tmp_path / name)
            assert isinstance(loaded, StepAudioConfig)
            assert loaded == config
            config = loaded


def test_extensions_are_written_only_where_they_matter() -> None:
    config = StepAudioConfig(**PUBLIC)
    assert "chunk_frames" not in config.to_dict()["audio_encoder_config"]
    assert "head_dim" not in config.to_dict()["text_config"]
    config = StepAudioConfig(**PUBLIC | {"text_config": text(head_dim=64)})
    assert config.to_dict()["text_config"]["head_dim"] == 64


def test_flat_form_equals_nested_form() -> None:
    flat = {k: v for k, v in PUBLIC.items() if k != "text_config"}
    fields = {k: v for k, v in PUBLIC["text_config"].items() if k != "torch_dtype"}
    config = StepAudioConfig(**flat, **fields)
    assert config.text_config == StepAudioConfig(**PUBLIC | {"text_config": fields}).text_config
    assert config.to_dict()["torch_dtype"] == "bfloat16"


def test_nested_fields_win_over_copies_at_the_top_level() -> None:
    copies = {"eos_token_id": 7, "hidden_size": 1, "vocab_size": 2}
    assert StepAudioConfig(**PUBLIC, **copies) == StepAudioConfig(**PUBLIC)
    with pytest.raises(ConfigError, match="layer_types"):
        StepAudioConfig(**PUBLIC, layer_types=["sliding_attention"] * 28)


def test_embeddings_are_not_tied_unless_the_file_says_so() -> None:
    assert StepAudioConfig(**PUBLIC).tie_word_embeddings is False
    assert StepAudioConfig(**PUBLIC, tie_word_embeddings=True).tie_word_embeddings is True


def test_generate_and_caches_find_the_decoder() -> None:
    config = StepAudioConfig(**PUBLIC).get_text_config(decoder=True)
    assert (config.num_hidden_layers, config.num_key_value_heads, config.head_dim) == (28, 4, 128)
    assert config.layer_types == ["full_attention"] * 28
    assert config.sliding_window is None


def test_dtype_is_read_under_both_names() -> None:
    values = {k: v for k, v in PUBLIC.items() if k != "torch_dtype"} | {"dtype": "float16"}
    values["text_config"] = {k: v for k, v in text(dtype="float16").items() if k != "torch_dtype"}
    written = StepAudioConfig(**values).to_dict()
    assert written["torch_dtype"] == written["text_config"]["torch_dtype"] == "float16"


def test_every_end_token_of_the_public_vocabulary_ends_a_generation() -> None:
    nested = StepAudioConfig(**PUBLIC | {"text_config": text(eos_token_id=151643)})
    flat = {k: v for k, v in PUBLIC.items() if k != "text_config"} | text(eos_token_id=[151645])
    for config in (nested, StepAudioConfig(**flat)):
        assert config.text_config.stop_ids == (151643, 151645, 151665)
        assert config.to_dict()["text_config"]["eos_token_id"] == [151643, 151645, 151665]
    own = {"audio_start_token_id": 200, "audio_patch_token_id": 202}
    config = StepAudioConfig(**PUBLIC | {"text_config": text(eos_token_id=7)}, **own)
    assert config.text_config.stop_ids == (7,)


def test_fields_that_transformers_4_writes_into_every_section_say_nothing() -> None:
    written = {"tie_word_embeddings": False, "max_length": 20, "bos_token_id": None, "top_k": 50}
    sections = ("text_config", "audio_encoder_config")
    values = PUBLIC | {section: PUBLIC[section] | written for section in sections}
    assert StepAudioConfig(**values) == StepAudioConfig(**PUBLIC)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_groups": 2}, "num_key_value_heads"),
        ({"hidden_act": "gelu"}, "silu"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"num_attention_heads": 27}, "multiple"),
        ({"head_dim": 7}, "even"),
        ({"num_experts": 8}, "num_experts"),
        ({"use_sliding_window": True}, "sliding_window"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextConfig.from_dict(text(**changes))


def test_missing_fields_are_named() -> None:
    with pytest.raises(ConfigError, match="rope_theta"):
        TextConfig.from_dict({k: v for k, v in text().items() if k != "rope_theta"})
    with pytest.raises(ConfigError, match="audio_encoder_config"):
        StepAudioConfig(text_config=text())
    with pytest.raises(ConfigError, match="llm_dim"):
        StepAudioConfig(**PUBLIC | {"text_config": text(hidden_size=1792)})


def test_windowed_layers() -> None:
    window = {"use_sliding_window": True, "sliding_window": 8, "num_hidden_layers": 4}
    config = TextConfig.from_dict(text(**window, max_window_layers=2))
    assert config.layer_windows == (None, None, 8, 8)
    config = TextConfig.from_dict(text(**window, sliding_layers=[0, 3]))
    assert config.layer_windows == (8, None, None, 8)


def test_prompts_belong_to_the_checkpoint(tmp_path: Path) -> None:
    StepAudioConfig(**PUBLIC, prompts={"asr": "Write."}).save_pretrained(tmp_path)
    assert StepAudioConfig.from_pretrained(tmp_path).prompts == {"asr": "Write."}
    assert "prompts" not in StepAudioConfig(**PUBLIC).to_dict()
