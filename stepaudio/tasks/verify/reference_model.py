"""The model of a folder of reference numbers, and its one-clip example: what components share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stepaudio.errors import CheckpointError
from stepaudio.models.checkpoint import load_model
from stepaudio.models.encoder import Latents
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.tasks.verify.vectors import VectorFolder
from stepaudio.text.vocab import Vocabulary

# Every stage after the mel: differences of float32 rounding stay far below.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class SingleClip:
    """What the model makes of the clip in ``main_single``.

    Attributes:
        encoded: frames that leave the encoder.
        adapted: latents that leave the adaptor.
        stages: outputs of the modules inside, by the name of the module.
    """

    encoded: Latents
    adapted: Latents
    stages: dict[str, Tensor]


def reference_model(vectors: VectorFolder) -> StepAudio2ForCausalLM:
    """Load the folder's model in float32 on the CPU, strictly; once for all components.

    Raises:
        CheckpointError: files are missing or damaged, or the tensors do not fit.
        ConfigError: configuration or token ids are contradictory.
    """
    return vectors.shared("model", _load)


def _load(vectors: VectorFolder) -> StepAudio2ForCausalLM:
    ids = vectors.values("token_ids")
    config_values = vectors.values("config")
    vectors.weights("model")
    try:
        vocab = Vocabulary(num_codes=ids.pop("n_codes"), **ids)
        config_values |= {
            "audio_start_token_id": vocab.audio_start,
            "audio_patch_token_id": vocab.audio_patch,
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{vectors.path}: token_ids.json or config.json lack fields or have unknown ones "
            f"({error})"
        ) from error
    config = StepAudioConfig(**config_values)
    if vocab.eot not in config.text_config.stop_ids or vocab.pad != config.pad_token_id:
        raise CheckpointError(
            f"{vectors.path}: token_ids.json and config.json name different end or pad tokens"
        )
    return load_model(vectors.path, config=config, dtype=torch.float32)


def single_clip(vectors: VectorFolder) -> SingleClip:
    """Encode the clip of ``main_single`` once for all components.

    Raises:
        CheckpointError: as `reference_model`.
    """
    return vectors.shared("single clip", _encode)


@torch.inference_mode()
def _encode(vectors: VectorFolder) -> SingleClip:
    model = reference_model(vectors)
    watched: dict[str, nn.Module] = {
        "conv1": model.encoder.conv1,
        "conv2": model.encoder.conv2,
        "block0": model.encoder.blocks[0],
        "block_last": model.encoder.blocks[-1],
        "adapter_conv": model.adapter.get_submodule("conv"),
    }
    stages: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(
            # The default binds this module's name to its hook.
            lambda _, __, output, name=name: stages.update({name: output})
        )
        for name, module in watched.items()
    ]
    mel, mel_len = (vectors.tensor("main_single", name) for name in ("mel", "mel_len"))
    encoded, adapted = model.encode_audio(mel, mel_len)
    for handle in handles:
        handle.remove()
    return SingleClip(encoded, adapted, stages)
