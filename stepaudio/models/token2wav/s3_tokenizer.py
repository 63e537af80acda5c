"""S3 tokenizer version 2: 16 kHz speech to audio tokens (specification, section 10).

Two strided convolutions, transformer blocks with rotary positions whose attention has a memory
(a depthwise convolution over the values, FSMN), and finite scalar quantisation (arXiv 2309.15505).
Parameters have the names of pip ``s3tokenizer``.

Shape legend: B batch, M mel bands, T mel frames, S frames inside (one for each token), D width,
H heads, K head width, Q digits of a code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stepaudio.audio.mel import log_mel
from stepaudio.errors import ConfigError
from stepaudio.models.encoder import length_mask
from stepaudio.models.layers import apply_rotary, rotary_tables
from stepaudio.models.token2wav.loading import load_strict, read_tensors
from stepaudio.models.token2wav.tokenizing import (
    ConfiguredTokenizer,
    FiniteScalarCodebook,
    TokenizerConfig,
    tokenize_windows,
)

CONV_KERNEL = 3


@dataclass(frozen=True, kw_only=True)
class S3Config(TokenizerConfig):
    """S3 tokenizer; the defaults are those of the public ``speech_tokenizer_v2_25hz``.

    Attributes:
        n_mels: mel bands.
        n_audio_state: width.
        n_audio_head: attention heads.
        n_audio_layer: transformer blocks.
        conv_strides: strides of the two input convolutions.
        fsmn_kernel: frames that the memory of the attention spans.
        mlp_ratio: width of the feed-forward layers in units of `n_audio_state`.
        rope_theta: base of the rotary frequencies.
        codebook_levels, window_s, overlap_s: see `TokenizerConfig`.
    """

    n_mels: int = 128
    n_audio_state: int = 1280
    n_audio_head: int = 20
    n_audio_layer: int = 6
    conv_strides: tuple[int, int] = (2, 2)
    fsmn_kernel: int = 31
    mlp_ratio: float = 4.0
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        if self.n_audio_state % self.n_audio_head or self.n_audio_state // self.n_audio_head % 2:
            raise ConfigError("n_audio_state must be an even multiple of n_audio_head")
        if self.fsmn_kernel % 2 == 0:
            raise ConfigError(f"fsmn_kernel must be odd, got {self.fsmn_kernel}")
        super().__post_init__()

    @property
    def token_stride(self) -> int:
        """Mel frames for every token."""
        return math.prod(self.conv_strides)

    def num_tokens(self, num_frames: int) -> int:
        """Tokens of so many mel frames."""
        for stride in self.conv_strides:
            num_frames = (num_frames - 1) // stride + 1
        return num_frames


class MemoryAttention(nn.Module):
    """Multi-head attention plus a memory over its values; the key projection has no bias."""

    def __init__(self, config: S3Config) -> None:
        super().__init__()
        width = config.n_audio_state
        self.num_heads = config.n_audio_head
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        kernel = config.fsmn_kernel
        self.fsmn_block = nn.Conv1d(
            width, width, kernel, padding=kernel // 2, groups=width, bias=False
        )

    def _heads(self, x_BSD: Tensor) -> Tensor:
        return x_BSD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x_BSD: Tensor, rotary: tuple[Tensor, Tensor], mask_BS: Tensor) -> Tensor:
        """Attend to the frames inside `mask`."""
        value = self.value(x_BSD)
        query = apply_rotary(self._heads(self.query(x_BSD)), *rotary)
        key = apply_rotary(self._heads(self.key(x_BSD)), *rotary)
        attended = F.scaled_dot_product_attention(
            query, key, self._heads(value), attn_mask=mask_BS[:, None, None, :]
        )
        inside = mask_BS[..., None].to(value.dtype)
        heard = value * inside
        memory = self.fsmn_block(heard.transpose(1, 2)).transpose(1, 2) + heard
        return self.out(attended.transpose(1, 2).flatten(-2)) + memory * inside


class TokenizerBlock(nn.Module):
    """Pre-norm attention with memory, and a feed-forward layer."""

    def __init__(self, config: S3Config) -> None:
        super().__init__()
        width = config.n_audio_state
        hidden = int(width * config.mlp_ratio)
        self.attn = MemoryAttention(config)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x_BSD: Tensor, rotary: tuple[Tensor, Tensor], mask_BS: Tensor) -> Tensor:
        """Map [B, S, D] to the same shape."""
        x_BSD = x_BSD + self.attn(self.attn_ln(x_BSD), rotary, mask_BS)
        return x_BSD + self.mlp(self.mlp_ln(x_BSD))


class TokenizerEncoder(nn.Module):
    """Log-mel to one frame for each token."""

    def __init__(self, config: S3Config) -> None:
        super().__init__()
        self.config = config
        width = config.n_audio_state
        first, second = config.conv_strides
        padding = CONV_KERNEL // 2
        self.conv1 = nn.Conv1d(config.n_mels, width, CONV_KERNEL, first, padding=padding)
        self.conv2 = nn.Conv1d(width, width, CONV_KERNEL, second, padding=padding)
        self.blocks = nn.ModuleList(TokenizerBlock(config) for _ in range(config.n_audio_layer))

    def forward(self, mel_BMT: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor]:
        """Encode; returns frames [B, S, D] and the valid ones of each row [B]."""
        x = mel_BMT
        for conv in (self.conv1, self.conv2):
            x = F.gelu(conv(x * length_mask(lens_B, x.shape[-1])[:, None].to(x.dtype)))
            lens_B = (lens_B - 1) // conv.stride[0] + 1
        x = x.transpose(1, 2)
        mask = length_mask(lens_B, x.shape[1])
        width = self.config.n_audio_state // self.config.n_audio_head
        positions = torch.arange(x.shape[1], device=x.device)
        rotary = rotary_tables(positions, width, self.config.rope_theta)
        for block in self.blocks:
            x = block(x, rotary, mask)
        return x, lens_B


class _Quantizer(nn.Module):
    """Level of names between the tokenizer and its codebook."""

    def __init__(self, config: S3Config) -> None:
        super().__init__()
        self._codebook = FiniteScalarCodebook(config.n_audio_state, config.codebook_levels)


class S3Tokenizer(nn.Module, ConfiguredTokenizer):
    """The tokenizer, trainable."""

    config: S3Config

    def __init__(self, config: S3Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = TokenizerEncoder(config)
        self.quantizer = _Quantizer(config)

    @property
    def codebook(self) -> FiniteScalarCodebook:
        """Quantisation of the encoder's frames."""
        return self.quantizer._codebook

    def forward(self, mel_BMT: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor]:
        """Quantised values [B, S, Q], with gradients, and the valid ones of each row [B].

        Args:
            mel_BMT: log-mel, as `log_mel` with padding 0 gives it.
            lens_B: mel frames of every row, at least one.
        """
        frames, lens = self.encoder(mel_BMT, lens_B)
        return self.codebook.quantise(frames), lens

    @torch.no_grad()
    def encode(self, mel_BMT: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, int64 [B, S], zero behind each row's end, and the valid ones of each row [B]."""
        values, lens = self(mel_BMT, lens_B)
        codes = self.codebook.codes(values)
        return codes * length_mask(lens, codes.shape[1]), lens

    def log_mel(self, wav: Tensor) -> Tensor:
        """Mel [M, T] of 16 kHz speech [samples]."""
        return log_mel(wav, self.config.n_mels, padding=0)

    def tokenize(self, wav: Tensor) -> Tensor:
        """Turn 16 kHz mono speech [samples] of any length into codes, int64 [tokens]."""

        def encode(mel_MT: Tensor) -> Tensor:
            lens = torch.tensor([mel_MT.shape[-1]], device=mel_MT.device)
            return self.encode(mel_MT[None], lens)[0][0]

        wav = wav.to(self.encoder.conv1.weight.device)
        return tokenize_windows(self.log_mel(wav), self.config, encode)


def load_s3_tokenizer(path: str | Path, config: S3Config | None = None) -> S3Tokenizer:
    """Load the native tokenizer from a PyTorch or safetensors file.

    Args:
        path: weights under the names of pip ``s3tokenizer``.
        config: architecture; None: the public one.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors do not fit.
    """
    return s3_from_tensors(read_tensors(path), path, config)


def s3_from_tensors(
    tensors: Mapping[str, Tensor], source: str | Path, config: S3Config | None = None
) -> S3Tokenizer:
    """Build a tokenizer from tensors, in evaluation mode; as `load_s3_tokenizer`."""
    config = config or S3Config()
    with torch.device("meta"):
        tokenizer = S3Tokenizer(config)
    # The buffer is a function of the configuration: it is built anew, off the meta device.
    tokenizer.quantizer._codebook.basis = FiniteScalarCodebook(
        config.n_audio_state, config.codebook_levels
    ).basis
    load_strict(tokenizer, tensors, source)
    return tokenizer.eval()
