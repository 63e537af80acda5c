"""Times of phones: forced alignment on posteriors that are known."""

import torch

from stepaudio_recipes.phone_times import phone_frames


def posteriors(path, size=5):
    log_probs = torch.full((len(path), size), -8.0)
    log_probs[torch.arange(len(path)), torch.tensor(path)] = 0.0
    return log_probs.log_softmax(-1)


def test_every_phone_has_the_first_frame_of_its_run():
    log_probs = posteriors([0, 2, 2, 0, 3, 0, 0, 3, 1])
    assert phone_frames(log_probs, [2, 3, 3, 1]).tolist() == [1, 4, 7, 8]


def test_phones_that_do_not_fit_are_not_aligned():
    assert phone_frames(posteriors([1, 1, 1]), [1, 1]).tolist() in ([0, 2], [1, 2], [0, 1])
    assert not len(phone_frames(posteriors([1, 1]), [1, 1]))  # a repeat needs a blank between
    assert not len(phone_frames(posteriors([1, 1]), []))
