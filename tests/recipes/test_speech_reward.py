"""A reader of audio codes, and a voice that learns from it: whole, with pinned losses."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.adapters import load_adapter
from stepaudio.models.checkpoint import load_pretrained, pretrained_folder
from stepaudio.text.letter_to_sound import LetterToSound
from stepaudio.text.manifest import read_manifest
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.word_model import WordModel
from stepaudio_recipes import code_reader, speech_reward
from stepaudio_recipes.codes import CodeStore, row_key
from stepaudio_recipes.config import load_config
from stepaudio_recipes.lexicon import Lexicon
from stepaudio_recipes.spoken_takes import Requests, SpokenTake, read_takes, write_takes
from stepaudio_recipes.tts_stage import INSTRUCTION, TtsExamples

CONFIGS = Path(code_reader.__file__).parent / "configs"
NUM_CODES = 729  # nano's
# A change of these numbers is a change of the recipe: of its data order, initialisation, model,
# losses or optimiser, or of nano, with which the second begins.
READER_LOSSES = [18.254, 17.625, 16.765, 15.911]
REWARD_LOSSES = [10.947, 10.118, 10.186]
TEXTS = ["the cat was on the mat", "a dog ran down the long road", "the sun is over the hill"]


@pytest.fixture(scope="module")
def data(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("reward")
    audio = shutil.copytree(examples, folder / "audio")
    lines = (audio / "manifest.jsonl").read_text().splitlines()
    short = [line for line in lines if "long" not in line]
    (audio / "manifest.jsonl").write_text("\n".join(short) + "\n")
    words = {word for line in (*short, *map(_row, TEXTS)) for word in _words(line)}
    entries = [f"{word} {' '.join(['AH', 'T'][: 1 + len(word) % 2])}" for word in sorted(words)]
    (folder / "dict.gz").write_bytes(gzip.compress("\n".join(entries).encode()))
    texts = [*TEXTS, "short", "an xyzzy has no pronunciation", TEXTS[0] * 9]
    (folder / "texts.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    rng = np.random.default_rng(0)
    rows = read_manifest(audio / "manifest.jsonl")
    codes = {row_key(row): rng.integers(0, NUM_CODES, int(25 * row.duration)) for row in rows}
    CodeStore(folder / "codes").write(
        "all", {key: row.astype(np.int16) for key, row in codes.items()}
    )
    return folder


def _row(text):
    return json.dumps({"text": text})


def _words(line):
    return json.loads(line)["text"].split()


@pytest.fixture(scope="module")
def reader_run(data):
    settings = [
        f"folder={data / 'audio'}",
        f"codes={data / 'codes'}",
        f"lexicon={data / 'dict.gz'}",
        f"output_dir={data / 'reader'}",
        f"reader.num_codes={NUM_CODES}",
    ]
    path = CONFIGS / "code_reader" / "tiny.yaml"
    config = load_config(code_reader.Config, path, settings)
    return config, code_reader.main(config)


@pytest.fixture(scope="module")
def reward_config(data, reader_run):
    settings = [
        f"reader={data / 'reader'}",
        f"requests.texts={data / 'texts.txt.gz'}",
        f"requests.folder={data / 'audio'}",
        f"requests.lexicon={data / 'dict.gz'}",
        f"output_dir={data / 'run'}",
    ]
    path = CONFIGS / "speech_reward" / "tiny.yaml"
    return load_config(speech_reward.Config, path, settings)


@pytest.fixture(scope="module")
def takes():
    """What might have been said: other processors say other things with the same seed."""
    tokenizer = TextTokenizer.from_folder(pretrained_folder("nano"))
    sounds = LetterToSound(WordModel.load(pretrained_folder("nano")))
    lexicon = Lexicon({word: sounds.pronunciations(word) for word in " ".join(TEXTS).split()})
    examples, rng = TtsExamples(tokenizer, lexicon), np.random.default_rng(3)
    made = []
    for text in TEXTS:
        codes = rng.integers(0, NUM_CODES, 60).tolist()
        prompt, _ = examples.prompt(INSTRUCTION, examples.reading(text))
        answer, _ = examples.answer(text, codes)
        made.append(
            SpokenTake(tuple(prompt), tuple(answer), tuple(codes), tuple(lexicon.targets(text)))
        )
    return made


def run_on(takes, config, folder):
    (folder / "takes").mkdir(parents=True, exist_ok=True)
    for number in range(2):
        write_takes(folder / "takes" / f"{number:03}.jsonl", takes)
    return speech_reward.main(dataclasses.replace(config, output_dir=str(folder)))


@pytest.fixture(scope="module")
def reward_run(reward_config, takes, data):
    return data / "run", run_on(takes, reward_config, data / "run")


def test_losses_of_the_reader_are_the_pinned_ones(reader_run):
    assert [round(loss, 3) for loss in reader_run[1]] == pytest.approx(READER_LOSSES, abs=5e-3)


def test_a_finished_reader_has_nothing_left_to_train(reader_run):
    assert code_reader.main(reader_run[0]) == []


def test_rows_are_read_as_each_is_alone(reader_run):
    reader = code_reader.load_reader(reader_run[0].output_dir)
    rows = [list(range(40)), list(range(100, 190)), [5] * 7]
    together = reader.read(rows)
    for index, row in enumerate(rows):
        alone = reader.read([row])
        torch.testing.assert_close(
            together.values[index, : len(row)], alone.values[0, : len(row)], atol=1e-5, rtol=1e-4
        )
    losses = code_reader.reading_losses(together, [[1, 2, 3], [4] * 20, [1, 2, 3, 4, 5, 6, 7, 8]])
    assert bool((losses[:2] > 0).all())
    assert losses[2] == 0  # more phones than codes


def test_a_missing_or_damaged_reader_is_named(reader_run, tmp_path):
    with pytest.raises(CheckpointError, match="run the recipe code_reader"):
        code_reader.load_reader(tmp_path)
    shutil.copytree(reader_run[0].output_dir, tmp_path / "reader")
    (tmp_path / "reader" / "reader.json").write_text('{"size": 3}')
    with pytest.raises(CheckpointError, match=r"reader\.json: damaged"):
        code_reader.load_reader(tmp_path / "reader")


def test_losses_of_the_voice_are_the_pinned_ones(reward_run):
    assert [round(loss, 3) for loss in reward_run[1]] == pytest.approx(REWARD_LOSSES, abs=2e-2)


def test_a_killed_run_goes_on_as_if_nothing_had_been(reward_config, reward_run, takes, tmp_path):
    loop = dataclasses.replace(reward_config.loop, steps=1)
    losses = run_on(takes, dataclasses.replace(reward_config, loop=loop), tmp_path)
    losses += run_on(takes, reward_config, tmp_path)
    assert losses == pytest.approx(reward_run[1], abs=1e-3)


def test_every_round_has_takes_of_its_own(reward_config, tmp_path):
    config = dataclasses.replace(reward_config, output_dir=str(tmp_path), round_takes=2)
    policy = speech_reward.Policy(config.start, config.adapter, torch.device("cpu"))
    rounds = speech_reward.Rounds(config, policy)
    batches = dict(rounds.batches(0))
    assert list(batches) == [0, 1, 2, 3]
    first, second = (read_takes(tmp_path / "takes" / f"00{number}.jsonl") for number in range(2))
    assert first != second
    vocab = policy.vocab
    for take in first + second:
        codes = [vocab.code_of(i) for i in take.answer if vocab.is_audio(i)]
        assert take.codes == tuple(codes)
        assert take.prompt[-1] == vocab.tts_start
    batch = batches[1]
    assert int(batch.is_code.sum()) == sum(len(take.codes) for take in second)
    again = dict(rounds.batches(1))[1]
    assert torch.equal(again.ids, batch.ids)


def test_only_the_voice_changes(reward_run):
    nano, folder = pretrained_folder("nano"), reward_run[0] / "model"
    before, tokenizer = load_pretrained("nano", device="cpu")
    after = load_pretrained(folder, device="cpu")[0].state_dict()
    kept = tokenizer.vocab.audio_patch + 1
    for name, tensor in before.state_dict().items():
        rows = kept if "embed_tokens" in name or "lm_head" in name else None
        assert torch.equal(after[name][:rows], tensor[:rows]), name
    table = before.state_dict()["model.embed_tokens.weight"]
    assert not torch.equal(after["model.embed_tokens.weight"][kept:], table[kept:])
    for name, changes in (("chat", False), ("tts", True)):
        old, new = (load_adapter(f / "adapters" / name).tensors for f in (nano, folder))
        assert any(not torch.equal(old[key], new[key]) for key in old) == changes
    assert (folder / "words.safetensors").read_bytes() == (nano / "words.safetensors").read_bytes()


def test_a_reader_of_other_codes_is_refused(reward_config, tmp_path):
    small = code_reader.CodeReader(code_reader.ReaderConfig(num_codes=9, width=32, heads=2))
    import safetensors.torch

    safetensors.torch.save_file(small.state_dict(), tmp_path / "reader.safetensors")
    (tmp_path / "reader.json").write_text(json.dumps(dataclasses.asdict(small.config)))
    config = dataclasses.replace(
        reward_config, reader=str(tmp_path), output_dir=str(tmp_path / "run")
    )
    with pytest.raises(ConfigError, match="reads 9 codes"):
        speech_reward.main(config)


@pytest.mark.parametrize("value", ["reward.temperature=0", "reward.divergence_weight=-1"])
def test_rewards_that_make_no_sense_are_refused(value):
    with pytest.raises(ConfigError, match="positive temperature and no negative weight"):
        load_config(speech_reward.Config, CONFIGS / "speech_reward" / "tiny.yaml", [value])


def test_requests_have_known_words_and_fit(reward_config):
    requests = Requests(reward_config.requests, ("slowly",))
    drawn = requests.draw(60, np.random.default_rng(1))
    assert drawn == requests.draw(60, np.random.default_rng(1))
    said = {request.text for request in drawn}
    assert said >= set(TEXTS)
    assert not any("xyzzy" in text or text == "short" or len(text) > 30 for text in said)
    assert said - set(TEXTS), "transcripts are said too"
    assert {request.pace for request in drawn} == {"", "slowly"}
    assert {request.voice for request in drawn} == {"kathleen"}
    assert all(request.targets for request in drawn)


def test_takes_come_back_from_their_file(tmp_path):
    takes = [SpokenTake((1, 2), (3, 4, 5), (0, 1), (7,)), SpokenTake((1,), (3,), (2,), (7, 8))]
    write_takes(tmp_path / "takes.jsonl", takes)
    assert read_takes(tmp_path / "takes.jsonl") == takes
    (tmp_path / "takes.jsonl").write_text('{"prompt": [1]}\n')
    with pytest.raises(ConfigError, match=r"takes\.jsonl: .*delete it"):
        read_takes(tmp_path / "takes.jsonl")
