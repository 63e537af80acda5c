"""``stepaudio models``."""

from __future__ import annotations

from stepaudio.catalog import CATALOG, CatalogEntry, embedded_folder
from stepaudio.cli.console import echo
from stepaudio.errors import CheckpointError


def run_models() -> int:
    """List the models that ``--model`` takes; returns the exit status."""
    rows = [("MODEL", "LANGUAGES", "WHERE", "")]
    rows += [
        (entry.name, ", ".join(entry.languages) or "several", _where(entry), entry.summary)
        for entry in CATALOG
    ]
    rows.append(("DIR", "", "a folder", "config.json, *.safetensors and tokenizer files"))
    rows.append(("OWNER/NAME", "", "Hugging Face Hub", "any checkpoint of the same architecture"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        echo("  ".join([*cells, row[3]]).rstrip() + "\n")
    return 0


def _where(entry: CatalogEntry) -> str:
    """Where the files are now, or would come from."""
    try:
        folder = embedded_folder(entry.name)
    except CheckpointError:
        return "missing from this installation"
    if folder is not None:
        return str(folder)
    return f"{entry.where} (downloaded)" if _is_downloaded(entry.name) else entry.where


def _is_downloaded(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, "config.json"), str)
