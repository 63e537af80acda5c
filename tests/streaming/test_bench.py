"""stepaudio-bench against a real server on a loopback socket, with a scripted engine behind it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from stepaudio.errors import AudioLoadError, ConfigError, StepAudioError
from stepaudio_streaming.bench.cli import build_parser, main
from stepaudio_streaming.bench.listener import Listener
from stepaudio_streaming.bench.player import Player
from stepaudio_streaming.bench.recordings import FRAME, RATE, cut_recordings, load_recordings
from stepaudio_streaming.bench.report import spread
from stepaudio_streaming.bench.run import BenchOptions, measure
from stepaudio_streaming.bench.speaker import SpeakerOptions
from stepaudio_streaming.bench.target import parse_target
from stepaudio_streaming.bench.usage import Meter, build_meter, read_metrics, read_smi
from tests.streaming.scripted_engine import Line, ScriptedEngine
from tests.streaming.serving import serving

KEY = "sk-bench"
LONG = Line(words=("word ",) * 20, word_ms=200, pace_s=0.1)


def voice(*parts: float) -> np.ndarray:
    """Noise of so many seconds; what is negative is silence."""
    rng = np.random.default_rng(0)
    pieces = [
        rng.uniform(-0.5, 0.5, int(RATE * s)) if s > 0 else np.zeros(int(-RATE * s)) for s in parts
    ]
    return np.concatenate(pieces).astype(np.float32)


def question(seconds: float = 0.3) -> Any:
    return tuple(cut_recordings("q", voice(-0.1, seconds, -0.1)))


# ---- recordings and players ----------------------------------------------------------------------


def test_questions_are_cut_at_pauses() -> None:
    first, second = cut_recordings("a", voice(-0.5, 1.0, -0.1, 1.0, -0.5, 0.9, -0.3, 0.2))
    assert (first.name, second.name) == ("a (1)", "a (2)")
    assert first.duration_s == pytest.approx(2.1, abs=0.05)
    assert second.duration_s == pytest.approx(0.9, abs=0.05)
    assert first.onset == 2 and first.end == len(first.messages) - 3
    assert len(first.samples) == FRAME * len(first.messages)
    (short,) = cut_recordings("b", voice(-0.5, 0.2))
    assert short.duration_s == pytest.approx(0.2, abs=0.05)
    for silent in (np.zeros(RATE, np.float32), np.zeros(0, np.float32)):
        with pytest.raises(AudioLoadError, match="no speech"):
            cut_recordings("c", silent)


def test_the_package_has_something_to_say_and_needs_no_torch() -> None:
    assert all(recording.duration_s > 0.5 for recording in load_recordings([]))
    code = (
        "import sys; import stepaudio_streaming.bench.run, stepaudio_streaming.bench.plot as p;"
        "from stepaudio_streaming.bench.recordings import load_recordings as l; l([]);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_player_runs_dry_when_sound_is_late() -> None:
    player = Player()
    player.receive(100, 10.0)
    player.receive(100, 10.05)
    assert player.underruns == 0 and player.ends_at == pytest.approx(10.2)
    player.receive(100, 10.5)
    assert player.underruns == 1 and player.underrun_s == pytest.approx(0.3)
    assert player.played_ms(10.55) == pytest.approx(250)
    assert player.stop(10.55) == pytest.approx(250) == pytest.approx(player.played_ms(99.0))


def test_percentiles() -> None:
    found = spread([float(number) for number in range(101)])
    assert found is not None and (found.n, found.p50, found.p95, found.p99, found.max) == (
        101, 50.0, 95.0, 99.0, 100.0,
    )  # fmt: skip
    assert spread([]) is None


def test_what_a_server_uses() -> None:
    text = "process_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 2e+09\n"
    assert read_metrics(text) == (1.5, 2e9) and read_metrics("x 1") is None
    assert read_smi("37, 1024\n5, 6\n") == (0.37, 1024.0)
    assert read_smi("") is None and read_smi("[N/A], x") is None


def test_addresses() -> None:
    for given, http, realtime in (
        ("host:1", "http://host:1", "ws://host:1/v1/realtime?model=m"),
        ("wss://host/v1/realtime", "https://host", "wss://host/v1/realtime?model=m"),
        ("https://host/api/", "https://host", "wss://host/api/realtime?model=m"),
    ):
        target = parse_target(given, model="m")
        assert (target.http, target.realtime) == (http, realtime)
    with pytest.raises(ConfigError, match="no address"):
        parse_target("ftp://host")


# ---- what a listener makes of events -------------------------------------------------------------


def created(response_id: str, conversation: str | None = "conv") -> dict[str, Any]:
    response = {"id": response_id, "conversation_id": conversation}
    return {"type": "response.created", "response": response}


def sound(response_id: str) -> dict[str, Any]:
    kind = "response.output_audio.delta"
    return {"type": kind, "response_id": response_id, "item_id": "i", "delta": "AAAA"}


def test_events_of_other_sessions_are_noticed() -> None:
    async def main() -> None:
        from collections import Counter

        counts: Counter[str] = Counter()
        listener = Listener(counts)
        answer = listener.expect()
        listener.hear(created("r1"), 1.0)
        listener.hear(sound("r1"), 2.0)
        listener.hear(sound("r2"), 3.0)
        assert counts == {"foreign events": 1} and answer.last_at == 2.0

    asyncio.run(main())


def test_an_answer_to_a_pause_within_the_question_does_not_count() -> None:
    async def main() -> None:
        from collections import Counter

        listener = Listener(Counter())
        answer = listener.expect()
        listener.hear(created("early"), 1.0)
        listener.hear(sound("early"), 1.5)
        listener.hear(created("aside", None), 1.7)
        listener.hear(created("real"), 2.0)
        listener.hear(sound("early"), 2.5)
        listener.hear(sound("real"), 3.0)
        assert answer.first_at == 3.0 and answer.response_id == "real"

    asyncio.run(main())


# ---- against a server ----------------------------------------------------------------------------


def run(server: Any, recordings: Any = None, *, sessions: int = 1, **speaker: Any) -> Any:
    target = parse_target(server.http, model="nano")
    options = BenchOptions(sessions=sessions, speaker=SpeakerOptions(pause_s=0.05, **speaker))
    return asyncio.run(
        measure(target, recordings or question(), options, build_meter(target, os.getpid()))
    )


def test_speakers_hear_answers() -> None:
    line = Line(words=("Hello", " there."), word_ms=100, pace_s=0.15)
    with serving(ScriptedEngine((line,))) as server:
        report = run(server, sessions=3, turns=2)
        assert server.engine.num_open == 0
    turns = report.tally.turns
    assert len(turns) == 6 and {turn.status for turn in turns} == {"completed"}
    for turn in turns:
        # The end of a turn is half a second of silence, in real time.
        assert turn.vad_wait_s > 0.4 and turn.first_audio_s > turn.vad_wait_s
        assert turn.audio_s == pytest.approx(0.2) and turn.said == "Hello there."
        # The second word comes 50 ms after the first has been played.
        assert turn.underruns == 1 and turn.underrun_s > 0.01
    counts = report.counts()
    assert counts["answers completed"] == 6 and counts["answers with an underrun"] == 6
    assert "foreign events" not in counts
    measured = report.as_json()["measured"]
    assert measured["first audio after the end of speech, ms"]["n"] == 6
    assert measured["server: memory, MB"]["p50"] > 10
    assert "first audio after the end of turn, ms" in report.table()


def test_interruptions_stop_the_sound() -> None:
    with serving(ScriptedEngine((LONG,))) as server:
        report = run(server, turns=3, barge_in=1.0)
    turns = report.tally.turns
    assert [turn.was_interrupted for turn in turns] == [True] * 3
    assert {turn.status for turn in turns} == {"cancelled"}
    for turn in turns:
        assert turn.was_being_made and turn.told_s is not None and turn.stop_s is not None
        # Nothing of the old answer is sent behind what the engine has heard as speech.
        assert turn.stop_s <= turn.told_s
    assert not any("errors" in name for name in report.counts())


def test_clients_that_die_come_back() -> None:
    with serving(ScriptedEngine(max_sessions=1)) as server:
        report = run(server, turns=2, kill=1.0)
        assert len(server.engine.sessions) == 2
    assert report.tally.counts["killed clients"] == 2
    assert all(turn.is_killed for turn in report.tally.turns)
    assert len(report.tally.connects) == 2


def test_chance_follows_from_the_seed() -> None:
    assert Random("3-1").random() == Random("3-1").random() != Random("4-1").random()


def test_more_speakers_than_sessions_is_an_error_with_a_remedy() -> None:
    with serving(max_sessions=1) as server:
        target = parse_target(server.http, model="gpt-2")
        options = BenchOptions(speaker=SpeakerOptions(turns=1))
        with pytest.raises(StepAudioError, match="status 404"):
            asyncio.run(measure(target, question(), options, Meter(lambda: None)))


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    keys, out, plot = tmp_path / "keys", tmp_path / "out.json", tmp_path / "out.png"
    keys.write_text(f"# mine\n{KEY}\n")
    audio = str(Path(__file__).parents[2] / "examples/audio/us_female_2.ogg")
    with serving(api_keys=(KEY,)) as server:
        command = ["realtime", server.http, "--turns", "1", "--audio", audio]
        assert main(command) == 1
        assert "wrong or no key" in capsys.readouterr().err
        command += ["--api-key-file", str(keys), "--json", str(out), "--plot", str(plot)]
        assert main(command) == 0
    printed = capsys.readouterr().out
    assert "answers completed: 1" in printed and KEY not in printed
    written = json.loads(out.read_text())
    assert written["about"]["model"] == "nano" and KEY not in out.read_text()
    assert len(written["turns"]) == 1 and written["turns"][0]["status"] == "completed"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_command_prints_what_it_has() -> None:
    with serving(ScriptedEngine((Line(),))) as server:
        audio = str(Path(__file__).parents[2] / "examples/audio/us_female_2.ogg")
        command = [sys.executable, "-m", "stepaudio_streaming.bench.cli", "realtime", server.http]
        command += ["--duration", "600", "--audio", audio]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            # Two answers: the first may be waited for by the test itself.
            while len(server.engine.sessions) < 1 or server.engine.sessions[0]._num_replies < 2:
                assert process.poll() is None
                asyncio.run(asyncio.sleep(0.05))
            process.send_signal(signal.SIGINT)
            try:
                printed, _ = process.communicate(timeout=60)
            finally:
                process.kill()
    assert process.returncode == 130
    assert "answers completed: " in printed and "interrupted by the user: 1" in printed


def test_wrong_arguments(tmp_path: Path, capsys: Any) -> None:
    for wrong in (["--sessions", "0"], ["--barge-in", "2"], ["--duration", "-1"]):
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args(["realtime", *wrong])
        assert ended.value.code == 2
    capsys.readouterr()
    for arguments, message in (
        (["http://127.0.0.1:9"], "does the server run?"),
        (["--audio", str(tmp_path / "none.wav")], "none.wav"),
        (["--json", str(tmp_path / "no" / "x.json")], "no folder"),
        (["http://127.0.0.1:9", "--model", "nano"], "no session"),
        (["--model", "m", "--pid", "999999999"], "--pid"),
    ):
        assert main(["realtime", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error and len(error.splitlines()) == 1
