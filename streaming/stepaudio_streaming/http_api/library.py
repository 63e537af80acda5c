"""The library's transcriber behind the HTTP endpoints: one thread owns the model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from functools import cached_property

from stepaudio.audio.io import iter_audio_blocks
from stepaudio.audio.segmentation import iter_speech_windows
from stepaudio.audio.vad import silero_detector
from stepaudio.errors import AudioLoadError, CapacityError, ConfigError, RequestError
from stepaudio.tasks.asr import Transcriber
from stepaudio.tasks.transcript import Segment
from stepaudio_streaming.http_api.limits import limited_duration_s, too_long
from stepaudio_streaming.http_api.services import Recognition, RecognitionRequest


class LibraryRecognizer:
    """Writes down recordings with a `Transcriber`.

    Keywords are hotwords of whole recordings, streams do without. The model gets no prompt or
    temperature: those are hints too, which it does without.

    Args:
        load: gives the transcriber, with an aligner if it is to tell the times of words; called
            in the executor, with the first recording.
        executor: of one thread, the only one that uses the model.
        language: code of the language that the model writes.
        tells_words: the transcriber has an aligner.
        max_duration_s: of a recording.
        max_waiting: recordings at once, those that wait included.
    """

    def __init__(
        self,
        load: Callable[[], Transcriber],
        executor: Executor,
        *,
        language: str = "en",
        tells_words: bool = False,
        max_duration_s: float = 4 * 3600.0,
        max_waiting: int = 16,
    ) -> None:
        self._load = load
        self._executor = executor
        self._language = language
        self._tells_words = tells_words
        self._max_duration_s = max_duration_s
        self._max_waiting = max_waiting
        self._num_waiting = 0

    @cached_property
    def _transcriber(self) -> Transcriber:
        return self._load()

    async def recognize(self, request: RecognitionRequest) -> Recognition:
        """Begin with a recording; see the protocol."""
        if request.translate:
            raise RequestError(
                "This model does not translate.", code="unsupported_value", param="model"
            )
        if request.words and not self._tells_words:
            raise RequestError(
                "This server was started without times of words.",
                code="unsupported_value",
                param="timestamp_granularities",
            )
        if self._num_waiting >= self._max_waiting:
            raise CapacityError(f"{self._num_waiting} recordings wait already; try again later")
        duration_s = await asyncio.to_thread(
            limited_duration_s, request.audio, name=request.name, max_s=self._max_duration_s
        )
        work = self._streamed if request.stream else self._whole
        segments = self._run(lambda: self._bounded(work(request), request.name))
        if request.stream:
            return Recognition(segments, duration_s, self._language)
        # Errors of a whole recording have a status of their own: read before the answer begins.
        found = [segment async for segment in segments]
        return Recognition(_given(found), duration_s, self._language)

    def _bounded(self, segments: Iterator[Segment], name: str) -> Iterator[Segment]:
        """Headers may tell less than there is."""
        for segment in segments:
            if segment.start > self._max_duration_s:
                raise AudioLoadError(too_long(name, self._max_duration_s))
            yield segment

    def _whole(self, request: RecognitionRequest) -> Iterator[Segment]:
        transcriber, keywords = self._transcriber, request.keywords or None
        try:
            transcript = transcriber.transcribe(request.audio, name=request.name, hotwords=keywords)
        except ConfigError as error:
            if keywords is None:
                raise
            raise RequestError(str(error), code="invalid_value", param="keywords") from error
        yield from transcript.segments

    def _streamed(self, request: RecognitionRequest) -> Iterator[Segment]:
        blocks = iter_audio_blocks(request.audio, name=request.name)
        for window in iter_speech_windows(blocks, silero_detector()):
            (text,) = self._transcriber.transcribe_pieces([window.samples])
            if text:
                yield Segment(window.segment.start_s, window.segment.stop_s, text)

    async def _run(self, work: Callable[[], Iterator[Segment]]) -> AsyncIterator[Segment]:
        """Iterate in the model's thread; whoever stops listening ends the work."""
        loop = asyncio.get_running_loop()
        # As many entries as there are segments: a few for each minute of sound.
        queue: asyncio.Queue[Segment | None] = asyncio.Queue()
        is_wanted = threading.Event()
        is_wanted.set()

        def run() -> None:
            try:
                for segment in work():
                    if not is_wanted.is_set():
                        return
                    loop.call_soon_threadsafe(queue.put_nowait, segment)
            finally:
                loop.call_soon_threadsafe(queue.put_nowait, None)

        self._num_waiting += 1
        future = loop.run_in_executor(self._executor, run)
        try:
            while (segment := await queue.get()) is not None:
                yield segment
            await future
        finally:
            is_wanted.clear()
            self._num_waiting -= 1


async def _given(segments: list[Segment]) -> AsyncIterator[Segment]:
    for segment in segments:
        yield segment
