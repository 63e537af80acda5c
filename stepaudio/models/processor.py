"""Hugging Face processor: messages and waveforms to model inputs, ids to text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils.hub import cached_file

from stepaudio.audio.frames import SAMPLE_RATE, pieces
from stepaudio.audio.mel import log_mel
from stepaudio.conversation import (
    AudioPart,
    ChatTemplate,
    Message,
    Mode,
    Part,
    Prompt,
    Prompts,
    TextPart,
    audio_parts,
    messages_from_dicts,
    num_audio_items,
)
from stepaudio.errors import CheckpointError, ConfigError
from stepaudio.models.config import AudioEncoderConfig
from stepaudio.models.config_file import CONFIG_FILE, read_config, read_json_object
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.text.tokenizer import TOKENIZER_FILES, TextTokenizer
from stepaudio.text.vocab import EOT

PROCESSOR_FILE = "processor_config.json"

Waveform = Tensor | NDArray[np.floating[Any]] | Sequence[float]
Conversation = str | Sequence[Message] | Sequence[Mapping[str, Any]]

_HUB_OPTIONS = frozenset(
    {"cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder"}
)
# AutoProcessor passes these to every processor.
_AUTO_OPTIONS = frozenset({"_from_auto", "trust_remote_code"})


class StepAudioProcessor(ProcessorMixin):
    """Bundles mel extractor, tokenizer and chat template of one checkpoint.

    Attributes:
        tokenizer: text tokenizer.
        audio_config: mel bands, mel floor and frame arithmetic of the encoder.
        prompts: task instructions of the checkpoint.
        template: chat template over `tokenizer`.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        audio_config: AudioEncoderConfig,
        prompts: Prompts | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.audio_config = audio_config
        self.prompts = prompts or Prompts()
        self.template = ChatTemplate(tokenizer)
        self.chat_template = None  # transformers looks for a Jinja template here

    # ---- inputs ------------------------------------------------------------------------------

    def __call__(
        self,
        text: Conversation | Sequence[Conversation],
        audio: Sequence[Waveform] | None = None,
        *,
        sampling_rate: int = SAMPLE_RATE,
        mode: Mode = "text",
        prime: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
        padding_side: Literal["left", "right"] = "right",
    ) -> BatchFeature:
        """Build model inputs.

        Args:
            text: a conversation, as `Message`s or as dicts (see `messages_from_dicts`); or a
                string for a Base model, which is not put in a template and which the audio
                follow. A list of conversations or of strings is a batch.
            audio: mono waveforms at 16 kHz, [samples] each, in the order of the audio items of
                the whole batch. Each is cut into pieces of at most 25 s.
            sampling_rate: of `audio`, in Hz; only 16000 is accepted.
            mode: kind of answer to prompt for.
            prime: end with the header of the answer; False for complete conversations.
            tools: OpenAI function schemas, declared in every conversation of dicts.
            padding_side: "left" to generate from a batch of different lengths.

        Returns:
            input_ids and attention_mask [B, T]; with audio also input_features
            [pieces, n_mels, frames], padded with 0.0, and feature_lens [pieces].

        Raises:
            ValueError: messages and audio do not fit, or a waveform is empty or not mono.
        """
        if sampling_rate != SAMPLE_RATE:
            raise ValueError(f"audio must be at {SAMPLE_RATE} Hz, not {sampling_rate}: resample it")
        waveforms = [_mono(wav, index) for index, wav in enumerate(audio or ())]
        prompts = self._render(_as_batch(text), waveforms, mode=mode, prime=prime, tools=tools)
        inputs = self._pad(prompts, padding_side)
        if waveforms:
            inputs |= self.features(waveforms)
        return BatchFeature(inputs)

    def features(self, waveforms: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the log-mel of every piece of every waveform.

        Args:
            waveforms: float32 at 16 kHz, [samples] each.

        Returns:
            input_features [pieces, n_mels, frames], right-padded with 0.0, and feature_lens
            [pieces], the valid mel frames.
        """
        config = self.audio_config
        mels = [
            log_mel(wav[start:stop], config.n_mels, floor=config.mel_floor)
            for wav in waveforms
            for start, stop in pieces(len(wav))
        ]
        features = torch.zeros(len(mels), config.n_mels, max(mel.shape[1] for mel in mels))
        for row, mel in zip(features, mels, strict=True):
            row[:, : mel.shape[1]] = mel
        lens = [config.geometry.valid_mel_frames(mel.shape[1]) for mel in mels]
        return {"input_features": features, "feature_lens": torch.tensor(lens)}

    def _render(
        self,
        batch: Sequence[Conversation],
        waveforms: Sequence[Tensor],
        *,
        mode: Mode,
        prime: bool,
        tools: Sequence[Mapping[str, Any]],
    ) -> list[Prompt]:
        geometry = self.audio_config.geometry
        cut: Sequence[Sequence[AudioPart]]
        cut = [audio_parts(len(wav), geometry, str(n)) for n, wav in enumerate(waveforms)]
        heard = [piece.num_tokens for parts in cut for piece in parts]
        prompts = []
        for conversation in batch:
            if isinstance(conversation, str):
                # Which text an audio belongs to is only clear if there is one text.
                behind = [piece for parts in cut for piece in parts] if len(batch) == 1 else []
                flat: list[Part] = [TextPart(conversation), *behind]
                prompts.append(self.template.render_flat(flat, mode=mode if prime else "text"))
            else:
                messages, cut = _messages(conversation, cut, tools)
                prompts.append(self.template.render(messages, mode=mode, prime=prime))
        placed = [stop - start for prompt in prompts for start, stop, _ in prompt.audio_spans]
        if placed != heard:
            raise ValueError(
                f"the messages have {len(placed)} audio pieces of {placed} tokens, but the "
                f"waveforms give {len(heard)} pieces of {heard} tokens"
            )
        return prompts

    def _pad(
        self, prompts: Sequence[Prompt], padding_side: Literal["left", "right"]
    ) -> dict[str, Tensor]:
        longest = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self.tokenizer.vocab.pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            length = len(prompt.ids)
            place = slice(0, length) if padding_side == "right" else slice(longest - length, None)
            ids[row, place] = torch.tensor(prompt.ids, dtype=torch.long)
            mask[row, place] = 1
        return {"input_ids": ids, "attention_mask": mask}

    # ---- outputs -----------------------------------------------------------------------------

    def decode(self, token_ids: Tensor | Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of one output; audio tokens are special tokens."""
        ids = token_ids.tolist() if isinstance(token_ids, Tensor) else token_ids
        return self.tokenizer.decode(ids, skip_special=skip_special_tokens)

    def batch_decode(
        self, sequences: Tensor | Iterable[Iterable[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """Text of several outputs."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    @property
    def model_input_names(self) -> list[str]:
        """Keys that a call may return."""
        return ["input_ids", "attention_mask", "input_features", "feature_lens"]

    # ---- files -------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> StepAudioProcessor:
        """Load from a checkpoint folder or a Hugging Face model id.

        The encoder's settings and the prompts are read from ``config.json``, and from
        ``processor_config.json`` where a folder holds the processor alone.

        Args:
            pretrained_model_name_or_path: folder, or model id to be fetched.
            options: ``revision``, ``cache_dir``, ``token``, ``local_files_only``,
                ``force_download`` and ``subfolder``, as in transformers.

        Raises:
            CheckpointError: files are missing or unreadable.
            ConfigError: the files contradict each other.
        """
        unknown = set(options) - _HUB_OPTIONS - _AUTO_OPTIONS
        if unknown:
            raise TypeError(f"unknown options {sorted(unknown)}")
        hub = {name: options[name] for name in _HUB_OPTIONS & set(options)}
        folder = _local_folder(pretrained_model_name_or_path, hub)
        tokenizer = TextTokenizer.from_folder(folder)
        if (folder / CONFIG_FILE).is_file():
            config = read_config(folder)
            _check_ids(config, tokenizer, folder)
            return cls(tokenizer, config.audio_encoder_config, Prompts.from_dict(config.prompts))
        if not (folder / PROCESSOR_FILE).is_file():
            raise CheckpointError(f"{folder}: neither {CONFIG_FILE} nor {PROCESSOR_FILE} is there")
        values = read_json_object(folder / PROCESSOR_FILE)
        try:
            audio_config = AudioEncoderConfig.from_dict(values["audio_encoder_config"])
            return cls(tokenizer, audio_config, Prompts.from_dict(values["prompts"]))
        except KeyError as error:
            raise CheckpointError(f"{folder / PROCESSOR_FILE}: lacks the field {error}") from error

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> list[str]:
        """Write ``tokenizer.json`` and ``processor_config.json``; return their paths."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / PROCESSOR_FILE
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=2)
        path.write_text(text + "\n", encoding="utf-8")
        return [str(self.tokenizer.save(folder)), str(path)]

    def to_dict(self) -> dict[str, Any]:
        """Content of ``processor_config.json``."""
        return {
            "processor_class": type(self).__name__,
            "audio_encoder_config": self.audio_config.to_dict(),
            "prompts": self.prompts.to_dict(),
        }

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Sub-processors that transformers would load and save by itself: none."""
        return []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tokenizer.vocab.size} tokens, {self.audio_config})"


def _mono(waveform: Waveform, index: int) -> Tensor:
    wav = torch.as_tensor(waveform, dtype=torch.float32)
    if wav.dim() != 1 or not len(wav):
        raise ValueError(f"audio {index} must be mono, [samples], got shape {tuple(wav.shape)}")
    return wav


def _as_batch(text: Conversation | Sequence[Conversation]) -> Sequence[Conversation]:
    if not text:
        raise ValueError("nothing to process: the text or list of messages is empty")
    if isinstance(text, str) or isinstance(text[0], Message | Mapping):
        return [cast("Conversation", text)]
    return cast("Sequence[Conversation]", text)


def _messages(
    conversation: Sequence[Message] | Sequence[Mapping[str, Any]],
    cut: Sequence[Sequence[AudioPart]],
    tools: Sequence[Mapping[str, Any]],
) -> tuple[list[Message], Sequence[Sequence[AudioPart]]]:
    """Messages of one conversation, and the audio that is left for the next ones."""
    messages = [m for m in conversation if isinstance(m, Message)]
    if messages:
        return messages, cut
    dicts = [m for m in conversation if not isinstance(m, Message)]
    count = num_audio_items(dicts)
    return messages_from_dicts(dicts, cut[:count], tools), cut[count:]


def _local_folder(source: str | Path, hub: Mapping[str, Any]) -> Path:
    """Folder of a checkpoint, its tokenizer and configuration fetched if it is a model id."""
    folder = Path(source)
    if folder.is_dir():
        return folder / hub.get("subfolder", "")
    try:
        found = [
            cached_file(str(source), name, _raise_exceptions_for_missing_entries=False, **hub)
            for name in (CONFIG_FILE, PROCESSOR_FILE, *TOKENIZER_FILES)
        ]
    except OSError as error:
        raise CheckpointError(
            f"{source}: no such folder, and cannot be fetched: {error}"
        ) from error
    present = [path for path in found if path is not None]
    if not present:
        raise CheckpointError(f"{source}: neither a folder nor a model with a tokenizer")
    return Path(present[0]).parent


def _check_ids(config: StepAudioConfig, tokenizer: TextTokenizer, folder: Path) -> None:
    vocab = tokenizer.vocab
    ours = (vocab.audio_start, vocab.audio_patch)
    if ours != (config.audio_start_token_id, config.audio_patch_token_id):
        raise ConfigError(
            f"{folder}: audio token ids of the tokenizer {ours} are not those of {CONFIG_FILE} "
            f"{(config.audio_start_token_id, config.audio_patch_token_id)}"
        )
    if vocab.size > config.vocab_size:
        raise ConfigError(
            f"{folder}: the tokenizer needs {vocab.size} embeddings, {CONFIG_FILE} has "
            f"vocab_size {config.vocab_size}"
        )
    if vocab.eot not in config.text_config.stop_ids:
        raise ConfigError(
            f"{folder}: eos_token_id {list(config.text_config.stop_ids)} of {CONFIG_FILE} lacks "
            f"{EOT}, which is {vocab.eot} in the tokenizer"
        )
