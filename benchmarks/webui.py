"""First paint of the web demo, and what its page adds to the engine's own first sound.

Peer of every turn of the page is the same turn of a bare WebSocket client of the same process,
taken alternately: typed turns (from sending the text to the first sound) and spoken turns (from
the end of the speech to the first sound). The page's first sound is what its audio thread plays,
the bare client's is the first piece that arrives.

    python benchmarks/webui.py --turns 6 --output benchmarks/2026-11-26-webui.md
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
import soxr
from playwright.sync_api import Browser, Page, sync_playwright
from websockets.sync.client import ClientConnection, connect

from stepaudio.audio.io import load_audio

RATE = 24_000
MICROPHONE_RATE = 48_000
CHUNK_S = 0.04
SILENCE_MS = 500
TEXT = "what is your name"
SPEECH = Path(__file__).parent.parent / "examples" / "audio" / "us_female_1.ogg"
TALK = "document.querySelector('stepaudio-voice').conversation"
PATIENCE_S = 120.0


def speech() -> np.ndarray:
    """A pause, 3 s of a voice, a pause, float32 at 24 kHz."""
    samples = load_audio(SPEECH).samples.numpy()[: 3 * 16_000]
    pause = np.zeros(RATE // 2, np.float32)
    return np.concatenate([pause, soxr.resample(samples, 16_000, RATE), pause, pause, pause])


# ---- the bare client -----------------------------------------------------------------------------


def bare_turn(url: str, sound: np.ndarray | None) -> float:
    """Milliseconds until the first sound of one turn in a new session."""
    address = url.replace("http", "ws") + "/v1/realtime?model=nano"
    with connect(address, max_size=None, compression=None) as client:
        configure(client)
        if sound is not None:
            return spoken_turn(client, sound)
        since = type_text(client)
        receive(client, "response.output_audio.delta")
        return 1000 * (time.perf_counter() - since)


def spoken_turn(client: ClientConnection, sound: np.ndarray) -> float:
    """Milliseconds from the end of the speech in `sound` to the first sound of the answer."""
    started = time.perf_counter()
    sender = threading.Thread(target=say, args=(client, sound, started))
    sender.start()
    stopped = receive(client, "input_audio_buffer.speech_stopped")
    receive(client, "response.output_audio.delta")
    heard = time.perf_counter()
    sender.join()
    return 1000 * (heard - started) - (stopped["audio_end_ms"] - SILENCE_MS)


def configure(client: ClientConnection) -> None:
    """The session of the page, apart from persona and tools."""
    detection = {"type": "server_vad", "silence_duration_ms": SILENCE_MS}
    audio = {"input": {"transcription": {}, "turn_detection": detection}}
    send(client, "session.update", session={"type": "realtime", "audio": audio})
    receive(client, "session.updated")


def type_text(client: ClientConnection) -> float:
    """Send the text; returns when."""
    content = [{"type": "input_text", "text": TEXT}]
    item = {"type": "message", "role": "user", "content": content}
    send(client, "conversation.item.create", item=item)
    send(client, "response.create")
    return time.perf_counter()


def say(client: ClientConnection, sound: np.ndarray, started: float) -> None:
    """Send sound as fast as it is spoken."""
    size = int(CHUNK_S * RATE)
    for index, start in enumerate(range(0, len(sound), size)):
        time.sleep(max(0.0, started + (index + 1) * CHUNK_S - time.perf_counter()))
        pcm = (sound[start : start + size] * 32767).astype("<i2").tobytes()
        send(client, "input_audio_buffer.append", audio=base64.b64encode(pcm).decode())


def send(client: ClientConnection, kind: str, **fields: Any) -> None:
    """Send an event."""
    client.send(json.dumps({"type": kind, **fields}))


def receive(client: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of a type."""
    while True:
        event: dict[str, Any] = json.loads(client.recv(PATIENCE_S))
        if event["type"] == "error":
            raise SystemExit(f"the server refuses: {event['error']['message']}")
        if event["type"] == kind:
            return event


# ---- the page ------------------------------------------------------------------------------------


def page_turn(page: Page, *, spoken: bool) -> float:
    """Milliseconds until the page's first sound of one turn in a new session."""
    page.evaluate(f"() => {TALK}.clear()")
    page.evaluate(f"() => {TALK}.connect()")
    page.wait_for_timeout(300)
    if spoken:
        page.evaluate(f"() => {TALK}.listen()")
    else:
        page.evaluate(f"(text) => {TALK}.say(text)", TEXT)
    page.wait_for_function(f"() => {TALK}.turns.all.some((turn) => turn.latencyMs)")
    latency = page.evaluate(f"() => {TALK}.turns.all.find((turn) => turn.latencyMs).latencyMs")
    if spoken:
        page.evaluate(f"() => {TALK}.stopListening()")
    page.wait_for_function(f"() => !{TALK}.player.isBusy && !{TALK}.response")
    return float(latency)


def paints(browser: Browser, url: str, times: int) -> list[tuple[float, float]]:
    """Milliseconds until first content, and until the tab can be read; caches are cold."""
    found = []
    for _ in range(times):
        context = browser.new_context()
        page = context.new_page()
        started = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.wait_for_selector("stepaudio-voice .state")
        shown = 1000 * (time.perf_counter() - started)
        first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        found.append((first, shown))
        context.close()
    return found


# ---- everything ----------------------------------------------------------------------------------


def measure(url: str, turns: int, paint_runs: int) -> dict[str, list[float]]:
    """All numbers in milliseconds, by their names."""
    sound = speech()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "microphone.wav"
        soundfile.write(file, soxr.resample(sound, RATE, MICROPHONE_RATE), MICROPHONE_RATE)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={file}%noloop",
            ],
        )
        wait_ready(url)
        painted = paints(browser, url, paint_runs)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(url)
        page.wait_for_selector("stepaudio-voice .mic:not([disabled])")
        found: dict[str, list[float]] = {
            "first content": [first for first, _ in painted],
            "tab readable": [shown for _, shown in painted],
        }
        sources: Sequence[tuple[str, Callable[[], float]]] = (
            ("typed, bare", lambda: bare_turn(url, None)),
            ("typed, page", lambda: page_turn(page, spoken=False)),
            ("spoken, bare", lambda: bare_turn(url, sound)),
            ("spoken, page", lambda: page_turn(page, spoken=True)),
        )
        for turn in range(turns):
            for name, take in sources:
                found.setdefault(name, []).append(take())
                print(f"turn {turn + 1}, {name}: {found[name][-1]:.0f} ms", file=sys.stderr)
        browser.close()
    return found


def wait_ready(url: str) -> None:
    """Wait until the model can converse."""
    while (state := httpx.get(f"{url}/voice/status").json())["chat"] == "loading":
        time.sleep(0.5)
    if state["chat"] == "failed":
        raise SystemExit(state["chat_problem"] or state["problem"])


def report(found: dict[str, list[float]]) -> str:
    """Table of all numbers, and what the page adds."""
    lines = ["| what | median ms | all |", "|---|---|---|"]
    for name, values in found.items():
        every = ", ".join(f"{value:.0f}" for value in values)
        lines.append(f"| {name} | {statistics.median(values):.0f} | {every} |")
    for kind in ("typed", "spoken"):
        pairs = zip(found[f"{kind}, page"], found[f"{kind}, bare"], strict=True)
        added = [page - bare for page, bare in pairs]
        lines.append(f"| {kind}: the page adds | {statistics.median(added):.0f} | paired |")
    return "\n".join(lines) + "\n"


def heading(args: argparse.Namespace) -> str:
    """What was measured where."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    load = Path("/proc/loadavg").read_text().split()[0]
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    cpu = model.group(1) if model else "unknown CPU"
    cores = len(re.findall(r"^processor", Path("/proc/cpuinfo").read_text(), re.M))
    return (
        f"# Web demo, {date.today()}\n\n`python benchmarks/webui.py --turns {args.turns}`, commit "
        f"{commit}, {cores} cores of {cpu}, load average {load} before the run.\n\n"
    )


def main() -> None:
    """Start the page, measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--paints", type=int, default=5)
    parser.add_argument("--output", type=Path, help="Markdown file of the results")
    args = parser.parse_args()
    title = heading(args)
    command = [sys.executable, "-m", "stepaudio_webui.cli", "--port", "0"]
    started = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "open http" in line)
            listening_s = time.perf_counter() - started
            url = re.search(r"http://\S+", line).group()  # type: ignore[union-attr]
            found = measure(url, args.turns, args.paints)
        finally:
            process.terminate()
    text = f"{title}Listening {listening_s:.1f} s after the start of the process.\n\n"
    text += report(found)
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
