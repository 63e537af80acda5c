"""Who may use the server: API keys, and client secrets for realtime sessions."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from stepaudio_streaming.protocol.secrets import PREFIX, ClientSecrets
from stepaudio_streaming.protocol.session_config import SessionConfig

SUBPROTOCOL = "realtime"
_KEY_SUBPROTOCOL = "openai-insecure-api-key."


@dataclass(frozen=True)
class Visitor:
    """Somebody who may come in.

    Attributes:
        config: the session that a client secret stands for; None: came with a key, or needs none.
    """

    config: SessionConfig | None = None


class Doorkeeper:
    """Tells who may come in; keys are kept as digests only.

    Args:
        api_keys: accepted keys; none: everybody comes in.
        secrets: client secrets.
        cors_origins: origins of pages that may come in without a key.
    """

    def __init__(
        self, api_keys: Sequence[str], secrets: ClientSecrets, cors_origins: Sequence[str] = ()
    ) -> None:
        self._digests = tuple(_digest(key) for key in api_keys)
        self._secrets = secrets
        self._origins = frozenset(cors_origins)

    @property
    def needs_key(self) -> bool:
        """Whether keys are checked at all."""
        return bool(self._digests)

    def accepts_key(self, key: str | None) -> bool:
        """Whether an API key is right; takes the same time for every wrong one."""
        if not self._digests:
            return True
        given = _digest(key or "")
        # Every key is compared: an early end would tell how many came before.
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return any(matches)

    def admit(self, headers: Headers) -> Visitor | None:
        """Who asks for a realtime session; None: nobody who may."""
        key = bearer_key(headers) or _subprotocol_key(headers)
        if key is not None and key.startswith(PREFIX):
            config = self._secrets.session_of(key)
            if config is not None:
                return Visitor(config)
        if not self.accepts_key(key):
            return None
        if not self.needs_key and not self._is_own_page(headers):
            return None
        return Visitor()

    def _is_own_page(self, headers: Headers) -> bool:
        """Keep foreign web pages off a server that needs no key, such as one on this machine."""
        origin = headers.get("origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return True
        return urlsplit(origin).netloc == headers.get("host")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def bearer_key(headers: Headers) -> str | None:
    """Key of the Authorization header."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def offered_subprotocols(headers: Headers) -> list[str]:
    """Sub-protocols that a client offers."""
    lines = headers.getlist("sec-websocket-protocol")
    return [name.strip() for line in lines for name in line.split(",")]


def _subprotocol_key(headers: Headers) -> str | None:
    """Key of a browser, which cannot set headers."""
    for name in offered_subprotocols(headers):
        if name.startswith(_KEY_SUBPROTOCOL):
            return name.removeprefix(_KEY_SUBPROTOCOL)
    return None
