"""Where a checkpoint's files are: a local folder, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError

from stepaudio.errors import CheckpointError


@dataclass(frozen=True)
class HubFiles:
    """Which files of a repository are downloaded, as patterns of their paths."""

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...] = ()


MODEL_FILES = HubFiles(("*.json", "*.safetensors", "*.txt", "*.jinja"), ("token2wav/*", "assets/*"))
SPEECH_FILES = HubFiles(("token2wav/*",))
# Cache and access errors are OSErrors; some of the network's only have the HTTP client's base.
_FAILURES: tuple[type[Exception], ...] = (
    OSError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
)


def checkpoint_folder(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    files: HubFiles = MODEL_FILES,
) -> Path:
    """Find the folder of a checkpoint, downloading it where needed.

    Args:
        source: a folder, or the id of a Hub repository such as "stepfun-ai/Step-Audio-2-mini".
        revision: branch, tag or commit of the repository.
        cache_dir: download there instead of into the Hugging Face cache.
        token: access token of the Hub.
        local_files_only: use what has been downloaded before.
        files: which files are downloaded; by default those of the language model.

    Raises:
        CheckpointError: there is no such folder, and it cannot be downloaded either.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    try:
        downloaded = snapshot_download(
            str(source),
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=list(files.wanted),
            ignore_patterns=list(files.unwanted),
        )
    except HFValidationError:
        raise CheckpointError(
            f"{source}: no such folder, and no name of a Hub repository (owner/name) either"
        ) from None
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{source}: there is no revision {revision!r}") from error
    except _FAILURES as error:
        cause = str(error).strip().splitlines()[0]
        cache = cache_dir or constants.HF_HUB_CACHE
        wanted = f"{source} --revision {revision}" if revision else str(source)
        raise CheckpointError(
            f"{source}: no such folder, and it cannot be downloaded ({cause}). Where there is a "
            f"network, run `hf download {wanted}`; then pass the folder with its config.json, "
            f"model*.safetensors and tokenizer files, or copy it into the cache {cache}"
        ) from error
    return Path(downloaded)
