"""Codec and speech pretraining, whole, on a few recordings, with pinned losses."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stepaudio.audio.io import load_audio
from stepaudio.errors import ConfigError
from stepaudio.generation.adapters import AdapterSet
from stepaudio.models.adapters import load_adapter
from stepaudio.models.checkpoint import load_pretrained, pretrained_folder
from stepaudio.models.token2wav.tokenizer_checkpoint import load_tokenizer, read_tokenizer_config
from stepaudio.text.manifest import read_manifest
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio_recipes import codec, speech_pretrain
from stepaudio_recipes.codes import CodeStore
from stepaudio_recipes.config import load_config
from stepaudio_recipes.text_data import IGNORED_LABEL
from stepaudio_recipes.tokenizer import TokenizerConfig
from stepaudio_recipes.tokenizer import main as make_tokenizer
from stepaudio_recipes.tts_stage import TtsData

ROOT = Path(__file__).parents[2]
CONFIGS = Path(codec.__file__).parent / "configs"
NUM_CODES = 27
# A change of these numbers is a change of the recipe: of its data order, initialisation, model,
# losses or optimiser.
CODEC_LOSSES = [14.339, 14.03, 13.03, 12.354]
SPEECH_LOSSES = [13.92, 12.84, 11.573, 9.384, 8.914]


@pytest.fixture(scope="module")
def data(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("speech")
    audio = shutil.copytree(examples, folder / "audio")
    lines = (audio / "manifest.jsonl").read_text().splitlines()
    short = [line for line in lines if "long" not in line]
    (audio / "manifest.jsonl").write_text("\n".join(short) + "\n")
    words = {word for line in short for word in json.loads(line)["text"].split()}
    entries = [
        f"{word} {' '.join(['AH', 'T', 'S'][: 1 + len(word) % 3])}" for word in sorted(words)
    ]
    (folder / "dict.gz").write_bytes(gzip.compress("\n".join(entries).encode()))
    things, places = ("cat", "dog", "man", "book", "sun"), ("mat", "road", "hill", "river")
    texts = [f"the {a} was on the {b} at {c}" for a in things for b in places for c in "abcd"]
    (folder / "texts.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    nano = str(ROOT / "stepaudio" / "weights" / "nano")
    make_tokenizer(
        TokenizerConfig(output_dir=str(folder / "tokenizer"), num_codes=NUM_CODES, trained=nano)
    )
    return folder


@pytest.fixture(scope="module")
def codec_run(data):
    settings = [
        f"data={data / 'audio'}",
        f"codes={data / 'codes'}",
        f"lexicon={data / 'dict.gz'}",
        f"output_dir={data / 'codec'}",
    ]
    config = load_config(codec.Config, CONFIGS / "codec" / "tiny.yaml", settings)
    return config, codec.main(config)


@pytest.fixture(scope="module")
def speech_run(data, codec_run):
    settings = [
        f"tts.folder={data / 'audio'}",
        f"tts.codes={data / 'codes'}",
        f"tts.lexicon={data / 'dict.gz'}",
        f"chat.lexicon={data / 'dict.gz'}",
        f"chat.texts={data / 'texts.txt.gz'}",
        f"tokenizer={data / 'tokenizer'}",
        f"output_dir={data / 'run'}",
    ]
    path = CONFIGS / "speech_pretrain" / "tiny.yaml"
    config = load_config(speech_pretrain.Config, path, settings)
    return config, speech_pretrain.main(config)


def test_codec_losses_are_the_pinned_ones(codec_run):
    assert [round(loss, 3) for loss in codec_run[1]] == pytest.approx(CODEC_LOSSES, abs=5e-3)


def test_a_finished_codec_has_nothing_left_to_train(codec_run):
    assert codec.main(codec_run[0]) == []


def test_the_codes_are_those_of_the_tokenizer_that_was_written(data, codec_run):
    folder = data / "codec" / "tokenizer"
    nano = pretrained_folder("nano")
    config = read_tokenizer_config(json.loads((folder / "config.json").read_text()), nano)
    tokenizer = load_tokenizer(folder / "speech_tokenizer.safetensors", config, nano).float()
    store = CodeStore(data / "codes")
    row = read_manifest(data / "audio" / "manifest.jsonl")[0]
    codes = tokenizer.tokenize(load_audio(row.audio_filepath).samples)
    np.testing.assert_array_equal(store.load(row), codes.numpy())
    assert codes.max() < NUM_CODES


def test_an_s3_tokenizer_learns_too(codec_run):
    config = dataclasses.replace(
        codec_run[0],
        tokenizer={"n_mels": 80, "n_audio_state": 32, "n_audio_head": 2, "n_audio_layer": 1},
    )
    teacher = load_pretrained("nano", device="cpu")[0].float().eval()
    model = codec.build_model(config, teacher)
    batch = codec.CodecData(config, teacher, model.tokenizer)
    clips = batch.build(batch.dev[:2], None)
    posteriors, drawn, values = model(clips.mel, clips.lens)
    assert posteriors.values.shape[:2] == values.shape[:2]
    assert drawn.shape[1] == 80
    (posteriors.values.sum() + drawn.sum()).backward()
    assert all(p.grad is not None for p in model.tokenizer.parameters())


def test_audio_without_codes_is_named(data, codec_run, tmp_path):
    row = read_manifest(data / "audio" / "manifest.jsonl")[0]
    with pytest.raises(ConfigError, match=Path(row.audio_filepath).name):
        CodeStore(tmp_path).load(row)


def test_speech_losses_are_the_pinned_ones(speech_run):
    assert [round(loss, 3) for loss in speech_run[1]] == pytest.approx(SPEECH_LOSSES, abs=5e-3)


def test_a_voice_begins_with_another_one_and_adapters_are_kept(data, speech_run, tmp_path):
    model = data / "run" / "model"
    tts, chat = speech_run[0].stages
    config = dataclasses.replace(
        speech_run[0],
        foundation=str(model),
        output_dir=str(tmp_path),
        stages=(
            dataclasses.replace(tts, start=str(model), loop=dataclasses.replace(tts.loop, steps=1)),
            dataclasses.replace(chat, objective="kept"),
        ),
    )
    tokenizer = TextTokenizer.from_folder(config.tokenizer)
    run = speech_pretrain.SpeechRun(
        config, tokenizer, torch.device("cpu"), speech_pretrain.Workers()
    )
    decoder = speech_pretrain.speech_decoder(run, config.stages[0])
    old = load_pretrained(model, device="cpu")[0].model.embed_tokens.weight.detach()
    ids = torch.arange(run.first_row(), tokenizer.num_tokens)
    first = tokenizer.vocab.audio_0
    is_code = (ids >= first) & (ids < first + NUM_CODES)
    same = (decoder.rows.detach() == old[run.first_row() :]).all(dim=1)
    assert bool(same[~is_code].all()) and not bool(same[is_code].any())
    parameters = dict(decoder.backbone.named_parameters())
    for name, tensor in load_adapter(model / "adapters" / "tts").tensors.items():
        torch.testing.assert_close(parameters[name].detach(), tensor.float())
    assert len(speech_pretrain.main(config)) == 1
    kept = load_adapter(tmp_path / "model" / "adapters" / "chat").tensors
    for name, tensor in load_adapter(model / "adapters" / "chat").tensors.items():
        assert torch.equal(kept[name], tensor)


def test_hearing_stays_as_it_is_bit_by_bit(data, speech_run):
    before = load_pretrained("nano", device="cpu")[0].state_dict()
    model, tokenizer = load_pretrained(str(data / "run" / "model"), device="cpu")
    after = model.state_dict()
    kept = tokenizer.vocab.audio_patch + 1
    for name, tensor in before.items():
        rows = kept if "embed_tokens" in name or "lm_head" in name else None
        assert torch.equal(after[name][:rows], tensor[:rows]), name
    assert tokenizer.num_tokens == len(after["model.embed_tokens.weight"])


def test_the_checkpoint_has_its_adapters(data, speech_run):
    adapters = AdapterSet.load(data / "run" / "model")
    assert adapters.ids == {"chat": 1, "tts": 2}
    assert any(tensor.any() for tensor in adapters.adapters["tts"].tensors.values())


def test_labels_are_the_codes_and_the_end_and_never_given_text(data, speech_run):
    config = speech_run[0]
    tokenizer = TextTokenizer.from_folder(config.tokenizer)
    vocab = tokenizer.vocab
    tts = TtsData(config.tts, tokenizer, 0)
    rows = [row for row in tts.dev if tts.build([row], None).speech_s]
    assert rows
    for row in rows:
        batch = tts.build([row], None)
        ids, labels = batch.ids[0], batch.labels[0]
        where = labels != IGNORED_LABEL
        assert torch.equal(labels[:-1][where[:-1]], ids[1:][where[:-1]])
        codes = [vocab.code_of(i) for i in labels[where].tolist() if vocab.is_audio(i)]
        stored = CodeStore(config.tts.codes).load(row).tolist()
        assert codes[: len(stored)] == stored
        assert len(codes) % 4 == 0
        assert labels[where][-1] == vocab.tts_end
        answer = ids.tolist()[ids.tolist().index(vocab.tts_start) + 1 :]
        assert tokenizer.decode(vocab.split_ids(answer)[0]).strip() == row.text
