"""The whole model: audio injection, loss, LoRA, Hugging Face generate."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stepaudio.models.encoder import Latents
from stepaudio.models.step_audio import StepAudio2ForCausalLM

START, PATCH = 200, 202
Build = Callable[..., StepAudio2ForCausalLM]


@pytest.fixture
def audio() -> tuple[Tensor, Tensor]:
    """Log-mel of two clips, and their lengths: 20 and 12 latents."""
    mel, lens = torch.randn(2, 80, 160), torch.tensor([160, 96])
    mel[1, :, 96:] = 0
    return mel, lens


@pytest.fixture
def ids() -> Tensor:
    """Two rows with one clip each."""
    rows = torch.randint(3, 190, (2, 30))
    for row, size in enumerate((20, 12)):
        rows[row, 2] = START
        rows[row, 3 : 3 + size] = PATCH
    return rows


def test_latents_replace_patches(
    tiny_model: Build, ids: Tensor, audio: tuple[Tensor, Tensor]
) -> None:
    model = tiny_model()
    with torch.inference_mode():
        latents = model.encode_audio(*audio)[1]
        embeds = model.embed(ids, latents)
    assert latents.lengths.tolist() == [20, 12]
    assert torch.equal(embeds[0, 3:23], latents.values[0])
    assert torch.equal(embeds[1, 3:15], latents.values[1, :12])
    assert torch.equal(embeds[1, 15:], model.model.embed_tokens(ids)[1, 15:])


def test_audio_that_does_not_fit_is_an_error(
    tiny_model: Build, ids: Tensor, audio: tuple[Tensor, Tensor]
) -> None:
    model = tiny_model()
    mel, lens = audio
    with pytest.raises(ValueError, match=r"2 audios .* features of 1"):
        model(ids, mel[:1], lens[:1])
    with pytest.raises(ValueError, match=r"\[19, 12\] latents"):
        model(ids, mel, torch.tensor([152, 96]))
    with pytest.raises(ValueError, match="latents"):
        model(ids.roll(10, 1), mel, lens)  # a clip that runs over the end of its row
    with pytest.raises(ValueError, match="feature_lens"):
        model(ids, mel)
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model()


def test_loss_ignores_unlabelled_tokens(
    tiny_model: Build, ids: Tensor, audio: tuple[Tensor, Tensor]
) -> None:
    model = tiny_model()
    labels = ids.clone()
    labels[:, :23] = -100
    full = model(ids, *audio, labels=labels)
    shifted = F.cross_entropy(full.logits[:, 22:-1].flatten(0, 1), labels[:, 23:].flatten())
    assert torch.isclose(full.loss, shifted, atol=1e-5)
    short = model(ids, *audio, labels=labels, output_logits=False)
    assert short.logits is None
    assert torch.isclose(short.loss, full.loss)
    summed = model(ids, *audio, labels=labels, num_items_in_batch=1).loss
    assert torch.isclose(summed, full.loss * 14, rtol=1e-4)


def test_logits_can_be_restricted(tiny_model: Build, ids: Tensor) -> None:
    model = tiny_model()
    with torch.inference_mode():
        full = model(ids).logits
        assert torch.allclose(model(ids, logits_to_keep=1).logits, full[:, -1:], atol=1e-6)
        kept = model(ids, logits_to_keep=torch.tensor([3, 5])).logits
        assert torch.allclose(kept, full[:, [3, 5]], atol=1e-6)
        rows = model(ids, logits_rows=START).logits
    assert rows.shape[-1] == START
    assert torch.allclose(rows, full[..., :START], atol=1e-6)


def test_ctc_output(tiny_model: Build, ids: Tensor, audio: tuple[Tensor, Tensor]) -> None:
    model = tiny_model()
    output = model(ids, *audio, output_ctc=True)
    assert output.ctc_log_probs.shape == (2, 40, 6)
    assert output.ctc_lengths.tolist() == [40, 24]
    with pytest.raises(ValueError, match="input_features"):
        model(ids, output_ctc=True, audio_embeds=model.encode_audio(*audio)[1])


@pytest.mark.parametrize("tied", [True, False])
def test_head_is_tied_only_where_the_configuration_says_so(tiny_model: Build, tied: bool) -> None:
    model = tiny_model(tied=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_audio_enters_generate_once(
    tiny_model: Build, ids: Tensor, audio: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(eos_token_id=299)
    calls = []
    encode = StepAudio2ForCausalLM.encode_audio

    def counted(self: StepAudio2ForCausalLM, *args: Tensor) -> tuple[Latents, Latents]:
        calls.append(1)
        return encode(self, *args)

    monkeypatch.setattr(StepAudio2ForCausalLM, "encode_audio", counted)
    mel, lens = audio
    options = {"max_new_tokens": 6, "do_sample": False}
    ones = torch.ones_like(ids)
    plain = model.generate(
        ids, attention_mask=ones, input_features=mel, feature_lens=lens, **options
    )
    assert len(calls) == 1
    latents = encode(model, mel, lens)[1]
    given = model.generate(ids, attention_mask=ones, audio_embeds=latents, **options)
    assert torch.equal(plain, given)


def test_beams_keep_the_clips_of_their_row(tiny_model: Build, audio: tuple[Tensor, Tensor]) -> None:
    model = tiny_model(eos_token_id=299)
    row = torch.randint(3, 190, (1, 40))
    row[0, 1] = row[0, 25] = START
    row[0, 2:22] = PATCH
    row[0, 26:38] = PATCH
    output = model.generate(
        row,
        attention_mask=torch.ones_like(row),
        input_features=audio[0],
        feature_lens=audio[1],
        max_new_tokens=4,
        do_sample=True,
        temperature=1e-4,
        num_return_sequences=3,
    )
    assert len(set(map(tuple, output.tolist()))) == 1


def test_lora_trains_and_merges(
    tiny_model: Build, ids: Tensor, audio: tuple[Tensor, Tensor]
) -> None:
    peft = pytest.importorskip("peft")
    targets = ["q_proj", "v_proj", "o_proj", "gate_proj"]
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=4, target_modules=targets))
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    inputs = {"input_ids": ids, "input_features": audio[0], "feature_lens": audio[1]}
    losses = []
    for _ in range(3):
        loss = model(**inputs, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    with torch.inference_mode():
        adapted = model(**inputs).logits
        merged = model.merge_and_unload()
        assert isinstance(merged, StepAudio2ForCausalLM)
        assert torch.allclose(merged(**inputs).logits, adapted, atol=1e-4)
