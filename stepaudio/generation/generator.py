"""Batched generation over the slot cache.

`prefill` and `step` are the two passes that everything uses: `generate` for ragged batches,
`stream` for one completion, and a serving engine over its own slots. All state lives in a
`SlotKVCache` that the caller passes; a `Generator` itself only holds weights.

Shape legend: B rows of a pass, T tokens, D decoder width, S latents, V rows of the head.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stepaudio.generation.completion import Completion, GenerationPrompt, TokenEvent
from stepaudio.generation.decoders import Decoder, ModuleDecoder
from stepaudio.generation.grouping import group_by_length
from stepaudio.generation.run import Run
from stepaudio.generation.sampling import LogitsProcessor, SamplingBatch, SamplingParams
from stepaudio.models.encoder import Latents
from stepaudio.models.fused import FusedDecoder, Precision
from stepaudio.models.kv_cache import SlotKVCache, SlotStep
from stepaudio.models.step_audio import StepAudio2ForCausalLM

# Larger weights are not copied for fused steps unless asked: memory then matters more than calls.
_MAX_FUSED_BYTES = 2 << 30
# What a pass costs on a CPU besides its tokens, in tokens: measured 25 with 6 and 28 M weights.
_PASS_COST = 25
_GREEDY = SamplingParams()

__all__ = ["Completion", "Decoder", "GenerationPrompt", "Generator", "ModuleDecoder", "TokenEvent"]


class CTCPosteriors(NamedTuple):
    """Log-probabilities of one clip's CTC frames, the blank at index 0.

    Attributes:
        characters: [T, 1 + characters].
        phones: [T, 1 + phones].
    """

    characters: Tensor
    phones: Tensor


class Generator:
    """Generates completions with one model."""

    def __init__(
        self,
        model: StepAudio2ForCausalLM,
        *,
        text_only: bool = False,
        fuse: bool | None = None,
        precision: Precision = "float",
        processors: Sequence[LogitsProcessor] = (),
        adapters: Mapping[int, Decoder] | None = None,
    ) -> None:
        """Prepare the model for inference.

        Args:
            model: its weights must not change while the generator is used; build a new generator
                after training or merging.
            text_only: compute only the text rows of the head.
            fuse: decode with a `FusedDecoder`; None: on CPU, up to 2 GiB of weights.
            precision: of the decoder's weights. "float": as they are, the reference; "int8": a
                copy on a CPU that is faster, and rarely chooses another token; decoders that
                are too small to gain by it stay as they are.
            processors: change logits before a token is chosen.
            adapters: further decoders by adapter id, such as a `FusedDecoder` of the same model
                with a merged LoRA; id 0 is the model itself.

        Raises:
            ConfigError: there are no int8 weights for the model's device or type.
        """
        self.model = model
        self.rows = model.config.audio_start_token_id if text_only else None
        self.vocab_size = self.rows or model.config.vocab_size
        self._processors = processors
        weight = model.lm_head.weight
        if fuse is None:
            size = sum(p.numel() * p.element_size() for p in model.model.parameters())
            fuse = weight.device.type == "cpu" and size <= _MAX_FUSED_BYTES
        decoder: Decoder = ModuleDecoder(model, self.rows)
        if fuse or precision == "int8":
            decoder = FusedDecoder(model.model, weight[: self.rows], precision)
        self._decoders: dict[int, Decoder] = {**(adapters or {}), 0: decoder}

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        device: torch.device = self.model.lm_head.weight.device
        return device

    @property
    def has_processors(self) -> bool:
        """Whether something changes the logits before a token is chosen."""
        return bool(self._processors)

    def new_cache(self, num_slots: int, max_len: int) -> SlotKVCache:
        """Create an empty slot cache that fits the model."""
        weight = self.model.lm_head.weight
        return SlotKVCache(
            self.model.config.text_config,
            num_slots,
            max_len,
            dtype=weight.dtype,
            device=weight.device,
        )

    @torch.inference_mode()
    def encode(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Latents [S, D] of clips given as log-mel [n_mels, frames]; each is encoded once."""
        return self._encode(features)[1]

    @torch.inference_mode()
    def encode_with_ctc(
        self, features: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[CTCPosteriors]]:
        """Latents as of `encode`, and what the CTC heads make of every clip.

        Raises:
            ValueError: the model lacks one of the two CTC heads.
        """
        heads = self.model.config.audio_encoder_config
        if not heads.ctc_tokens or not heads.ctc_phones:
            raise ValueError("this model lacks a CTC head for characters or phones")
        encoded, latents = self._encode(features)
        characters, phones = self.model.ctc_head(encoded), self.model.phone_head(encoded)
        rows = zip(characters.values, phones.values, characters.lengths.tolist(), strict=True)
        return latents, [CTCPosteriors(c[:length], p[:length]) for c, p, length in rows]

    def _encode(self, features: Sequence[Tensor]) -> tuple[Latents, list[Tensor]]:
        geometry = self.model.config.audio_encoder_config.geometry
        lens = [geometry.valid_mel_frames(f.shape[1]) for f in features]
        padded = pad_sequence([f.T for f in features], batch_first=True).transpose(1, 2)
        lens_tensor = torch.tensor(lens, device=self.device)
        encoded, latents = self.model.encode_audio(padded.to(self.device), lens_tensor)
        sizes = [geometry.tokens(count) for count in lens]
        return encoded, [v[:size] for v, size in zip(latents.values, sizes, strict=True)]

    @torch.inference_mode()
    def embed(self, prompts: Sequence[GenerationPrompt]) -> Tensor:
        """Embeddings [B, T, D] of prompts, padded on the right, with their latents in place.

        Raises:
            ValueError: the audio does not fit a prompt's tokens.
        """
        rows = [torch.tensor(list(p.ids)) for p in prompts]
        pad = self.model.config.pad_token_id
        ids = pad_sequence(rows, batch_first=True, padding_value=pad).to(self.device)
        clips = [clip for p in prompts for clip in p.audio]
        audio = None
        if clips:
            sizes = torch.tensor([len(clip) for clip in clips], device=self.device)
            audio = Latents(pad_sequence(clips, batch_first=True), sizes)
        return self.model.embed(ids, audio)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[GenerationPrompt], slots: Sequence[int], cache: SlotKVCache
    ) -> Tensor:
        """Put prompts into slots of the cache, behind what these hold already.

        Args:
            prompts: one for every slot; ragged.
            slots: slots to fill.
            cache: cache that is changed.

        Returns:
            Logits [B, V] of the token behind every prompt.

        Raises:
            CapacityError: a prompt does not fit.
            ValueError: the audio does not fit a prompt's tokens.
        """
        embeds = self.embed(prompts)
        lens = [len(prompt.ids) for prompt in prompts]
        passes = []  # described before the first one runs: all prompts fit, or none is read
        for adapter, members in _members_of([p.adapter for p in prompts]).items():
            for rows in self._read_together(members, lens):
                counts = [lens[row] for row in rows]
                step = cache.begin([slots[row] for row in rows], max(counts), counts)
                passes.append((adapter, rows, counts, step))
        logits = embeds.new_empty(len(prompts), self.vocab_size)
        for adapter, rows, counts, step in passes:
            read = embeds[rows, : max(counts)]
            logits[rows] = self._read(read, counts, step, adapter)
        return logits

    def _read_together(self, members: Sequence[int], lens: Sequence[int]) -> list[list[int]]:
        """Rows of every pass: a CPU gains less by one pass than it loses by much padding."""
        if self.device.type != "cpu":
            return [list(members)]
        groups = group_by_length([lens[row] for row in members], _PASS_COST)
        return [[members[index] for index in group] for group in groups]

    @torch.inference_mode()
    def read(
        self,
        embeds: Tensor,
        lens: Sequence[int],
        slots: Sequence[int],
        cache: SlotKVCache,
        adapter: int = 0,
    ) -> Tensor:
        """Put embedded tokens into slots, such as a part of a long prompt.

        Args:
            embeds: [B, T, D], padded on the right.
            lens: valid tokens of every row.
            slots: slots to fill.
            cache: cache that is changed.
            adapter: which decoder reads.

        Returns:
            Logits [B, V] of the token behind every row.

        Raises:
            CapacityError: a row does not fit.
        """
        return self._read(embeds, lens, cache.begin(slots, embeds.shape[1], lens), adapter)

    def _read(self, embeds: Tensor, lens: Sequence[int], step: SlotStep, adapter: int) -> Tensor:
        last = torch.tensor(list(lens), device=self.device) - 1
        return self.decoder(adapter)(embeds, step, last)

    @torch.inference_mode()
    def step(
        self,
        tokens: Tensor,
        slots: Sequence[int],
        cache: SlotKVCache,
        adapters: Sequence[int] | None = None,
    ) -> Tensor:
        """Append one token to each of some slots.

        Args:
            tokens: [B] ids.
            slots: slot of every token; consecutive ones are read without a copy.
            cache: cache that is changed.
            adapters: adapter id of every row; None: 0.

        Returns:
            Logits [B, V] of the tokens that follow.

        Raises:
            CapacityError: a slot is full.
        """
        embeds = self.model.model.embed_tokens(tokens)[:, None]
        groups = _members_of(adapters or [0] * len(slots))
        if len(groups) == 1:
            return self.decoder(next(iter(groups)))(embeds, cache.begin(slots, 1))
        logits = embeds.new_empty(len(slots), self.vocab_size)
        for adapter, members in groups.items():
            step = cache.begin([slots[i] for i in members], 1)
            logits[members] = self.decoder(adapter)(embeds[members], step)
        return logits

    @torch.inference_mode()
    def score(self, prompt: GenerationPrompt, continuations: Sequence[Sequence[int]]) -> Tensor:
        """Log-probability [N] that each continuation, and then the end, follows a prompt.

        The prompt is read once. Adapters are not taken into account.

        Args:
            prompt: what is continued.
            continuations: token ids of each.

        Raises:
            CapacityError: the prompt or a continuation exceeds the model's context.
        """
        num_rows = len(continuations)
        lens = [len(ids) for ids in continuations]
        longest = max(lens)
        cache = self.new_cache(num_rows, len(prompt.ids) + longest)
        first = self.prefill([prompt], [0], cache).expand(num_rows, 1, -1)
        for slot in range(1, num_rows):
            cache.copy_slot(0, slot)
        rows = [torch.tensor(list(ids), dtype=torch.long) for ids in continuations]
        ids = pad_sequence(rows, batch_first=True).to(self.device)
        logits = first
        if longest:
            step = cache.begin(range(num_rows), longest, lens)
            hidden = self.decoder().hidden(self.model.model.embed_tokens(ids), step)
            logits = torch.cat([first, self.decoder().project(hidden)], dim=1)
        log_probs = logits.float().log_softmax(-1)
        sizes = torch.tensor(lens, device=self.device)
        chosen = log_probs[:, :longest].gather(-1, ids[..., None]).squeeze(-1)
        chosen = chosen.masked_fill(torch.arange(longest, device=self.device) >= sizes[:, None], 0)
        stops = torch.tensor(list(self.model.config.text_config.stop_ids), device=self.device)
        ends = log_probs[torch.arange(num_rows, device=self.device), sizes][:, stops]
        return chosen.sum(1) + ends.logsumexp(-1)

    def decoder(self, adapter: int = 0) -> Decoder:
        """Decoder of an adapter id.

        Raises:
            ValueError: there is none.
        """
        if adapter not in self._decoders:
            raise ValueError(f"no adapter {adapter}; there are {sorted(self._decoders)}")
        return self._decoders[adapter]

    def generate(
        self,
        prompts: Sequence[GenerationPrompt],
        params: SamplingParams | Sequence[SamplingParams] = _GREEDY,
        *,
        num_slots: int = 8,
    ) -> list[Completion]:
        """Complete prompts, as many at a time as there are slots.

        Args:
            prompts: what to complete; ragged.
            params: how, for all or for each.
            num_slots: prompts decoded together. The ids of a greedy completion do not depend on
                it, nor do those of a sampled one that has a seed.

        Raises:
            CapacityError: a prompt exceeds the model's context.
        """
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if not prompts:
            return []
        run = Run(self, prompts, each, min(num_slots, len(prompts)))
        deque(run.events(), maxlen=0)
        return run.completions

    def stream(
        self, prompt: GenerationPrompt, params: SamplingParams = _GREEDY
    ) -> Iterator[TokenEvent]:
        """Complete one prompt and yield every token as soon as it is there."""
        return Run(self, [prompt], [params], 1).events()

    def generate_until(
        self,
        prompt: GenerationPrompt,
        params: SamplingParams,
        is_last: Callable[[int], bool],
    ) -> Completion:
        """Complete one prompt until `is_last` says so about a token, which is then kept.

        Raises:
            CapacityError: the prompt exceeds the model's context.
        """
        run = Run(self, [prompt], [params], 1)
        (completion,) = run.completions
        for event in run.events():
            if event.finish_reason is None and is_last(event.token_id):
                completion.finish_reason = "stop"
                break
        return completion

    def new_sampling(self, num_slots: int) -> SamplingBatch:
        """Create the sampling state of so many slots."""
        return SamplingBatch(
            num_slots,
            self.vocab_size,
            self.device,
            self._processors,
            first_code_id=self.model.config.first_code_token_id,
        )


def _members_of(adapters: Sequence[int]) -> dict[int, list[int]]:
    """Rows of every adapter."""
    members: dict[int, list[int]] = {}
    for row, adapter in enumerate(adapters):
        members.setdefault(adapter, []).append(row)
    return members
