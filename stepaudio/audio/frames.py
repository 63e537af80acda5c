"""Frame arithmetic: samples, mel frames, encoder frames and audio tokens as plain integers.

Every length in the toolkit is computed here (Step-Audio 2 specification, sections 1 to 3).
Two geometries exist: the public one (centred convolutions, the two tail frames of a piece are
masked) and the causal one of streaming encoders, where frame counts are plain floor divisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SAMPLE_RATE = 16_000  # Hz, of everything that the encoder hears
HOP_LENGTH = 160  # samples between mel frames: 10 ms
WINDOW_LENGTH = 400  # samples of one STFT window
TAIL_PADDING = 479  # zeros behind every piece
PIECE_SECONDS = 25
PIECE_SAMPLES = PIECE_SECONDS * SAMPLE_RATE
TAIL_FRAMES = 2  # mel frames that the public geometry masks at the end of a piece
MEL_FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH
CODES_PER_SECOND = 25  # audio codes of generated speech


def num_mel_frames(num_samples: int) -> int:
    """Mel frames of one piece: 1 s gives 102, 25 s give 2502."""
    if num_samples < 0:
        raise ValueError(f"num_samples must not be negative, got {num_samples}")
    return (num_samples + TAIL_PADDING) // HOP_LENGTH


def pieces(num_samples: int) -> Iterator[tuple[int, int]]:
    """Bounds of the consecutive pieces of at most 25 s that a waveform is cut into."""
    for start in range(0, num_samples, PIECE_SAMPLES):
        yield start, min(start + PIECE_SAMPLES, num_samples)


@dataclass(frozen=True)
class FrameGeometry:
    """How many frames each stage of an audio encoder and its adaptor yields.

    Attributes:
        causal: convolutions look left only, so a frame count is a floor division.
        conv_strides: strides of the two input convolutions, (1, 2) in the public model.
        pool_stride: stride of the average pooling inside or behind the encoder.
        adaptor_stride: stride of the adaptor, 1 for a linear one.
    """

    causal: bool = False
    conv_strides: tuple[int, int] = (1, 2)
    pool_stride: int = 2
    adaptor_stride: int = 2

    @property
    def encoder_stride(self) -> int:
        """Mel frames per encoder output frame."""
        return self.conv_strides[0] * self.conv_strides[1] * self.pool_stride

    @property
    def token_stride(self) -> int:
        """Mel frames per audio token (8 in the public model: 12.5 tokens a second)."""
        return self.encoder_stride * self.adaptor_stride

    def valid_mel_frames(self, mel_frames: int) -> int:
        """Mel frames that are not masked: ``wav_lens`` of the reference."""
        return mel_frames if self.causal else max(mel_frames - TAIL_FRAMES, 0)

    def conv_frames(self, valid_frames: int) -> int:
        """Frames behind the two input convolutions."""
        first, second = self.conv_strides
        if self.causal:
            return valid_frames // first // second
        return (valid_frames + 1) // 2

    def encoder_frames(self, valid_frames: int) -> int:
        """Frames that leave the encoder for so many valid mel frames."""
        return self.conv_frames(valid_frames) // self.pool_stride

    def tokens(self, valid_frames: int) -> int:
        """Audio tokens that leave the adaptor for so many valid mel frames."""
        frames = self.encoder_frames(valid_frames)
        if self.adaptor_stride == 1:
            return frames
        return (frames - 1) // self.adaptor_stride + 1

    def tokens_for_samples(self, num_samples: int) -> int:
        """Audio tokens of one piece of at most 25 s."""
        return self.tokens(self.valid_mel_frames(num_mel_frames(num_samples)))
