"""Every mode of a checkpoint: prompts, answers, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub.errors import RevisionNotFoundError

from stepaudio.errors import (
    AudioLoadError,
    CapacityError,
    CheckpointError,
    ConfigError,
)
from stepaudio.generation.generator import Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.hub import checkpoint_folder
from stepaudio.tasks.instructions import ANSWER_FORMAT
from stepaudio.tasks.step_audio import StepAudio
from tests.unit.tasks.conftest import CODES, SPEECH, TEXT, Scripted

SECOND = torch.randn(16_000, generator=torch.Generator().manual_seed(0)) * 0.1


def seen(model: StepAudio, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts that the generator is given, as text without patches."""
    prompts: list[str] = []
    generate = Generator.generate

    def watched(self: Generator, given: object, *args: object, **options: object) -> object:
        for prompt in given:  # type: ignore[attr-defined]
            ids = [i for i in prompt.ids if i != model.tokenizer.vocab.audio_patch]
            prompts.append(model.tokenizer.decode(ids, skip_special=False))
        return generate(self, given, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "generate", watched)
    return prompts


def test_tasks_that_answer_in_text(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scripted(TEXT, SPEECH)
    prompts, own = seen(model, monkeypatch), model.processor.prompts
    heard = "<|BOT|>human\n<audio_start><audio_end>"
    end = "<|EOT|><|BOT|>assistant\n"
    cases = {
        own.asr: (lambda: model.asr(SECOND), ""),
        own.translate: (lambda: model.translate(SECOND), ""),
        own.caption: (lambda: model.caption(SECOND), ""),
        own.describe: (lambda: model.describe(SECOND), ""),
        own.audio_qa: (lambda: model.ask(SECOND, "Who?"), f"Who?\n{ANSWER_FORMAT}"),
    }
    for instruction, (ask, behind) in cases.items():
        reply = ask()
        assert (reply.text, reply.codes, reply.mode) == ("All fine", (), "text")
        assert reply.finish_reason == "stop"
        assert reply.stats.audio_s == 1.0
        assert reply.stats.encode_s > 0
        assert prompts.pop() == f"<|BOT|>system\n{instruction}<|EOT|>{heard}{behind}{end}"


def test_speech_is_split_into_text_and_codes(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scripted(TEXT, SPEECH)
    prompts = seen(model, monkeypatch)
    reply = model.translate(SECOND, speech=True, target="en")
    assert prompts[0].endswith("<|BOT|>assistant\n<tts_start>")
    assert "翻译成英文并用语音播报" in prompts[0]
    assert reply.text == "Hello world"
    assert list(reply.codes) == CODES
    assert len(reply.text_ids) == 2
    assert [model.tokenizer.encode_special(token) for token in SPEECH[1:-1]] == list(reply.ids)


def test_sampling_is_that_of_the_request(scripted: Scripted) -> None:
    model = scripted(TEXT, SPEECH)
    reply = model.asr(SECOND, SamplingParams(max_new_tokens=1))
    assert reply.text == "All"
    assert reply.finish_reason == "length"


def test_audio_is_encoded_in_pieces_once(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scripted(TEXT, SPEECH)
    encoded: list[int] = []
    encode = Generator.encode

    def counted(self: Generator, features: list[torch.Tensor]) -> list[torch.Tensor]:
        encoded.extend(feature.shape[1] for feature in features)
        return encode(self, features)

    monkeypatch.setattr(Generator, "encode", counted)
    dialogue = model.dialogue()
    dialogue.say(audio=SECOND.repeat(26))
    dialogue.say(text="And?")
    dialogue.say(audio=SECOND)
    assert encoded == [2502, 102, 102]


def test_base_has_no_template(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scripted(SPEECH, name="mini-Base")
    assert model.variant == "base"
    prompts, own = seen(model, monkeypatch), model.processor.prompts
    model.asr(SECOND, SamplingParams(max_new_tokens=1))
    assert prompts.pop() == f"{own.asr}<audio_start><audio_end>"
    assert model.read_aloud("Good day.").text == "Hello world"
    assert prompts.pop() == f"{own.read_aloud}Good day.<tts_start>"
    assert list(model.read_translation("早").codes) == CODES
    assert prompts.pop() == f"{own.read_translation}早<tts_start>"
    for mode in ("chat", "think", "caption"):
        with pytest.raises(ConfigError, match=f"has no mode '{mode}'; it has asr, voice_chat"):
            model.require(mode)


def test_modes_that_are_missing_are_refused_before_anything_is_loaded(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scripted(TEXT, modes=["asr"])
    monkeypatch.setattr(StepAudio, "generator", property(lambda self: pytest.fail("loaded")))
    for ask in (
        lambda: model.caption("there/is/no/such.wav"),
        lambda: model.read_aloud("text"),
        lambda: model.dialogue(),
        lambda: model.dialogue(speech=True),
        lambda: model.dialogue(think=True),
        lambda: model.dialogue(tools=[{"name": "x"}]),
        lambda: model.chat(text="Hi"),
    ):
        with pytest.raises(ConfigError, match=r"has no mode '.*'; it has asr$"):
            ask()


def test_bad_audio_is_refused_before_anything_is_loaded(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = scripted(TEXT, text={"max_position_embeddings": 400})
    monkeypatch.setattr(StepAudio, "generator", property(lambda self: pytest.fail("loaded")))
    with pytest.raises(CapacityError, match=r"context is 400 tokens.* (\d+) s of audio fit"):
        model.asr(SECOND.repeat(60))
    with pytest.raises(AudioLoadError, match=r"nothing\.wav"):
        model.asr(tmp_path / "nothing.wav")
    with pytest.raises(AudioLoadError, match="too short"):
        model.asr(torch.zeros(40))
    with pytest.raises(AudioLoadError, match="mono"):
        model.asr(torch.zeros(2, 16_000))


def test_wrong_revisions_and_devices(scripted: Scripted, tmp_path: Path) -> None:
    scripted(TEXT)
    with pytest.raises(CheckpointError, match="has no revision 'v2'"):
        StepAudio.from_pretrained(tmp_path / "mini", revision="v2")
    with pytest.raises(ConfigError, match="unknown device"):
        StepAudio.from_pretrained(tmp_path / "mini", device="abacus")
    with pytest.raises(CheckpointError, match="hf download someone/some --revision v2"):
        checkpoint_folder("someone/some", revision="v2", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precisions(scripted: Scripted, tmp_path: Path, dtype: torch.dtype) -> None:
    scripted(TEXT, SPEECH)
    model = StepAudio.from_pretrained(tmp_path / "mini", device="cpu", dtype=dtype)
    assert model.generator.model.lm_head.weight.dtype == dtype
    assert model.translate(SECOND, speech=True).text == "Hello world"


def test_small_files_are_checked_before_the_weights(scripted: Scripted, tmp_path: Path) -> None:
    scripted(TEXT)
    folder = tmp_path / "mini"
    weights = sorted(folder.glob("*.safetensors"))
    content = weights[0].read_bytes()
    weights[0].write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match=rf"{weights[0].name}: damaged or incomplete"):
        StepAudio.from_pretrained(folder)
    weights[0].unlink()
    definition = json.loads((folder / "tokenizer.json").read_text())
    kept = [t for t in definition["added_tokens"] if not t["content"].startswith("<audio_")]
    (folder / "tokenizer.json").write_text(json.dumps(definition | {"added_tokens": kept}))
    with pytest.raises(ConfigError, match=r"lacks the special tokens <audio_start>.*<audio_0>"):
        StepAudio.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json: damaged"),
        ("config.json", "[1]", "config.json: expected an object"),
        ("config.json", '{"text_config": "x"}', "audio_encoder_config is missing"),
        (
            "config.json",
            '{"text_config": 1, "audio_encoder_config": {}}',
            "TextConfig is no object",
        ),
        ("config.json", '{"audio_encoder_config": [2]}', "missing fields"),
        ("generation_config.json", "{", "generation_config.json: damaged"),
        ("generation_config.json", "[]", "generation_config.json: expected an object"),
    ],
)
def test_damaged_json_is_named(
    scripted: Scripted, tmp_path: Path, file: str, content: str, message: str
) -> None:
    scripted(TEXT)
    (tmp_path / "mini" / file).write_text(content)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        StepAudio.from_pretrained(tmp_path / "mini")


def test_end_tokens_must_be_those_of_the_tokenizer(scripted: Scripted, tmp_path: Path) -> None:
    scripted(TEXT)
    path = tmp_path / "mini" / "config.json"
    values = json.loads(path.read_text())
    values["text_config"]["eos_token_id"] = values["text_config"]["pad_token_id"]
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"eos_token_id .* lacks <\|EOT\|>"):
        StepAudio.from_pretrained(tmp_path / "mini", lazy=True)


def test_a_repository_without_that_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(*args: object, **options: object) -> str:
        response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
        raise RevisionNotFoundError("404", response=response)

    monkeypatch.setattr("stepaudio.models.hub.snapshot_download", answer)
    with pytest.raises(CheckpointError, match="someone/some: there is no revision 'v2'"):
        StepAudio.from_pretrained("someone/some", revision="v2")
