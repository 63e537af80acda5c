"""Settings of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Limits, keys and manners of a server.

    Attributes:
        api_keys: keys that are accepted; none: everybody may use the server.
        max_sessions: realtime sessions at once.
        max_session_s: a session ends after this time.
        send_timeout_s: a client that takes nothing for so long loses its session.
        max_outgoing_bytes: so does a client for whom this much waits.
        max_waiting_commands: more events of a client are not read before the engine has taken
            some of those.
        max_upload_bytes: of audio files in HTTP requests.
        max_json_bytes: of other bodies.
        cors_origins: origins whose pages may use the server, such as "https://example.org"; "*"
            for all.
        ping_interval_s: how often clients are asked whether they are alive.
        ping_timeout_s: how long they may take to answer. Programs that compute or send much answer
            late; that the machine is gone is noticed sooner, see `listen`.
        drain_timeout_s: how long answers may go on when the server ends.
    """

    api_keys: tuple[str, ...] = ()
    max_sessions: int = 64
    max_session_s: float = 3600.0
    send_timeout_s: float = 4.0
    max_outgoing_bytes: int = 32 << 20
    max_waiting_commands: int = 256
    max_upload_bytes: int = 25_000_000
    max_json_bytes: int = 40_000_000
    cors_origins: tuple[str, ...] = ()
    ping_interval_s: float = 20.0
    ping_timeout_s: float = 20.0
    drain_timeout_s: float = 10.0
