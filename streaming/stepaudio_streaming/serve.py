"""Joins engine, endpoints and sockets to a server."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from fastapi import APIRouter

from stepaudio.catalog import DEFAULT_MODEL
from stepaudio.models.fused import Precision
from stepaudio.tasks.alignment import WordAligner
from stepaudio.tasks.asr import Transcriber
from stepaudio.tasks.step_audio import StepAudio
from stepaudio.text.word_model import WordModel
from stepaudio_streaming.engine.engine import StreamingEngine
from stepaudio_streaming.engine.loading import (
    EngineOptions,
    check_conversational,
    reads_aloud,
    streaming_engine,
)
from stepaudio_streaming.engine.speaker import EngineSpeaker
from stepaudio_streaming.http_api.chat import chat_routes
from stepaudio_streaming.http_api.library import LibraryRecognizer
from stepaudio_streaming.http_api.speech import speech_routes
from stepaudio_streaming.http_api.transcriptions import transcription_routes
from stepaudio_streaming.memory import bound_kernel_caches, keep_memory_small
from stepaudio_streaming.server.app import build_app
from stepaudio_streaming.server.options import ServerOptions
from stepaudio_streaming.server.run import Address, RealtimeServer, build_server, listen

_log = logging.getLogger(__name__)

_HTTP_SESSIONS = 8


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What to serve, and where.

    Attributes:
        model: name, folder or Hub id.
        device: where it runs.
        precision: of the decoder's weights.
        host: where to listen.
        port: 0: any free one.
        api_keys: accepted keys; none: open to all.
        max_sessions: realtime sessions at once.
        cors_origins: origins whose pages may use the server.
        threads: of the model on a CPU; None: see `serving_threads`.
        certificate: file of the TLS certificate; None: no TLS.
        private_key: file of its key.
    """

    model: str = DEFAULT_MODEL
    device: str = "auto"
    precision: Precision = "float"
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    max_sessions: int = 16
    cors_origins: tuple[str, ...] = ()
    threads: int | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    @property
    def address(self) -> Address:
        """Where to listen."""
        return Address(
            host=self.host,
            port=self.port,
            certificate=self.certificate,
            private_key=self.private_key,
        )

    @property
    def server(self) -> ServerOptions:
        """Limits and keys of the server."""
        return ServerOptions(
            api_keys=self.api_keys, max_sessions=self.max_sessions, cors_origins=self.cors_origins
        )


@cache  # the answer of the first call: later ones would halve what that one has set
def serving_threads() -> int:
    """Threads of a model that converses on this CPU: half of those that PyTorch would take.

    The network and the detectors of speech run beside the model. Threads that wait for a core in
    the middle of an operation cost more than they bring: with nano, four speakers and two cores a
    step takes two thirds of the time on one thread (benchmarks/2026-11-26-realtime.md).
    """
    return max(1, torch.get_num_threads() // 2)


def serve(options: ServeOptions) -> None:
    """Serve until a signal comes; answers that are being made then may end.

    Raises:
        StepAudioError: the model cannot be loaded.
        OSError: the address is taken.
    """
    bound_kernel_caches()
    torch.set_num_threads(options.threads or serving_threads())
    # Before anything is read: the address may be taken.
    listener = listen(options.address)
    signal.signal(signal.SIGTERM, _end)
    try:
        asyncio.run(_serve(options, listener))
    finally:
        listener.close()


def _end(number: int, frame: object) -> None:
    """While the server runs it has a handler of its own, and calls this one behind its end."""
    raise SystemExit(0)


async def _serve(options: ServeOptions, listener: socket.socket) -> None:
    _log.info("loading %s", options.model)
    model = await asyncio.to_thread(
        StepAudio.from_pretrained,
        options.model,
        device=options.device,
        precision=options.precision,
        lazy=True,
    )
    check_conversational(model)
    # HTTP requests take sessions of the engine too.
    sizes = EngineOptions(
        max_sessions=options.max_sessions + _HTTP_SESSIONS, num_slots=options.max_sessions
    )
    engine = streaming_engine(model, sizes, name=options.model)
    executor = ThreadPoolExecutor(1, thread_name_prefix="stepaudio-transcriber")
    housekeeping = asyncio.create_task(keep_memory_small())
    try:
        loading = engine.start()
        routers = service_routes(engine, model, executor)
        app = build_app(engine, options.server, routers=routers)
        server = build_server(app, options.server, options.address)
        host, port = listener.getsockname()[:2]
        scheme = "http" if options.certificate is None else "https"
        await _run(
            server, listener, loading, f"{options.model} is ready at {scheme}://{host}:{port}"
        )
    finally:
        housekeeping.cancel()
        engine.stop()
        executor.shutdown(cancel_futures=True)


async def _run(
    server: RealtimeServer, listener: socket.socket, loading: Future[None], news: str
) -> None:
    """Listen while the model is loaded, so that others can see how far it is.

    Raises:
        StepAudioError: the model cannot be loaded.
    """
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    loaded = asyncio.wrap_future(loading)
    await asyncio.wait({serving, loaded}, return_when=asyncio.FIRST_COMPLETED)
    if not loaded.done():  # a signal came first
        loaded.cancel()
    elif loaded.exception() is None:
        _log.info(news)
    else:
        server.should_exit = True
        await asyncio.wait({serving})
        loaded.result()
    await serving


def service_routes(
    engine: StreamingEngine, model: StepAudio, executor: Executor
) -> list[APIRouter]:
    """Endpoints beside the realtime sessions; they are used when the engine is ready.

    Args:
        engine: answers and speaks.
        model: what it loads.
        executor: of one thread, which writes down recordings.
    """
    name = engine.info.model
    recognizer = LibraryRecognizer(lambda: transcriber_of(model), executor, tells_words=True)
    routers = [transcription_routes(recognizer, name), chat_routes(engine)]
    if reads_aloud(model):
        routers.append(speech_routes(EngineSpeaker(engine), name))
    return routers


def transcriber_of(model: StepAudio) -> Transcriber:
    """Transcriber over the weights that a model has loaded already; it tells the times of words."""
    words = None if model.folder is None else WordModel.load(model.folder)
    has_letters = bool(model.config.audio_encoder_config.ctc_tokens)
    aligner = WordAligner(model.model) if has_letters else WordAligner.from_pretrained()
    return Transcriber(
        model.model, model.tokenizer, words=words, aligner=aligner, precision=model.precision
    )
