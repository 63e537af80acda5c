"""Time to the first sound of the streaming engine, on a clock that counts processor time only.

The engine's core is driven by one thread whose clock goes on by the processor time of its steps,
and jumps while there is nothing to do: what comes out is what one free core would do, however
busy the machine is. Users ask the same question, in step or one after the other.

    python benchmarks/streaming_engine.py --model nano --sessions 1 4
"""

from __future__ import annotations

import argparse
import heapq
import time
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch

from stepaudio.audio.resample import resample
from stepaudio.tasks.step_audio import StepAudio
from stepaudio_streaming.engine.core import EngineCore
from stepaudio_streaming.engine.loading import EngineOptions, load_engine
from stepaudio_streaming.events import (
    AppendAudio,
    CommitAudio,
    Configure,
    Event,
    OutputAudio,
    OutputFinished,
    ReplyOptions,
    Respond,
    SpeechStopped,
    TurnDetection,
)
from stepaudio_streaming.playback import PlaybackClock

FRAME_S = 0.02


@dataclass
class Machine:
    """Core and clock."""

    core: EngineCore
    now: float = 0.0
    due: list[tuple[float, int, User, np.ndarray]] = field(default_factory=list)
    order: count[int] = field(default_factory=count)

    def spend(self, started: float) -> None:
        """The clock goes on by the processor time since `started`."""
        self.now += time.process_time() - started

    def run(self, until: float) -> None:
        """Make steps until then."""
        while self.now < until:
            while self.due and self.due[0][0] <= self.now:
                _, _, user, samples = heapq.heappop(self.due)
                started = time.process_time()
                user.hear(samples)
                self.spend(started)
            started = time.process_time()
            plan = self.core.step(self.now)
            self.spend(started)
            if plan.is_empty:
                times = [until, *(t for t in (plan.wake_at,) if t is not None)]
                times += [self.due[0][0]] if self.due else []
                self.now = max(self.now, min(times))


@dataclass
class User:
    """Somebody who asks once and listens."""

    machine: Machine
    number: int
    options: ReplyOptions
    stopped_at: float = 0.0
    first_s: float | None = None
    underrun_s: float = 0.0
    is_done: bool = False
    asked: bool = False
    end_ms: int = 0
    player: PlaybackClock = field(default_factory=PlaybackClock)

    def speak(self, samples: np.ndarray, at: float) -> None:
        """Say something, in real time."""
        step = int(16_000 * FRAME_S)
        for index in range(0, len(samples), step):
            when = at + (index + step) / 16_000
            entry = (when, next(self.machine.order), self, samples[index : index + step])
            heapq.heappush(self.machine.due, entry)

    def hear(self, samples: np.ndarray) -> None:
        """The engine hears the next frame; the gateway reacts to what it has told."""
        self.machine.core.obey(self.number, AppendAudio(samples), self.machine.now)
        if self.stopped_at and self.first_s is None and not self.asked:
            self.asked = True
            for command in (
                CommitAudio("turn", self.end_ms),
                Respond(response_id="r", item_id="a", options=self.options),
            ):
                self.machine.core.obey(self.number, command, self.machine.now)

    def told(self, event: Event) -> None:
        """The engine tells something."""
        now = self.machine.now
        if isinstance(event, SpeechStopped) and not self.stopped_at:
            self.stopped_at, self.end_ms = now, event.audio_ms
        elif isinstance(event, OutputAudio):
            if self.first_s is None:
                self.first_s = now - self.stopped_at
            elif now > self.player.ends_at:
                self.underrun_s += now - self.player.ends_at
            self.player.send(len(event.samples) / 24, now)
        elif isinstance(event, OutputFinished):
            self.is_done = True


def measure(machine: Machine, question: np.ndarray, num_users: int, apart_s: float) -> list[User]:
    """Let users ask, each so much later than the one before."""
    options = ReplyOptions(voice="kathleen")
    settings = Configure(
        turn_detection=TurnDetection(), transcription=None, noise_reduction=None, reply=options
    )
    users = [User(machine, number, options) for number in range(num_users)]
    begin = machine.now
    for index, user in enumerate(users):
        machine.core.open(user.number, settings, user.told)
        user.speak(question, begin + index * apart_s)
    while not all(user.is_done for user in users):
        machine.run(machine.now + 0.5)
    machine.due.clear()
    for user in users:
        machine.core.close(user.number)
    return users


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--question", default="hello how are you today")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = StepAudio.from_pretrained(args.model, device="cpu")
    core = load_engine(model, EngineOptions(), name="nano").core
    machine = Machine(core)
    spoken = model.tts(args.question)
    question = resample(spoken.samples, spoken.sample_rate, 16_000).numpy()
    silence = np.zeros(8000, np.float32)
    question = np.concatenate([silence, question, *[silence] * 60])
    for num_users in args.sessions:
        for apart_s in (0.0, 0.4) if num_users > 1 else (0.0,):
            firsts, underruns = [], []
            for _ in range(args.repeats):
                users = measure(machine, question, num_users, apart_s)
                firsts += [1000 * user.first_s for user in users if user.first_s is not None]
                underruns += [1000 * user.underrun_s for user in users]
            print(
                f"{num_users} sessions, {1000 * apart_s:.0f} ms apart: first sound after the end "
                f"of turn p50 {np.percentile(firsts, 50):.0f} ms, p95 "
                f"{np.percentile(firsts, 95):.0f} ms; underrun p95 "
                f"{np.percentile(underruns, 95):.0f} ms"
            )


if __name__ == "__main__":
    main()
