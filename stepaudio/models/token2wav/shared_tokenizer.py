"""Speech tokenizer on the recogniser's own encoder: finite scalar quantisation behind it.

The S3 tokenizer is a recogniser with a quantiser inside (specification, section 10; CosyVoice 2).
A small model has such a recogniser already: its audio encoder. This tokenizer takes the encoder's
last frames, which know the phones, and the mel, which knows how they sound, and rounds them to one
code for every four mel frames. Only what is behind the encoder is stored with it; the encoder's
weights are those of the checkpoint.

Shape legend: B batch, M mel bands, T mel frames, S frames inside (one for each token), D width,
Q digits of a code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.audio.frames import HOP_LENGTH
from stepaudio.audio.mel import log_mel
from stepaudio.errors import ConfigError
from stepaudio.models.config import AudioEncoderConfig
from stepaudio.models.encoder import AudioEncoder, length_mask
from stepaudio.models.token2wav.loading import load_strict, read_tensors
from stepaudio.models.token2wav.tokenizing import (
    ConfiguredTokenizer,
    FiniteScalarCodebook,
    TokenizerConfig,
    tokenize_windows,
)

# Names of the encoder's tensors, here and in the checkpoint.
ENCODER = "encoder."


@dataclass(frozen=True, kw_only=True)
class SharedTokenizerConfig(TokenizerConfig):
    """Tokenizer behind an audio encoder.

    Attributes:
        encoder: the encoder of the checkpoint.
        width: width behind the encoder.
        num_blocks: convolution blocks before the quantiser.
        kernel: kernel of their depthwise convolutions, odd.
        codebook_levels, window_s, overlap_s: see `TokenizerConfig`.
    """

    encoder: AudioEncoderConfig
    width: int = 128
    num_blocks: int = 2
    kernel: int = 5
    codebook_levels: tuple[int, ...] = (3,) * 6

    def __post_init__(self) -> None:
        geometry = self.encoder.geometry
        if not geometry.causal or geometry.encoder_stride % 2:
            raise ConfigError("the encoder of a shared tokenizer must be one that can stream")
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel must be odd, got {self.kernel}")
        super().__post_init__()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the encoder is described where its weights are."""
        values = super().to_dict()
        del values["encoder"]
        return values

    @property
    def token_stride(self) -> int:
        """Mel frames for every token: every frame of the encoder becomes two."""
        return self.encoder.geometry.encoder_stride // 2


class _Block(nn.Module):
    """Depthwise convolution and a feed-forward layer (ConvNeXt, arXiv 2201.03545)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x_BSD: Tensor, inside_BS1: Tensor) -> Tensor:
        """Map [B, S, D] to the same shape; nothing outside `inside` is heard."""
        y = self.depthwise((x_BSD * inside_BS1).transpose(1, 2)).transpose(1, 2)
        return x_BSD + self.mlp(self.norm(y))


class SharedTokenizer(nn.Module, ConfiguredTokenizer):
    """The tokenizer; everything behind its encoder is trainable."""

    config: SharedTokenizerConfig

    def __init__(self, config: SharedTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config.encoder)
        stride, width = config.token_stride, config.width
        self.spread = nn.Linear(config.encoder.n_audio_state, 2 * width)
        # A token hears half a token more than its own frames at each side.
        self.mel = nn.Conv1d(
            config.encoder.n_mels, width, 2 * stride, stride=stride, padding=stride // 2
        )
        self.blocks = nn.ModuleList(_Block(width, config.kernel) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(width)
        self.codebook = FiniteScalarCodebook(width, config.codebook_levels)

    def log_mel(self, wav: Tensor) -> Tensor:
        """Mel [M, T] of 16 kHz speech [samples], padded with silence to whole encoder frames."""
        size = HOP_LENGTH * self.config.encoder.geometry.encoder_stride
        wav = F.pad(wav, (0, -wav.shape[-1] % size))
        return log_mel(
            wav, self.config.encoder.n_mels, floor=self.config.encoder.mel_floor, padding=0
        )

    def forward(self, mel_BMT: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor]:
        """Quantised values [B, S, Q], with gradients, and the valid ones of each row [B].

        No gradient reaches the encoder, which the recogniser needs as it is.

        Args:
            mel_BMT: mels as `log_mel` gives them, right-padded with zeros.
            lens_B: mel frames of every row, whole encoder frames.
        """
        with torch.no_grad():
            heard = self.encoder(mel_BMT, lens_B).values
        lens = lens_B // self.config.token_stride
        spread = self.spread(heard).unflatten(-1, (2, -1)).flatten(1, 2)
        x = self.mel(mel_BMT).transpose(1, 2)[:, : spread.shape[1]] + spread
        inside = length_mask(lens, x.shape[1])[..., None].to(x.dtype)
        for block in self.blocks:
            x = block(x, inside)
        return self.codebook.quantise(self.norm(x)), lens

    def own_tensors(self) -> dict[str, Tensor]:
        """Everything behind the encoder, by name: what is stored."""
        tensors = self.state_dict()
        return {name: value for name, value in tensors.items() if not name.startswith(ENCODER)}

    @torch.no_grad()
    def tokenize(self, wav: Tensor) -> Tensor:
        """Turn 16 kHz mono speech [samples] of any length into codes, int64 [tokens]."""

        def encode(mel_MT: Tensor) -> Tensor:
            lens = torch.tensor([mel_MT.shape[-1]], device=mel_MT.device)
            return self.codebook.codes(self(mel_MT[None], lens)[0])[0]

        wav = wav.to(self.spread.weight.device)
        codes = tokenize_windows(self.log_mel(wav), self.config, encode)
        samples = HOP_LENGTH * self.config.token_stride
        return codes[: -(-wav.shape[-1] // samples)]


def load_shared_tokenizer(
    path: str | Path, config: SharedTokenizerConfig, encoder: Mapping[str, Tensor]
) -> SharedTokenizer:
    """Load the tokenizer, in evaluation mode.

    Args:
        path: weights of everything behind the encoder.
        config: architecture.
        encoder: weights of the encoder, with its names in the checkpoint (``encoder.…``).

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors do not fit.
    """
    with torch.device("meta"):
        tokenizer = SharedTokenizer(config)
    tokenizer.codebook.basis = FiniteScalarCodebook(config.width, config.codebook_levels).basis
    load_strict(tokenizer, {**read_tensors(path), **encoder}, path)
    return tokenizer.eval()
