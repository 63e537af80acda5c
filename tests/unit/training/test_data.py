"""Training batches: deterministic, mixed as asked, bounded, with targets that fit the audio."""

from itertools import islice

import numpy as np
import pytest
import torch

from stepaudio.models.config import AudioEncoderConfig
from stepaudio.text.ctc import collapse, ctc_targets
from stepaudio.text.manifest import ManifestRow
from stepaudio.training.augment import AugmentConfig
from stepaudio.training.data import BatchBuilder, SampleStore, Source, pack_rows, plan_batches

ENCODER = AudioEncoderConfig(
    n_mels=40, n_audio_ctx=0, n_audio_state=16, n_audio_head=2, n_audio_layer=1, llm_dim=16,
    kernel_size=1, adapter_stride=1, chunk_frames=32, left_context=32, mel_floor="fixed",
    conv_strides=(2, 2), position="rotary", adapter_type="linear", ctc_tokens=" abc",
)  # fmt: skip


def row(name, duration):
    return ManifestRow(
        audio_filepath=name, text="a b", duration=duration, language="en", speaker=name
    )


@pytest.fixture
def sources():
    rng = np.random.default_rng(0)
    first = [row(f"a{i}", float(rng.uniform(1, 9))) for i in range(300)]
    second = [row(f"b{i}", float(rng.uniform(1, 9))) for i in range(50)]
    return [Source(first, 3.0), Source(second, 1.0)]


def names(batches):
    return [[r.audio_filepath for r in batch] for batch in batches]


def test_plan_depends_on_the_seed_only(sources):
    first, again, other = (
        names(islice(plan_batches(sources, 30.0, seed), 200)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_batches_are_bounded_and_mixed_as_asked(sources):
    batches = list(islice(plan_batches(sources, 30.0, 1), 400))
    assert all(len(b) * max(r.duration for r in b) <= 30.0 for b in batches)
    drawn = [r.audio_filepath[0] for b in batches for r in b]
    assert drawn.count("b") / len(drawn) == pytest.approx(0.25, abs=0.03)
    padding = sum(len(b) * max(r.duration for r in b) for b in batches)
    assert sum(r.duration for b in batches for r in b) / padding > 0.85


def test_every_row_is_seen_before_any_is_seen_again(sources):
    drawn = []
    for batch in plan_batches(sources, 30.0, 1):
        drawn += [r.audio_filepath for r in batch]
        if len(drawn) == 2048:  # rows are sorted by length in blocks of this size
            break
    counts = [drawn.count(f"a{i}") for i in range(300)]
    assert max(counts) - min(counts) <= 1


def test_one_long_clip_makes_a_batch_of_its_own():
    source = Source([row("long", 50.0), row("short", 1.0)], 1.0)
    batches = list(islice(plan_batches([source], 30.0, 1), 10))
    assert all(len(b) == 1 or all(r.duration < 30 for r in b) for b in batches)


def test_packed_rows_give_the_same_samples_and_batches_are_reproducible(tmp_path, examples):
    clips = sorted(examples.glob("*.ogg"))[:2]
    rows = [row(str(path), 1.0) for path in clips]
    packed = pack_rows(rows, tmp_path / "shard.pcm")
    store = SampleStore()
    for plain, shard in zip(rows, packed, strict=True):
        a, b = store.load(plain), store.load(shard)
        assert len(a) == len(b) == round(shard.duration * 16_000)
        assert np.abs(a - b).max() < 1e-4
    builder = BatchBuilder(ENCODER, AugmentConfig(), seed=5)
    one, two, other = (builder.build(packed, step) for step in (7, 7, 8))
    assert torch.equal(one.mel, two.mel)
    assert one.mel.shape != other.mel.shape or not torch.equal(one.mel, other.mel)


def test_padding_is_zero_and_targets_are_the_text(tmp_path, examples):
    clips = sorted(examples.glob("*.ogg"))[:2]
    packed = pack_rows([row(str(path), 1.0) for path in clips], tmp_path / "shard.pcm")
    batch = BatchBuilder(ENCODER, None).build(packed, 0)
    for mel, length, target, size in zip(
        batch.mel, batch.mel_lens, batch.targets, batch.target_lens, strict=True
    ):
        assert not mel[:, length:].any()
        assert collapse(target[:size].tolist(), ENCODER.ctc_tokens) == "a b"


def test_ctc_targets_leave_out_unknown_characters_and_collapse_inverts_them():
    assert ctc_targets("a-b?c", " abc") == [2, 3, 4]
    assert collapse([0, 2, 2, 0, 2, 1, 1, 3, 0], " abc") == "aa b"
    assert collapse([1, 0, 2], " abc") == "a"
