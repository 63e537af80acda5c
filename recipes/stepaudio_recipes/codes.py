"""Audio codes of whole manifests: written once, read by every recipe that trains on them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from stepaudio.errors import ConfigError
from stepaudio.models.token2wav.tokenizer_checkpoint import TrainedTokenizer
from stepaudio.text.manifest import ManifestRow, read_manifest
from stepaudio.training.data import SampleStore

_log = logging.getLogger(__name__)
_SAVE_EVERY = 1000  # rows

Codes = NDArray[np.int16]


def row_key(row: ManifestRow) -> str:
    """Name of a row's audio: its file's name, and its place where the file is a shard."""
    path = Path(row.audio_filepath)
    return f"{path.parent.name}/{path.name}@{row.offset or 0}"


class CodeStore:
    """Codes by row, in ``<manifest>.npz`` files of one folder.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._codes: dict[str, Codes] = {}
        self._read: set[Path] = set()

    def load(self, row: ManifestRow) -> Codes:
        """Codes of one row, int16 [n].

        Raises:
            ConfigError: nobody has encoded it.
        """
        key = row_key(row)
        if key not in self._codes:
            for path in sorted(self.folder.glob("*.npz")):
                self._codes |= self._file(path)
        if key not in self._codes:
            raise ConfigError(
                f"{row.audio_filepath}: has no audio codes in {self.folder}; run the recipe codec "
                "with its manifest among `encode`"
            )
        return self._codes[key]

    def _file(self, path: Path) -> dict[str, Codes]:
        if path in self._read:
            return {}
        self._read.add(path)
        with np.load(path, allow_pickle=False) as data:
            keys, flat, ends = data["keys"], data["codes"], data["ends"]
        parts = np.split(flat, ends[:-1])
        return dict(zip(map(str, keys), parts, strict=True))

    def known(self, name: str) -> dict[str, Codes]:
        """Codes of a manifest that have been written so far."""
        path = self.folder / f"{name}.npz"
        return self._file(path) if path.exists() else {}

    def write(self, name: str, codes: dict[str, Codes]) -> None:
        """Write the codes of a manifest; the previous file is replaced only when this is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{name}.partial.npz"
        parts = list(codes.values())
        np.savez(
            temporary,
            keys=np.array(list(codes)),
            codes=np.concatenate(parts) if parts else np.zeros(0, np.int16),
            ends=np.cumsum([len(part) for part in parts]),
        )
        temporary.replace(self.folder / f"{name}.npz")


def encode_manifest(tokenizer: TrainedTokenizer, manifest: Path, store: CodeStore) -> None:
    """Encode all rows of a manifest; goes on where an earlier run with the same weights stopped."""
    rows = read_manifest(manifest)
    name = f"{manifest.stem}-{_fingerprint(tokenizer)}"
    codes = store.known(name)
    samples = SampleStore()
    missing = [row for row in rows if row_key(row) not in codes]
    for count, row in enumerate(tqdm(missing, desc=manifest.stem, unit="clip", disable=None), 1):
        wav = torch.from_numpy(samples.load(row))
        codes[row_key(row)] = tokenizer.tokenize(wav).numpy().astype(np.int16)
        if count % _SAVE_EVERY == 0:
            store.write(name, codes)
    store.write(name, codes)
    _log.info("%s: codes of %d clips", manifest, len(codes))


def _fingerprint(tokenizer: TrainedTokenizer) -> str:
    digest = hashlib.sha256()
    for value in tokenizer.state_dict().values():
        digest.update(value.float().numpy().tobytes())
    return digest.hexdigest()[:8]
