"""Long run of the realtime server: leaks, stuck slots, and sound of somebody else's session.

    python benchmarks/realtime_soak.py --minutes 30 --sessions 4

Starts `stepaudio-serve` with as many slots as there are speakers, so that a slot that stays taken
is noticed. Every speaker has a recording and a sentence of its own. It asks the recording, is
answered, interrupts some answers, now and then dies without a word, and between two questions has
its sentence spoken outside of the conversation. What it hears must be its own: the transcript of
its question, the text of its sentence, and, listened to by the server's own recogniser, the sound.
At the end all slots must be free again. Writes a report in Markdown and a picture.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import io
import json
import os
import platform
import socket
import subprocess
import sys
import time
import urllib.request
import wave
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stepaudio.atomic import write_bytes_atomic, write_text_atomic
from stepaudio_streaming.bench.recordings import RATE, Recording, load_recording
from stepaudio_streaming.bench.report import Report
from stepaudio_streaming.bench.run import BenchOptions, measure
from stepaudio_streaming.bench.speaker import Call, Speaker, SpeakerOptions
from stepaudio_streaming.bench.target import Target
from stepaudio_streaming.bench.turns import Turn
from stepaudio_streaming.bench.usage import Meter, read_metrics

ROOT = Path(__file__).parents[1]
QUESTIONS = ("us_female_2", "learner_adult", "learner_child", "us_female_1")
SENTENCES = (
    "the red dog runs in the park with seven children",
    "my brother plays the old piano every evening",
    "we drink cold water after a long dinner",
    "nobody knows where the green ship is going tomorrow",
)
WARM_UP = 0.1  # of the run: caches fill, allocators learn
WINDOW = 0.1  # of the run: memory at beginning and end is the median of so much


@dataclass
class Findings:
    """What was checked, and what was wrong.

    Attributes:
        checks: how often what was checked.
        wrong: what was somebody else's.
        active: time in seconds and open sessions.
        memory: time in seconds and anonymous memory in MB.
    """

    checks: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    active: list[tuple[float, float]] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def expect(self, what: str, is_own: bool, detail: str) -> None:
        """Count a check."""
        self.checks[what] += 1
        if not is_own:
            self.wrong.append(f"{what}: {detail}")


def closest(text: str, candidates: Sequence[str]) -> int:
    """Index of the most similar text."""
    ratios = [difflib.SequenceMatcher(None, text, other).ratio() for other in candidates]
    return int(np.argmax(ratios))


def transcribe(target: Target, pcm: bytes) -> str:
    """What the server's recogniser hears in PCM16 at 24 kHz; blocks."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(pcm)
    edge = "soak-boundary"
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{target.model}\r\n'
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    )
    body = head.encode() + file.getvalue() + f"\r\n--{edge}--\r\n".encode()
    request = urllib.request.Request(
        f"{target.http}/v1/audio/transcriptions",
        data=body,
        headers={"content-type": f"multipart/form-data; boundary={edge}"},
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        return str(json.loads(response.read())["text"])


class SoakSpeaker(Speaker):
    """A speaker that checks that what it hears is its own."""

    findings: Findings
    questions: tuple[str, ...]  # transcripts, by speaker

    def __init__(
        self, number: int, target: Target, recordings: Any, *rest: Any, **how: Any
    ) -> None:
        super().__init__(
            number, target, (recordings[number],), *rest, on_turn=self._check_turn, **how
        )
        self._num_asides = 0

    def _check_turn(self, turn: Turn) -> None:
        if turn.heard and not turn.is_killed:
            is_own = closest(turn.heard, self.questions) == self._number
            self.findings.expect("transcript of the question", is_own, turn.heard)
        turn.sound = b""

    async def _between(self, call: Call) -> None:
        await super()._between(call)
        self._num_asides += 1
        sentence = SENTENCES[self._number]
        answer = call.listener.expect_aside()
        response = {
            "conversation": "none",
            "input": [],
            "instructions": f'Say exactly: "{sentence}"',
        }
        await call.send("response.create", response=response)
        if not await call.wait(answer.done):
            self.findings.wrong.append("a sentence was not spoken in time")
            return
        self.findings.expect(
            "text of the sentence", answer.text == sentence, f"{answer.text!r} for {sentence!r}"
        )
        if self._num_asides % 3 == 1 and answer.sound:
            heard = await asyncio.to_thread(transcribe, self._target, bytes(answer.sound))
            is_own = closest(heard, SENTENCES) == self._number
            self.findings.expect("sound of the sentence", is_own, f"{heard!r} for {sentence!r}")


def anonymous_mb(pid: int) -> float:
    """Memory of a process that is not mapped from files: those pages come and go with the load."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1000


class SoakMeter(Meter):
    """Samples memory of the server's process, and open sessions from its metrics."""

    def __init__(self, target: Target, pid: int, findings: Findings) -> None:
        started = time.monotonic()

        def read() -> tuple[float, float] | None:
            try:
                text = target.read("/metrics").decode()
            except OSError:
                return None
            found = read_metrics(text)
            at = time.monotonic() - started
            findings.active.append((at, active_sessions(text)))
            findings.memory.append((at, anonymous_mb(pid)))
            return found

        super().__init__(read)


def active_sessions(metrics: str) -> float:
    """Open sessions that a page of metrics tells."""
    lines = [line.split() for line in metrics.splitlines()]
    return next(float(line[1]) for line in lines if line[0] == "stepaudio_sessions_active")


def growth(memory: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Memory in MB behind the warm-up and at the end, and its growth in percent."""
    length = memory[-1][0]
    begin, end = length * WARM_UP, length * (1 - WINDOW)
    first = np.median([mb for at, mb in memory if begin <= at < begin + length * WINDOW])
    last = np.median([mb for at, mb in memory if at >= end])
    return float(first), float(last), float(100 * (last - first) / first)


# ---- the server --------------------------------------------------------------------------------


def start_server(sessions: int, log: Path) -> tuple[subprocess.Popen[bytes], Target]:
    """A server of its own on a free port, ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "stepaudio_streaming.cli", "--port", str(port)]
    command += ["--max-sessions", str(sessions), "--threads", "1"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    target = Target(http=f"http://127.0.0.1:{port}", model="nano")
    for _ in range(600):
        try:
            target.read("/readyz")
            return process, target
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.5)
    raise SystemExit(f"the server did not start; see {log}")


async def free_slots(
    target: Target, recordings: Any, args: argparse.Namespace, findings: Findings
) -> None:
    """All slots are free again: the gauge says so, and as many sessions get an answer each."""
    left = 1.0
    for _ in range(int(args.patience)):
        left = active_sessions(target.read("/metrics").decode())
        if not left:
            break
        await asyncio.sleep(1.0)
    findings.expect("slots free behind the end", not left, f"{left:g} sessions are open")
    speaker = SpeakerOptions(turns=1, answer_timeout_s=args.patience, silence_s=args.silence)
    options = BenchOptions(sessions=args.sessions, speaker=speaker)
    report = await measure(target, recordings, options, Meter(lambda: None))
    findings.expect(
        "answers from all slots at once",
        len(report.answered) == args.sessions,
        str(report.counts()),
    )


# ---- results -----------------------------------------------------------------------------------


def write_report(report: Report, findings: Findings, args: argparse.Namespace, log: str) -> None:
    """Markdown and picture."""
    first, last, percent = growth(findings.memory)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    checks = "\n".join(f"| {what} | {number} |" for what, number in findings.checks.items())
    wrong = "\n".join(f"* {line}" for line in findings.wrong) or "Nothing was wrong."
    tracebacks = log.count("Traceback")
    command = " ".join(["python benchmarks/realtime_soak.py", *sys.argv[1:]])
    text = f"""# Soak of the realtime server

`{command}`, commit {commit}, Python {platform.python_version()}, {os.cpu_count()} cores, load
averages at the end {load}, nano, one thread of the model. {args.sessions} speakers and as many
slots; {100 * args.barge_in:.0f} % of the answers are interrupted, in {100 * args.kill:.0f} % of the
turns the client dies. Where the load is above the number of cores, other programs took most of
them, and the latencies below say nothing about the server: the run is about leaks, stuck slots and
mixed-up sessions.

| | |
|---|---|
| anonymous memory behind the warm-up | {first:.0f} MB |
| at the end | {last:.0f} MB |
| growth (goal < 2 %) | {percent:+.2f} % |
| events of other sessions | {report.tally.counts["foreign events"]} |
| tracebacks in the server's log | {tracebacks} |

| checked | times |
|---|---|
{checks}

{wrong}

```
{report.table()}
```

![memory and sessions]({args.out.with_suffix(".png").name})
"""
    write_text_atomic(args.out, text)
    print(text)
    draw(findings, args.out.with_suffix(".png"))


def draw(findings: Findings, path: Path) -> None:
    """Memory and open sessions over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    upper.plot(*zip(*findings.memory, strict=True))
    upper.set(ylabel="anonymous memory, MB", title="Realtime server under load")
    upper.grid(alpha=0.3)
    lower.plot(*zip(*findings.active, strict=True), drawstyle="steps-post", lw=0.8)
    lower.set(xlabel="s", ylabel="open sessions")
    lower.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    write_bytes_atomic(path, picture.getvalue())


def main() -> int:
    """Run; status 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--sessions", type=int, default=4, choices=range(1, 5))
    parser.add_argument("--barge-in", type=float, default=0.3)
    parser.add_argument("--kill", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=120, help="seconds for an answer")
    parser.add_argument(
        "--silence", type=float, help="seconds of silence sent behind a question; default: all"
    )
    parser.add_argument("--out", type=Path, required=True, help="Markdown; the picture lies beside")
    args = parser.parse_args()
    recordings: tuple[Recording, ...] = tuple(
        max(load_recording(ROOT / f"examples/audio/{name}.ogg"), key=lambda r: r.duration_s)
        for name in QUESTIONS
    )
    log = args.out.with_suffix(".log")
    process, target = start_server(args.sessions, log)
    findings = Findings()
    try:
        SoakSpeaker.findings = findings
        SoakSpeaker.questions = tuple(
            transcribe(target, (np.clip(r.samples, -1, 1) * 32767).astype("<i2").tobytes())
            for r in recordings
        )
        print(*SoakSpeaker.questions, sep="\n", flush=True)
        session = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
        speaker = SpeakerOptions(
            turns=None, barge_in=args.barge_in, kill=args.kill, session=session, keeps_sound=True,
            answer_timeout_s=args.patience, silence_s=args.silence,
        )  # fmt: skip
        options = BenchOptions(
            sessions=args.sessions, duration_s=60 * args.minutes, seed=args.seed, speaker=speaker
        )
        meter = SoakMeter(target, process.pid, findings)
        report = asyncio.run(measure(target, recordings, options, meter, make_speaker=SoakSpeaker))
        asyncio.run(free_slots(target, recordings, args, findings))
    finally:
        process.terminate()
        process.wait(300)
    write_report(report, findings, args, log.read_text(encoding="utf-8", errors="replace"))
    _, _, percent = growth(findings.memory)
    return int(bool(findings.wrong) or percent >= 2)


if __name__ == "__main__":
    sys.exit(main())
