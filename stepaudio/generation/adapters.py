"""The adapters of a checkpoint as decoders of a `Generator`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stepaudio.errors import ConfigError
from stepaudio.generation.decoders import Decoder
from stepaudio.models.adapters import ADAPTER_FOLDER, Adapter, load_adapter, merged_backbone
from stepaudio.models.fused import FusedDecoder, Precision
from stepaudio.models.step_audio import StepAudio2ForCausalLM


@dataclass(frozen=True)
class AdapterSet:
    """Adapters of one checkpoint by name; the decoder without any has id 0.

    Attributes:
        adapters: as they were read.
        ids: what `GenerationPrompt.adapter` calls each.
    """

    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> AdapterSet:
        """Read the folder ``adapters`` of a checkpoint, one subfolder each; there may be none.

        Raises:
            CheckpointError: one is damaged.
        """
        folders = sorted(
            path for path in (Path(folder) / ADAPTER_FOLDER).glob("*") if path.is_dir()
        )
        return cls({path.name: load_adapter(path) for path in folders})

    @property
    def ids(self) -> dict[str, int]:
        """Adapter id of every name, from 1."""
        return {name: number for number, name in enumerate(self.adapters, 1)}

    def id_of(self, name: str | None) -> int:
        """Adapter id of a name; None: the model itself, 0.

        Raises:
            ConfigError: the checkpoint has no such adapter.
        """
        if name is None:
            return 0
        if name not in self.ids:
            known = ", ".join(self.ids) or "none"
            raise ConfigError(f"config.json: no adapter {name!r} in the checkpoint, only {known}")
        return self.ids[name]

    def decoders(
        self, model: StepAudio2ForCausalLM, precision: Precision = "float"
    ) -> dict[int, Decoder]:
        """Merge every adapter into a copy of the decoder layers, by id.

        Raises:
            CheckpointError: an adapter belongs to another model.
            ConfigError: there are no int8 weights for the model's device or type.
        """
        return {
            self.ids[name]: FusedDecoder(
                merged_backbone(model.model, adapter), model.lm_head.weight, precision
            )
            for name, adapter in self.adapters.items()
        }
