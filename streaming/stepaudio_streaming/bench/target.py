"""The server that is measured: its addresses, its key, and what it tells over HTTP."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from stepaudio.errors import ConfigError, StepAudioError

_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server.

    Attributes:
        http: address with scheme, without the path.
        prefix: path of the API, such as "/v1".
        key: API key; empty: none.
        model: what is asked for.
        verifies: the certificate must be right.
    """

    http: str
    prefix: str = "/v1"
    key: str = ""
    model: str = ""
    verifies: bool = True

    @property
    def realtime(self) -> str:
        """Address of realtime sessions."""
        address = self.http.replace("http", "ws", 1) + self.prefix + "/realtime"
        return f"{address}?model={quote(self.model)}"

    @property
    def is_local(self) -> bool:
        """It runs on this machine."""
        return urlsplit(self.http).hostname in ("127.0.0.1", "localhost", "::1")

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def tls(self) -> ssl.SSLContext | None:
        """How certificates are checked; None: there is no TLS."""
        if not self.http.startswith("https"):
            return None
        context = ssl.create_default_context()
        if not self.verifies:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def read(self, path: str) -> bytes:
        """Body of a page; blocks.

        Raises:
            OSError: the server does not answer, or with an error status.
        """
        request = urllib.request.Request(self.http + path, headers=self.headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=self.tls) as response:
            body: bytes = response.read()
            return body

    def first_model(self) -> str:
        """Name of the model that is served.

        Raises:
            StepAudioError: the server does not tell.
        """
        url = f"{self.http}{self.prefix}/models"
        try:
            listed: Any = json.loads(self.read(f"{self.prefix}/models"))
            return str(listed["data"][0]["id"])
        except urllib.error.HTTPError as error:
            if error.code == 401:
                raise StepAudioError(f"{url}: wrong or no key; give --api-key-file") from error
            raise StepAudioError(f"{url}: status {error.code}; give --model") from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise StepAudioError(f"{url}: no answer ({reason}); does the server run?") from error
        except (ValueError, LookupError, TypeError) as error:
            raise StepAudioError(f"{url}: no list of models; give --model") from error


def parse_target(url: str, *, key: str = "", model: str = "", verifies: bool = True) -> Target:
    """Target of any address of the server, with or without a path.

    >>> parse_target("wss://host:8443/v1/realtime", model="nano").realtime
    'wss://host:8443/v1/realtime?model=nano'

    Raises:
        ConfigError: it is no such address.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"http": "http", "ws": "http", "https": "https", "wss": "https"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ConfigError(f"{url}: no address of a server, such as http://127.0.0.1:8000")
    prefix = parts.path.rstrip("/").removesuffix("/realtime") or "/v1"
    return Target(
        http=f"{scheme}://{parts.netloc}", prefix=prefix, key=key, model=model, verifies=verifies
    )
