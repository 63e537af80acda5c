"""Audio encoder, its CTC head and the adaptor: log-mel to latents in decoder width.

Without ``chunk_frames`` this is the public Whisper-shaped, bidirectional encoder (specification,
sections 2 and 3). With it, convolutions are causal and attention is masked in chunks, so that
`AudioEncoder.step` over chunks equals `AudioEncoder.forward` under the same mask.

Shape legend: B batch, N slots, M mel bands, T mel frames, S frames inside the encoder, D width,
H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stepaudio.models.config import AudioEncoderConfig
from stepaudio.models.layers import apply_rotary, rotary_tables

ROTARY_THETA = 10_000.0


@dataclass(frozen=True)
class Latents:
    """Frames of a batch of clips: values [B, S, D] and the number of valid ones [B]."""

    values: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class ChunkMask:
    """Which frames may attend to which, in mel frames.

    Attributes:
        chunk: frames of one chunk; all frames of a chunk see each other.
        left: frames before its chunk that a frame sees; None: all of them.
    """

    chunk: int
    left: int | None

    def matrix(self, num_frames: int, mel_frames_each: int, device: torch.device) -> Tensor:
        """Boolean [S, S], true where the query (row) may attend to the key (column)."""
        index = torch.arange(num_frames, device=device)
        chunk = self.chunk // mel_frames_each
        start = index // chunk * chunk
        visible = index[None, :] < start[:, None] + chunk
        if self.left is not None:
            visible &= index[None, :] >= start[:, None] - self.left // mel_frames_each
        return visible


@dataclass(frozen=True)
class BlockState:
    """One block's memory: left keys and values [N, H, L, K], convolution tail [N, D, k - 1]."""

    keys: Tensor
    values: Tensor
    conv_tail: Tensor


@dataclass(frozen=True)
class EncoderState:
    """Streaming state of all slots; a value that `AudioEncoder.step` takes and returns.

    Attributes:
        conv1_tail: last mel frames, [N, M, kernel - stride].
        conv2_tail: last frames behind the first convolution, [N, D, kernel - stride].
        blocks: memory of every block.
        num_frames: mel frames heard, [N].
    """

    conv1_tail: Tensor
    conv2_tail: Tensor
    blocks: tuple[BlockState, ...]
    num_frames: Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Boolean [B, size], true inside each row's length."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


class EncoderAttention(nn.Module):
    """Multi-head attention; the key projection has no bias (Whisper)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def _heads(self, x_BSD: Tensor) -> Tensor:
        return x_BSD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def project(self, x_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, H, S, K]."""
        return (
            self._heads(self.query(x_BSD)),
            self._heads(self.key(x_BSD)),
            self._heads(self.value(x_BSD)),
        )

    def attend(self, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask: Tensor) -> Tensor:
        """Attention output [B, S, D]; `mask` broadcasts to [B, H, S, S], true where visible."""
        out = F.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask)
        return self.out(out.transpose(1, 2).flatten(-2))


class ConvModule(nn.Module):
    """Conformer convolution module with a causal depthwise convolution (arXiv 2005.08100)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.pointwise_in = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise_out = nn.Linear(width, width)

    def forward(self, x_BSD: Tensor, tail_BDK: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve behind `tail`; return the output and the gated input with the tail before it."""
        gated = F.glu(self.pointwise_in(x_BSD), dim=-1).transpose(1, 2)
        extended = torch.cat([tail_BDK.to(gated.dtype), gated], dim=-1)
        y = self.depthwise(extended).transpose(1, 2)
        return self.pointwise_out(F.silu(self.norm(y))), extended


class EncoderBlock(nn.Module):
    """Pre-norm attention, optional convolution module, feed-forward layer."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        width = config.n_audio_state
        hidden = int(width * config.mlp_ratio)
        self.rotary = config.position == "rotary"
        self.conv_kernel = config.conv_kernel
        self.attn = EncoderAttention(width, config.n_audio_head)
        self.attn_ln = nn.LayerNorm(width)
        if config.conv_kernel:
            self.conv = ConvModule(width, config.conv_kernel)
            self.conv_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.mlp_ln = nn.LayerNorm(width)

    def _rotate(self, x_BHSK: Tensor, first: int) -> Tensor:
        if not self.rotary:
            return x_BHSK
        positions = torch.arange(first, first + x_BHSK.shape[2], device=x_BHSK.device)
        return apply_rotary(x_BHSK, *rotary_tables(positions, x_BHSK.shape[-1], ROTARY_THETA))

    def _empty_tail(self, x_BSD: Tensor) -> Tensor:
        return x_BSD.new_zeros(x_BSD.shape[0], x_BSD.shape[2], self.conv_kernel - 1)

    def forward(self, x_BSD: Tensor, mask: Tensor) -> Tensor:
        """Apply the block to whole clips; `mask` is [B or 1, 1, S, S], true where visible."""
        q, k, v = self.attn.project(self.attn_ln(x_BSD))
        x_BSD = x_BSD + self.attn.attend(self._rotate(q, 0), self._rotate(k, 0), v, mask)
        if self.conv_kernel:
            x_BSD = x_BSD + self.conv(self.conv_ln(x_BSD), self._empty_tail(x_BSD))[0]
        return x_BSD + self.mlp(self.mlp_ln(x_BSD))

    def step(self, x_NSD: Tensor, state: BlockState, mask: Tensor) -> tuple[Tensor, BlockState]:
        """Apply the block to one chunk; `mask` is [N, 1, S, L + S] over left context and chunk."""
        left = state.keys.shape[2]
        q, k, v = self.attn.project(self.attn_ln(x_NSD))
        k, v = torch.cat([state.keys, k], dim=2), torch.cat([state.values, v], dim=2)
        # Cached keys are not rotated: rotation depends on differences of positions only, so
        # counting from the start of the window keeps angles small however long the stream is.
        x_NSD = x_NSD + self.attn.attend(self._rotate(q, left), self._rotate(k, 0), v, mask)
        conv_tail = state.conv_tail
        if self.conv_kernel:
            out, extended = self.conv(self.conv_ln(x_NSD), conv_tail)
            x_NSD, conv_tail = (
                x_NSD + out,
                extended[..., extended.shape[-1] - conv_tail.shape[-1] :],
            )
        new = BlockState(k[:, :, k.shape[2] - left :], v[:, :, v.shape[2] - left :], conv_tail)
        return x_NSD + self.mlp(self.mlp_ln(x_NSD)), new


class AudioEncoder(nn.Module):
    """Log-mel frames to encoder frames (25 Hz in the public model)."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width = config.n_audio_state
        self.causal = config.chunk_frames is not None
        padding = 0 if self.causal else 1
        first, second = config.conv_strides
        self.conv1 = nn.Conv1d(config.n_mels, width, 3, stride=first, padding=padding)
        self.conv2 = nn.Conv1d(width, width, 3, stride=second, padding=padding)
        if config.position == "table":
            self.positional_embedding = nn.Embedding(config.n_audio_ctx, width)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_audio_layer))
        self.after_norm = nn.LayerNorm(width)

    def forward(
        self, mel: Tensor, mel_lens: Tensor, chunk_mask: ChunkMask | None = None
    ) -> Latents:
        """Encode whole clips.

        Args:
            mel: [B, M, T] log-mel, right-padded with zeros.
            mel_lens: [B] valid mel frames, `FrameGeometry.valid_mel_frames` of each clip.
            chunk_mask: restrict attention as a stream would; None: every frame sees every frame.

        Returns:
            Encoder frames [B, S, D] and their number for each clip.
        """
        x, lengths = self._convolve(mel, mel_lens)
        pool_at = self.config.blocks_before_pool
        stride = self.config.geometry.encoder_stride // 2
        mask = self._mask(lengths, x, chunk_mask, stride)
        for index, block in enumerate(self.blocks):
            if index == pool_at:
                x, lengths = self._pool(x), lengths // 2
                mask = self._mask(lengths, x, chunk_mask, 2 * stride)
            x = self._run_block(block, x, mask)
        if pool_at == len(self.blocks):
            x, lengths = self._pool(x), lengths // 2
        return Latents(self.after_norm(x), lengths)

    def _convolve(self, mel: Tensor, mel_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Both input convolutions and positions: [B, S, D] and the lengths of valid frames."""
        if self.causal:
            x = F.gelu(self.conv1(F.pad(mel, (3 - self.conv1.stride[0], 0))))
            x = F.gelu(self.conv2(F.pad(x, (3 - self.conv2.stride[0], 0)))).transpose(1, 2)
            return x, mel_lens // self.conv1.stride[0] // self.conv2.stride[0]
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        if self.config.position == "table":
            x = x + self.positional_embedding.weight[: x.shape[1]]
        # The reference keeps key t iff mel index 2t + (T + 1) % 2 lies inside the clip.
        return x, (mel_lens + (mel.shape[-1] % 2)) // 2

    def _mask(
        self, lengths: Tensor, x: Tensor, chunk_mask: ChunkMask | None, mel_frames_each: int
    ) -> Tensor:
        mask = length_mask(lengths, x.shape[1])[:, None, None, :]
        if chunk_mask is not None:
            mask = mask & chunk_mask.matrix(x.shape[1], mel_frames_each, x.device)
            # A padding query may see no key at all; let it see itself to keep softmax finite.
            mask = mask | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        return mask

    def _run_block(self, block: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, x, mask, use_reentrant=False)
        return block(x, mask)

    @staticmethod
    def _pool(x_BSD: Tensor) -> Tensor:
        return F.avg_pool1d(x_BSD.transpose(1, 2), 2).transpose(1, 2)

    # ---- streaming -------------------------------------------------------------------------

    def init_state(self, num_slots: int) -> EncoderState:
        """Zero state of so many independent streams.

        Raises:
            ValueError: the encoder is bidirectional and cannot stream.
        """
        config = self.config
        if config.chunk_frames is None or config.left_context is None:
            raise ValueError("this encoder is bidirectional: stream it by cutting pieces")
        width, heads = config.n_audio_state, config.n_audio_head
        weight = self.conv1.weight
        before_pool = config.conv_strides[0] * config.conv_strides[1]
        blocks = []
        for index in range(config.n_audio_layer):
            each = before_pool if index < config.blocks_before_pool else 2 * before_pool
            left = weight.new_zeros(num_slots, heads, config.left_context // each, width // heads)
            tail = weight.new_zeros(num_slots, width, max(config.conv_kernel - 1, 0))
            blocks.append(BlockState(left, left.clone(), tail))
        return EncoderState(
            weight.new_zeros(num_slots, config.n_mels, 3 - config.conv_strides[0]),
            weight.new_zeros(num_slots, width, 3 - config.conv_strides[1]),
            tuple(blocks),
            torch.zeros(num_slots, dtype=torch.long, device=weight.device),
        )

    def step(
        self,
        mel_chunk: Tensor,
        state: EncoderState,
        exec_mask: Tensor | None = None,
        mel_lens: Tensor | None = None,
    ) -> tuple[Latents, EncoderState]:
        """Encode the next chunk of every slot.

        Args:
            mel_chunk: [N, M, T] with T equal to ``chunk_frames``, or shorter for a last chunk.
            state: state returned by the previous call; it is not changed.
            exec_mask: [N] bool; the other slots keep their state and yield zero frames.
            mel_lens: [N] valid mel frames where a slot's last chunk is shorter than T. After a
                short chunk a slot must be reset with `reset_state`.

        Returns:
            Frames [N, S, D], the number of valid ones, and the new state.
        """
        num_slots, _, num_frames = mel_chunk.shape
        if mel_lens is None:
            mel_lens = torch.full((num_slots,), num_frames, device=mel_chunk.device)
        conv1_in = torch.cat([state.conv1_tail, mel_chunk], dim=-1)
        conv2_in = torch.cat([state.conv2_tail, F.gelu(self.conv1(conv1_in))], dim=-1)
        x = F.gelu(self.conv2(conv2_in)).transpose(1, 2)
        each = self.conv1.stride[0] * self.conv2.stride[0]
        lengths = mel_lens // each
        blocks = []
        mask = self._step_mask(lengths, x, state.blocks[0], state.num_frames // each)
        for index, (block, memory) in enumerate(zip(self.blocks, state.blocks, strict=True)):
            if index == self.config.blocks_before_pool:
                x, lengths, each = self._pool(x), lengths // 2, 2 * each
                mask = self._step_mask(lengths, x, memory, state.num_frames // each)
            x, new = cast(EncoderBlock, block).step(x, memory, mask)
            blocks.append(new)
        if self.config.blocks_before_pool == len(self.blocks):
            x, lengths = self._pool(x), lengths // 2
        tail1, tail2 = state.conv1_tail.shape[-1], state.conv2_tail.shape[-1]
        new_state = EncoderState(
            conv1_in[..., conv1_in.shape[-1] - tail1 :],
            conv2_in[..., conv2_in.shape[-1] - tail2 :],
            tuple(blocks),
            state.num_frames + mel_lens,
        )
        if exec_mask is not None:
            new_state = select_state(exec_mask, new_state, state)
            lengths = lengths * exec_mask
        return Latents(self.after_norm(x), lengths), new_state

    @staticmethod
    def _step_mask(lengths: Tensor, x: Tensor, memory: BlockState, heard: Tensor) -> Tensor:
        """[N, 1, S, L + S]: filled left context and valid frames of the chunk are visible."""
        left = memory.keys.shape[2]
        slots = torch.arange(left, device=x.device)[None, :]
        context = slots >= left - heard[:, None]
        visible = torch.cat([context, length_mask(lengths, x.shape[1])], dim=1)
        own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        own = F.pad(own, (left, 0))
        return visible[:, None, None, :] | own


def select_state(mask: Tensor, chosen: EncoderState, other: EncoderState) -> EncoderState:
    """Take each slot's state from `chosen` where mask [N] is true, else from `other`."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *([1] * (a.dim() - 1))), a, b)

    blocks = tuple(
        BlockState(pick(a.keys, b.keys), pick(a.values, b.values), pick(a.conv_tail, b.conv_tail))
        for a, b in zip(chosen.blocks, other.blocks, strict=True)
    )
    return EncoderState(
        pick(chosen.conv1_tail, other.conv1_tail),
        pick(chosen.conv2_tail, other.conv2_tail),
        blocks,
        pick(chosen.num_frames, other.num_frames),
    )


class CTCHead(nn.Module):
    """Posteriors of characters or phones from encoder frames, several CTC frames for each.

    At 12.5 Hz fluent speech has more characters than frames; the head therefore spreads every
    encoder frame over ``ctc_upsample`` CTC frames.
    """

    def __init__(self, config: AudioEncoderConfig, num_symbols: int) -> None:
        super().__init__()
        self.upsample = config.ctc_upsample
        self.proj = nn.Linear(config.n_audio_state, self.upsample * (num_symbols + 1))

    def forward(self, latents: Latents) -> Latents:
        """Log-probabilities [B, S * upsample, 1 + symbols]; index 0 is the blank."""
        batch, frames, _ = latents.values.shape
        logits = self.proj(latents.values).view(batch, frames * self.upsample, -1)
        return Latents(logits.float().log_softmax(-1), latents.lengths * self.upsample)


class ConvAdaptor(nn.Module):
    """Public adaptor: convolution of stride 2, two linear layers."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        width = config.n_audio_state
        kernel, stride = config.kernel_size, config.adapter_stride
        self.conv = nn.Conv1d(width, width, kernel, stride=stride, padding=kernel // 2)
        self.linear1 = nn.Linear(width, config.adapter_hidden)
        self.linear2 = nn.Linear(config.adapter_hidden, config.llm_dim)
        self.stride = stride

    def forward(self, latents: Latents) -> Latents:
        """Map encoder frames to decoder width at a lower rate."""
        x = F.gelu(self.conv(latents.values.transpose(1, 2))).transpose(1, 2)
        lengths = (latents.lengths - 1) // self.stride + 1
        return Latents(self.linear2(F.relu(self.linear1(x))), lengths)


class LinearAdaptor(nn.Module):
    """One linear layer: the encoder itself has reached the token rate (StepAudio 2.5 ASR)."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.n_audio_state, config.llm_dim)

    def forward(self, latents: Latents) -> Latents:
        """Map encoder frames to decoder width."""
        return Latents(self.linear(latents.values), latents.lengths)


def build_adaptor(config: AudioEncoderConfig) -> ConvAdaptor | LinearAdaptor:
    """Adaptor of the kind that the configuration names."""
    return LinearAdaptor(config) if config.adapter_type == "linear" else ConvAdaptor(config)
