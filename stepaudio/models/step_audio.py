"""The whole model: audio encoder, adaptor and decoder as a Hugging Face causal language model.

Parameter names are the public ones (specification, section 5), so that the public checkpoint
loads without conversion: ``model.*``, ``lm_head.weight``, ``encoder.*``, ``adapter.*``, and
``ctc_head.*`` and ``phone_head.*`` where the configuration has a CTC alphabet.

Shape legend: B rows, T tokens, D decoder width, C clips, S latents of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from stepaudio.models.backbone import Backbone
from stepaudio.models.encoder import AudioEncoder, ChunkMask, CTCHead, Latents, build_adaptor
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.hub import checkpoint_folder
from stepaudio.models.kv_cache import SlotStep
from stepaudio.models.masks import AttentionPlan, plan_attention

IGNORED_LABEL = -100
_HUB_ARGUMENTS = {"revision", "cache_dir", "token", "local_files_only"}
# What transformers' callers pass along and what does not matter here.
_UNUSED_ARGUMENTS = {
    "adapter_kwargs",
    "attn_implementation",
    "force_download",
    "low_cpu_mem_usage",
    "proxies",
    "trust_remote_code",
    "use_safetensors",
    "weights_only",
    "_from_auto",
}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_AUDIO_INPUTS = ("input_features", "feature_lens", "audio_embeds")


@dataclass
class StepAudioOutput(CausalLMOutputWithPast):
    """Output of the model; the CTC fields are there when `output_ctc` asked for them.

    Attributes:
        ctc_log_probs: [C, S', characters + 1], see `CTCHead`.
        ctc_lengths: [C] valid CTC frames.
    """

    ctc_log_probs: Tensor | None = None
    ctc_lengths: Tensor | None = None


class StepAudio2ForCausalLM(PreTrainedModel, GenerationMixin):
    """Step-Audio 2 of any size."""

    config_class = StepAudioConfig
    config: StepAudioConfig
    base_model_prefix = "model"
    input_modalities = ("text", "audio")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar = ["DecoderLayer", "EncoderBlock"]
    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: StepAudioConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.model = Backbone(text)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.encoder = AudioEncoder(config.audio_encoder_config)
        self.adapter = build_adaptor(config.audio_encoder_config)
        encoder = config.audio_encoder_config
        if encoder.ctc_tokens:
            self.ctc_head = CTCHead(encoder, len(encoder.ctc_tokens))
        if encoder.ctc_phones:
            self.phone_head = CTCHead(encoder, len(encoder.ctc_phones))
        self.model.init_weights()
        nn.init.normal_(self.lm_head.weight, std=text.initializer_range)
        self.generation_config.eos_token_id = list(text.stop_ids)
        self.generation_config.pad_token_id = text.pad_token_id
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights that the constructors have drawn.

        Encoder, adaptor and CTC head have torch's fan-in scaled weights: a normal distribution of
        the decoder's deviation, which transformers would draw, starts them too small.
        """

    def get_input_embeddings(self) -> nn.Embedding:
        """Table of token embeddings."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the table of token embeddings."""
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        """Output head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output head."""
        self.lm_head = new_embeddings

    # ---- audio -------------------------------------------------------------------------------

    def encode_audio(
        self, features: Tensor, feature_lens: Tensor, chunk_mask: ChunkMask | None = None
    ) -> tuple[Latents, Latents]:
        """Encode clips.

        Args:
            features: [C, n_mels, frames] log-mel, right-padded with zeros.
            feature_lens: [C] valid mel frames, `FrameGeometry.valid_mel_frames` of each clip.
            chunk_mask: attend as a stream would.

        Returns:
            Encoder frames, which the CTC head reads, and latents in decoder width.
        """
        features = features.to(self.encoder.conv1.weight.dtype)
        encoded = self.encoder(features, feature_lens, chunk_mask)
        return encoded, self.adapter(encoded)

    def embed(self, input_ids: Tensor, audio: Latents | None = None) -> Tensor:
        """Embed tokens [B, T] and write each clip's latents on its run of ``<audio_patch>``.

        The k-th ``<audio_start>`` of the batch, counted row by row, takes the k-th clip.

        Raises:
            ValueError: the clips do not fit the audio tokens of `input_ids`.
        """
        embeds: Tensor = self.model.embed_tokens(input_ids)
        if audio is None:
            return embeds
        targets, valid = self._latent_targets(input_ids, audio)
        values = audio.values[valid].to(embeds.dtype)
        return embeds.flatten(0, 1).index_copy(0, targets, values).view_as(embeds)

    def _latent_targets(self, input_ids: Tensor, audio: Latents) -> tuple[Tensor, Tensor]:
        """Flat index of the token that every valid latent replaces, and which latents are valid."""
        flat = input_ids.flatten()
        starts = (flat == self.config.audio_start_token_id).nonzero()[:, 0]
        num_clips, num_latents = audio.values.shape[:2]
        if len(starts) != num_clips:
            raise ValueError(
                f"input_ids contain {len(starts)} audios (<audio_start>, id "
                f"{self.config.audio_start_token_id}) but features of {num_clips} were given"
            )
        is_patch = flat == self.config.audio_patch_token_id
        offsets = torch.arange(num_latents, device=flat.device)
        valid = offsets[None, :] < audio.lengths[:, None].to(flat.device)
        targets = (starts[:, None] + 1 + offsets)[valid]
        fits = is_patch[targets.clamp(max=len(flat) - 1)].all() & (is_patch.sum() == len(targets))
        if not bool(fits):
            raise ValueError(
                f"the {num_clips} audios have {audio.lengths.tolist()} latents, which do not match "
                f"the runs of <audio_patch> (id {self.config.audio_patch_token_id}) behind each "
                f"<audio_start>, {int(is_patch.sum())} tokens in all: compute the number of "
                "patches with FrameGeometry.tokens"
            )
        return targets, valid

    # ---- forward -----------------------------------------------------------------------------

    def forward(  # noqa: PLR0913 - the signature is Hugging Face's convention
        self,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_lens: Tensor | None = None,
        audio_embeds: Latents | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        logits_rows: int | None = None,
        output_logits: bool = True,
        output_ctc: bool = False,
        chunk_mask: ChunkMask | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Any,
    ) -> StepAudioOutput:
        """Run the model.

        Args:
            input_ids: [B, T] tokens.
            input_features: [C, n_mels, frames] log-mel of all clips, in the row-major order of
                their ``<audio_start>`` tokens.
            feature_lens: [C] valid mel frames of each clip.
            audio_embeds: adapted latents of all clips, instead of `input_features`.
            attention_mask: [B, T], zeros on padding of either side; with a cache [B, past + T].
            position_ids: [B, T]; where they return to 0, a new packed sequence begins.
            past_key_values: a Hugging Face cache, or a `SlotStep` of our slot cache.
            inputs_embeds: [B, T, D] instead of `input_ids`; audio must be in them already.
            labels: [B, T] targets, already aligned with `input_ids` (the shift happens here);
                -100 is ignored.
            use_cache: return a cache; one is created where none is given.
            logits_to_keep: compute only the last so many logits (0: all), or those at the given
                indices.
            logits_rows: compute only the first so many columns of the logits, such as the text
                rows `audio_start_token_id` in text modes.
            output_logits: False leaves them out when there are labels: the loss then computes
                them only where a label is, which saves most of the head's work.
            output_ctc: also return the CTC head's log-probabilities.
            chunk_mask: make the encoder attend as a stream would.
            num_items_in_batch: divide the summed loss by this number instead of the number of
                labels (gradient accumulation).
            **kwargs: further arguments of transformers' callers, such as `return_dict`.

        Raises:
            ValueError: inputs contradict each other.
        """
        encoded = None
        if input_features is not None:
            if audio_embeds is not None or feature_lens is None:
                raise ValueError("give input_features with feature_lens, or audio_embeds alone")
            encoded, audio_embeds = self.encode_audio(input_features, feature_lens, chunk_mask)
        embeds = self._input_embeds(input_ids, inputs_embeds, audio_embeds)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        hidden = self.model(
            embeds,
            self._plan(embeds, attention_mask, position_ids, past_key_values),
            past_key_values,
        )
        logits = loss = None
        if output_logits or labels is None:
            kept = (
                slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            )
            logits = self.project(hidden[:, kept], logits_rows)
        if labels is not None:
            loss = self._loss(hidden, labels, num_items_in_batch)
        ctc = self._ctc(encoded) if output_ctc else None
        return StepAudioOutput(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            ctc_log_probs=ctc.values if ctc else None,
            ctc_lengths=ctc.lengths if ctc else None,
        )

    def project(self, hidden: Tensor, rows: int | None = None) -> Tensor:
        """Logits [..., V] of hidden states [..., D], or the first `rows` columns of them."""
        if rows is None:
            logits: Tensor = self.lm_head(hidden)
            return logits
        return F.linear(hidden, self.lm_head.weight[:rows])

    def _input_embeds(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, audio: Latents | None
    ) -> Tensor:
        if inputs_embeds is None and input_ids is not None:
            return self.embed(input_ids, audio)
        if inputs_embeds is None or input_ids is not None:
            raise ValueError("give either input_ids or inputs_embeds")
        if audio is not None:
            raise ValueError("inputs_embeds must contain the audio already: see embed()")
        return inputs_embeds

    def _plan(
        self,
        embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past: Any,
    ) -> AttentionPlan:
        if isinstance(past, SlotStep):
            return past.plan
        num_new, device = embeds.shape[1], embeds.device
        windows = self.config.text_config.layer_windows
        return plan_attention(num_new, device, windows, attention_mask, position_ids, past)

    def _loss(self, hidden: Tensor, labels: Tensor, num_items: int | Tensor | None) -> Tensor:
        """Cross-entropy of the next token; the head runs only where there is a label."""
        targets = F.pad(labels, (0, 1), value=IGNORED_LABEL)[:, 1:].to(hidden.device)
        labelled = targets != IGNORED_LABEL
        logits = self.project(hidden[labelled]).float()
        total = F.cross_entropy(logits, targets[labelled], reduction="sum")
        return total / (labelled.sum().clamp(min=1) if num_items is None else num_items)

    def _ctc(self, encoded: Latents | None) -> Latents:
        if encoded is None or not self.config.audio_encoder_config.ctc_tokens:
            raise ValueError("output_ctc needs input_features and a model with ctc_tokens")
        log_probs: Latents = self.ctc_head(encoded)
        return log_probs

    # ---- transformers' generate() ------------------------------------------------------------

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of one step; audio enters at prefill only, unless there is no cache."""
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in _AUDIO_INPUTS:
                kwargs.pop(name, None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Repeat rows for beams or several samples, and with a row all of its clips."""
        features = model_kwargs.pop("input_features", None)
        lens = model_kwargs.pop("feature_lens", None)
        audio = model_kwargs.pop("audio_embeds", None)
        if features is not None:
            audio = self.encode_audio(features, lens)[1]
        if audio is not None and input_ids is not None and expand_size > 1:
            per_row = (input_ids == self.config.audio_start_token_id).sum(1).tolist()
            clips = torch.arange(audio.values.shape[0], device=audio.values.device)
            order = torch.cat([row.repeat(expand_size) for row in clips.split(per_row)])
            audio = Latents(audio.values[order], audio.lengths[order])
        ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if audio is not None:
            model_kwargs["audio_embeds"] = audio
        return ids, model_kwargs

    # ---- checkpoints -------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        config: StepAudioConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        **kwargs: Any,
    ) -> StepAudio2ForCausalLM:
        """Load a folder or a Hub repository, strictly; see `checkpoint.load_model`.

        Args:
            pretrained_model_name_or_path: folder, or id of a Hub repository.
            *model_args: none are accepted.
            config: use this instead of the folder's ``config.json``.
            dtype: type of the weights; None or "auto": float32 on CPU, elsewhere as stored.
            device_map: one device, or "auto" for a GPU where there is one.
            **kwargs: ``revision``, ``cache_dir``, ``token`` and ``local_files_only`` of the Hub.

        Raises:
            CheckpointError: the checkpoint cannot be found, is damaged or does not fit.
            ValueError: an argument is not supported.
        """
        # checkpoint.py builds on this class
        from stepaudio.models.checkpoint import load_model

        dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype
        hub = {name: kwargs.pop(name) for name in _HUB_ARGUMENTS & set(kwargs)}
        unknown = [k for k, v in kwargs.items() if k not in _UNUSED_ARGUMENTS and v is not None]
        if model_args or unknown:
            raise ValueError(f"from_pretrained does not support {[*model_args, *unknown]}")
        folder = checkpoint_folder(pretrained_model_name_or_path, **hub)
        return load_model(
            folder, dtype=_as_dtype(dtype), device=_as_device(device_map), config=config
        )

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        **kwargs: Any,
    ) -> None:
        """Write the public layout; see `checkpoint.save_checkpoint`.

        Args:
            save_directory: folder to write.
            is_main_process: False does nothing (distributed training).
            state_dict: the weights, where they are not in the model.
            max_shard_size: bytes, or a string such as "5GB".
            **kwargs: further arguments of transformers' callers, for adapters that were added to
                this model with `add_adapter`; only these are then saved.
        """
        # checkpoint.py builds on this class
        from stepaudio.models.checkpoint import save_checkpoint

        if getattr(self, "_hf_peft_config_loaded", False):
            super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        elif is_main_process:
            size = _num_bytes(max_shard_size)
            save_checkpoint(self, save_directory, max_shard_bytes=size, state=state_dict)


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ValueError(f"unknown dtype {dtype!r}")
    return found


def _as_device(device_map: Any) -> torch.device:
    if isinstance(device_map, dict):
        if set(device_map) != {""}:
            raise ValueError("device_map must name one device: the model is not split")
        device_map = device_map[""]
    if device_map == "auto":
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cpu" if device_map is None else device_map)


def _num_bytes(size: int | str) -> int:
    if isinstance(size, int):
        return size
    number, unit = size[:-2], size[-2:].upper()
    if not number.isdecimal() or unit not in _UNITS:
        raise ValueError(f"max_shard_size must be a number of bytes or like '5GB', got {size!r}")
    return int(number) * _UNITS[unit]
