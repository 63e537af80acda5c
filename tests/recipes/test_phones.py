"""Phone targets and the phone head."""

import gzip

import pytest
import torch

from stepaudio.errors import ConfigError
from stepaudio.models.encoder import Latents
from stepaudio.training.losses import ctc_loss
from stepaudio_recipes.phones import PHONES, Lexicon, PhoneHead, phone_loss

DICTIONARY = """cat K AE1 T
judge JH AH1 JH
live L AY1 V
live(2) L IH1 V
d'artagnan D AH0 R T AE1 NG Y AH0 N # foreign french
dog D AO1 G
"""


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "dictionary.gz"
    path.write_bytes(gzip.compress(DICTIONARY.encode()))
    return Lexicon.read(path)


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("live", "L AY V"),  # the first pronunciation, without stress
        ("d'artagnan", "D AH R T AE NG Y AH N"),  # without the comment
        ("cat's", "K AE T S"),
        ("dog's", "D AO G Z"),
        ("judge's", "JH AH JH IH Z"),
    ],
)
def test_words_have_their_phones(lexicon, word, phones):
    assert lexicon.phones(word) == tuple(phones.split())


def test_a_text_with_an_unknown_word_has_no_targets(lexicon):
    names = [PHONES[index - 1] for index in lexicon.targets("cat dog")]
    assert names == ["K", "AE", "T", "D", "AO", "G"]
    assert lexicon.targets("cat zzzq") == []


def test_the_loss_is_that_of_the_known_texts(lexicon):
    head = PhoneHead(8, 2)
    posteriors = head(torch.randn(2, 5, 8), torch.tensor([5, 4]))
    assert posteriors.values.shape == (2, 10, len(PHONES) + 1)
    assert posteriors.lengths.tolist() == [10, 8]
    alone = Latents(posteriors.values[1:, :8], posteriors.lengths[1:])
    targets = torch.tensor([lexicon.targets("cat")])
    expected = ctc_loss(alone, targets, torch.tensor([3]))
    loss = phone_loss(posteriors, lexicon, ["zzzq", "cat"])
    assert loss.item() == pytest.approx(expected.item())


def test_without_a_known_text_the_loss_is_zero_and_has_gradients(lexicon):
    head = PhoneHead(8, 2)
    loss = phone_loss(head(torch.randn(1, 5, 8), torch.tensor([5])), lexicon, ["zzzq"])
    loss.backward()
    assert loss == 0 and head.proj.weight.grad is not None


def test_a_missing_dictionary_says_what_to_run(tmp_path):
    with pytest.raises(ConfigError, match="run the prepare recipe first"):
        Lexicon.read(tmp_path / "absent.gz")
