"""Features of a voice prompt against numbers of the reference code."""

from pathlib import Path

from safetensors.torch import load_file

from stepaudio.audio.prompt_features import VoiceMel, fade_window, kaldi_fbank

# Logarithms of nearly silent bins differ by that much between processors.
TOLERANCE = 2e-3


def test_features_and_window(vectors: Path) -> None:
    reference = load_file(vectors / "prompt_features.safetensors")
    wav = reference["wav16k"][0]
    pairs = {
        "prompt_mel80": VoiceMel()(reference["wav24k"]),
        "fbank80": kaldi_fbank(wav, subtract_mean=False),
        "fbank80_cmn": kaldi_fbank(wav),
        "speech_window": fade_window(3840),
    }
    for name, ours in pairs.items():
        assert ours.shape == reference[name].shape
        assert (ours - reference[name]).abs().max() < TOLERANCE, name
