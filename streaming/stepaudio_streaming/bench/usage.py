"""Processor, memory and GPU that the server uses, sampled once a second where it can be known."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stepaudio.errors import StepAudioError
from stepaudio_streaming.bench.target import Target

_CPU = re.compile(r"^process_cpu_seconds_total (\S+)", re.MULTILINE)
_MEMORY = re.compile(r"^process_resident_memory_bytes (\S+)", re.MULTILINE)
_SMI = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Sample:
    """What a server uses at one moment.

    Attributes:
        at: seconds of the steady clock.
        cpu: cores since the sample before; None: unknown.
        memory_mb: resident memory; None: unknown.
        gpu: share of the time in which the first GPU was busy, 0 to 1; None: unknown.
        gpu_memory_mb: of that GPU.
    """

    at: float
    cpu: float | None = None
    memory_mb: float | None = None
    gpu: float | None = None
    gpu_memory_mb: float | None = None


Reading = tuple[float, float]  # processor seconds so far, resident bytes


def read_metrics(text: str) -> Reading | None:
    """What a page in the format of Prometheus says about its process; None: nothing."""
    cpu, memory = _CPU.search(text), _MEMORY.search(text)
    if cpu is None or memory is None:
        return None
    return float(cpu.group(1)), float(memory.group(1))


def read_smi(text: str) -> tuple[float, float] | None:
    """Use and memory in MB of the first GPU of a table of nvidia-smi; None: there is none."""
    first = text.strip().splitlines()[:1]
    try:
        use, memory = (float(value) for value in first[0].split(","))
    except (IndexError, ValueError):
        return None
    return use / 100, memory


def process_reader(pid: int) -> Callable[[], Reading | None]:
    """Reads a process of this machine and its children.

    Raises:
        StepAudioError: psutil is missing, or there is no such process.
    """
    try:
        import psutil
    except ModuleNotFoundError as error:
        raise StepAudioError("--pid needs psutil: pip install 'stepaudio[bench]'") from error
    try:
        parent = psutil.Process(pid)
    except psutil.Error as error:
        raise StepAudioError(f"--pid {pid}: {error}") from error

    def read() -> Reading | None:
        try:
            processes = [parent, *parent.children(recursive=True)]
            times = [process.cpu_times() for process in processes]
            memory = sum(process.memory_info().rss for process in processes)
        except psutil.Error:
            return None
        return sum(t.user + t.system for t in times), float(memory)

    return read


def metrics_reader(target: Target) -> Callable[[], Reading | None]:
    """Reads the metrics of the server itself."""

    def read() -> Reading | None:
        try:
            return read_metrics(target.read("/metrics").decode("utf-8", "replace"))
        except OSError:
            return None

    return read


@dataclass
class Meter:
    """Samples what a server uses.

    Attributes:
        read: reads the process.
        has_gpu: the server's GPU can be asked for.
        samples: so far.
    """

    read: Callable[[], Reading | None]
    has_gpu: bool = False
    samples: list[Sample] = field(default_factory=list)

    async def run(self) -> None:
        """Sample until this is cancelled."""
        before: tuple[float, Reading] | None = None
        while True:
            reading = await asyncio.to_thread(self.read)
            gpu = await asyncio.to_thread(_gpu) if self.has_gpu else None
            now = time.monotonic()
            cpu = memory = None
            if reading is not None:
                memory = reading[1] / 1e6
                if before is not None and now > before[0]:
                    cpu = max(0.0, reading[0] - before[1][0]) / (now - before[0])
                before = now, reading
            use, gpu_memory = gpu if gpu is not None else (None, None)
            if reading is not None or gpu is not None:
                self.samples.append(Sample(now, cpu, memory, use, gpu_memory))
            await asyncio.sleep(1.0)


def _gpu() -> tuple[float, float] | None:
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return read_smi(done.stdout)


def build_meter(target: Target, pid: int | None) -> Meter:
    """Meter of a server: its process if the caller names it, else its own metrics.

    Raises:
        StepAudioError: that process cannot be read.
    """
    read = metrics_reader(target) if pid is None else process_reader(pid)
    return Meter(read, has_gpu=target.is_local and shutil.which("nvidia-smi") is not None)
