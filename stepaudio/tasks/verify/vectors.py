"""A folder of reference numbers, which remembers what has been read of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stepaudio.errors import CheckpointError

_Value = TypeVar("_Value")

TENSOR_SUFFIX = ".safetensors"
ARRAY_SUFFIX = ".npy"
JSON_SUFFIX = ".json"


class VectorFolder:
    """Reads reference numbers (specification, section 13) and notes which were asked for.

    A file is named without its suffix. What nobody has read in the end was not verified: see
    `unread`.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a folder.

        Raises:
            CheckpointError: it does not exist.
        """
        self.path = Path(folder)
        if not self.path.is_dir():
            raise CheckpointError(
                f"{folder}: no such folder; --vectors takes a folder with reference numbers "
                "(config.json, model.safetensors, main_single.safetensors and so on)"
            )
        self._read: set[str] = set()
        self._shared: dict[str, Any] = {}

    def tensors(self, file: str) -> dict[str, Tensor]:
        """All tensors of ``{file}.safetensors``.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        with self._open(file) as archive:
            names = list(archive.keys())
            self._read.update(f"{file}/{name}" for name in names)
            return {name: archive.get_tensor(name) for name in names}

    def tensor(self, file: str, name: str) -> Tensor:
        """One tensor of ``{file}.safetensors``.

        Raises:
            CheckpointError: file or tensor are missing or damaged.
        """
        with self._open(file) as archive:
            if name not in archive.keys():
                raise CheckpointError(
                    f"{self.path / (file + TENSOR_SUFFIX)}: has no tensor {name!r}; the folder is "
                    "incomplete"
                )
            self._read.add(f"{file}/{name}")
            return cast(Tensor, archive.get_tensor(name))

    def array(self, file: str) -> Tensor:
        """Content of ``{file}.npy``.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        path = self._existing(file + ARRAY_SUFFIX)
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); copy it again") from error
        self._read.add(path.name)
        return torch.from_numpy(values)

    def values(self, file: str) -> Any:
        """Content of ``{file}.json``.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        path = self._existing(file + JSON_SUFFIX)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); copy it again") from error
        self._read.add(path.name)
        return values

    def weights(self, file: str) -> Path:
        """Path of ``{file}.safetensors`` for a strict loader, which reads every tensor of it.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        with self._open(file) as archive:
            self._read.update(f"{file}/{name}" for name in archive.keys())
        return self.path / (file + TENSOR_SUFFIX)

    def shared(self, key: str, build: Callable[[VectorFolder], _Value]) -> _Value:
        """Build something that several components use, once."""
        if key not in self._shared:
            self._shared[key] = build(self)
        return cast(_Value, self._shared[key])

    def unread(self) -> list[str]:
        """Tensors and files that were not read: ``file/tensor`` or the file's name."""
        names: list[str] = []
        for path in sorted(self.path.iterdir()):
            if path.suffix == TENSOR_SUFFIX:
                names += self._names(path)
            elif path.suffix in (ARRAY_SUFFIX, JSON_SUFFIX):
                names.append(path.name)
        return [name for name in names if name not in self._read]

    def _names(self, path: Path) -> list[str]:
        try:
            with safe_open(path, framework="pt") as archive:
                return [f"{path.stem}/{name}" for name in archive.keys()]
        except (SafetensorError, OSError):
            return [path.name]

    def _existing(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; the folder is incomplete")
        return path

    def _open(self, file: str) -> safe_open:
        path = self._existing(file + TENSOR_SUFFIX)
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); copy it again") from error
