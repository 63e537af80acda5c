"""Transcription in two passes on a tiny model."""

import numpy as np
import pytest
import torch

from stepaudio.errors import CapacityError
from stepaudio.generation.generator import CTCPosteriors, GenerationPrompt, Generator
from stepaudio.generation.two_pass import TwoPassDecoder, TwoPassOptions, spelling_scores
from stepaudio.models.encoder import Latents
from stepaudio.text.ngram import NUM_RESERVED, train_ngrams
from stepaudio.text.word_model import WordModel
from stepaudio.training.losses import ctc_loss

WORDS = ("ab", "cab", "ba")
PHONES = ("A", "B", "K")
TOKENS = {"ab": [10, 11], "cab": [12], "ba": [13, 14, 15]}


@pytest.fixture
def words():
    sentences = [[NUM_RESERVED + index] for index in (0, 1, 2)] * 3
    return WordModel(
        words=WORDS,
        phones=PHONES,
        num_spoken=np.array([1, 1, 1], np.uint8),
        spoken_lens=np.array([2, 3, 2], np.uint8),
        spoken_phones=np.array([1, 2, 3, 1, 2, 2, 1], np.uint8),
        ngrams=train_ngrams(sentences, NUM_RESERVED + 3, min_count=1, largest_word=9),
    )


def tokenize(text: str) -> list[int]:
    return [token for word in text.split() for token in TOKENS[word]]


def heard(probabilities: list[list[float]]) -> CTCPosteriors:
    """Phones as given (blank first), characters (blank, space, apostrophe, a, b, c) unknown."""
    phones = torch.tensor(probabilities).log()
    return CTCPosteriors(torch.full((len(phones), 6), 1 / 6).log(), phones)


CLEAR = [[0.01, 0.01, 0.01, 0.97], [0.01, 0.97, 0.01, 0.01], [0.01, 0.01, 0.97, 0.01]]
VAGUE = [[0.5, 0.01, 0.01, 0.48], [0.01, 0.97, 0.01, 0.01], [0.01, 0.01, 0.97, 0.01]]


@torch.inference_mode()
def test_scores_are_those_of_whole_sequences(tiny_model):
    model = tiny_model()
    generator = Generator(model)
    prompt = GenerationPrompt([3, 4, 5, 6])
    continuations = [[10, 11, 12], [], [13]]
    scores = generator.score(prompt, continuations)
    for score, ids in zip(scores.tolist(), continuations, strict=True):
        logits = model(input_ids=torch.tensor([[*prompt.ids, *ids]]), use_cache=False).logits[0]
        log_probs = logits.log_softmax(-1)[len(prompt.ids) - 1 :]
        chosen = sum(float(log_probs[n, token]) for n, token in enumerate(ids))
        end = log_probs[len(ids), list(model.config.text_config.stop_ids)].logsumexp(-1)
        assert score == pytest.approx(chosen + float(end), abs=1e-4)


def test_scoring_what_exceeds_the_context_is_refused(tiny_model):
    generator = Generator(tiny_model())
    too_long = [7] * (generator.model.config.max_position_embeddings + 1)
    with pytest.raises(CapacityError):
        generator.score(GenerationPrompt([3]), [[4], too_long])


def test_spelling_scores_are_ctc_losses():
    log_probs = torch.randn(9, 4).log_softmax(-1)
    scores = spelling_scores(["ab", "", "b a"], log_probs, "ab ")
    for score, target in zip(scores, ([1, 2], [], [2, 3, 1]), strict=True):
        ids, size = torch.tensor([target], dtype=torch.long), torch.tensor([len(target)])
        loss = ctc_loss(Latents(log_probs[None], torch.tensor([9])), ids, size)
        assert score.item() == pytest.approx(-loss.item() * max(len(target), 1), abs=1e-4)


def test_without_the_decoder_the_phones_decide(tiny_model, words):
    options = TwoPassOptions(decoder=0.0)
    decoder = TwoPassDecoder(Generator(tiny_model()), words, tokenize, options)
    completion = decoder.complete(GenerationPrompt([3, 4]), heard(CLEAR))
    assert completion.ids == TOKENS["cab"]
    assert completion.stats.tokens == len(TOKENS["cab"]) + 1
    assert completion.stats.passes == 1


def test_the_decoder_decides_what_the_phones_leave_open(tiny_model, words):
    generator, prompt = Generator(tiny_model()), GenerationPrompt([3, 4])
    ab, cab = generator.score(prompt, [TOKENS["ab"], TOKENS["cab"]]).tolist()
    preferred = "ab" if ab > cab else "cab"
    other = "cab" if ab > cab else "ab"
    for weight, expected in ((50.0, preferred), (-50.0, other)):
        options = TwoPassOptions(decoder=weight, num_judged=2)
        decoder = TwoPassDecoder(generator, words, tokenize, options)
        assert decoder.complete(prompt, heard(VAGUE)).ids == TOKENS[expected]


def test_a_head_without_weight_cannot_forbid(tiny_model, words):
    # Two frames cannot hold the three letters of "cab".
    short = CTCPosteriors(heard(CLEAR).characters[:2], heard(CLEAR).phones)
    options = TwoPassOptions(characters=0.0, decoder=0.0, num_judged=1)
    decoder = TwoPassDecoder(Generator(tiny_model()), words, tokenize, options)
    assert decoder.complete(GenerationPrompt([3, 4]), short).ids == TOKENS["cab"]


def test_silence_has_no_tokens(tiny_model, words):
    silence = heard([[0.997, 0.001, 0.001, 0.001]] * 8)
    decoder = TwoPassDecoder(Generator(tiny_model()), words, tokenize)
    assert decoder.complete(GenerationPrompt([3, 4]), silence).ids == []
