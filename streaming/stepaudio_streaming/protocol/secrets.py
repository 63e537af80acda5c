"""Client secrets: short-lived keys with which a browser may open sessions."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from stepaudio.errors import CapacityError
from stepaudio_streaming.protocol.session_config import SessionConfig
from stepaudio_streaming.protocol.validation import WireModel

PREFIX = "ek_"
DEFAULT_TTL_S = 600


class ExpiresAfter(WireModel):
    """When a secret expires."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = DEFAULT_TTL_S


class SecretRequest(WireModel):
    """Body of `POST /v1/realtime/client_secrets`."""

    expires_after: ExpiresAfter | None = None
    session: dict[str, Any] | None = None


@dataclass(frozen=True)
class ClientSecret:
    """A minted secret: its value, when it expires (seconds since 1970), and its session."""

    value: str
    expires_at: int
    config: SessionConfig


class ClientSecrets:
    """The secrets that are valid now; only their digests are kept.

    Args:
        clock: seconds since 1970.
        max_secrets: valid at once.
    """

    def __init__(self, clock: Callable[[], float], *, max_secrets: int = 10_000) -> None:
        self._clock = clock
        self._max_secrets = max_secrets
        self._valid: dict[bytes, tuple[int, SessionConfig]] = {}

    def mint(self, config: SessionConfig, ttl_s: int = DEFAULT_TTL_S) -> ClientSecret:
        """Make a secret for sessions that begin with a configuration.

        Raises:
            CapacityError: too many are valid.
        """
        now = self._clock()
        self._valid = {key: entry for key, entry in self._valid.items() if entry[0] > now}
        if len(self._valid) >= self._max_secrets:
            raise CapacityError(
                f"{self._max_secrets} client secrets are valid; try again when some have expired"
            )
        value = PREFIX + secrets.token_hex(24)
        expires_at = int(now) + ttl_s
        self._valid[_digest(value)] = expires_at, config
        return ClientSecret(value, expires_at, config)

    def session_of(self, value: str) -> SessionConfig | None:
        """Configuration that a secret stands for; None: it is unknown or has expired."""
        # Found by its digest, so that the time of the search says nothing about the secret.
        entry = self._valid.get(_digest(value))
        return entry[1] if entry is not None and entry[0] > self._clock() else None


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
