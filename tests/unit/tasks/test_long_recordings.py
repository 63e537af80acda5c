"""An hour is transcribed in the memory that a minute takes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from stepaudio.audio.io import load_audio

RATE = 16_000
SCRIPT = """
import resource, sys
from stepaudio.audio.vad import EnergyDetector
from stepaudio.models.checkpoint import load_pretrained
from stepaudio.tasks.asr import Transcriber

model, tokenizer = load_pretrained("nano", device="cpu")
transcriber = Transcriber(model, tokenizer, decoding="greedy", detector=EnergyDetector())

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

texts, peaks = [], []
for path in sys.argv[1:]:
    texts.append(transcriber.transcribe(path))
    peaks.append(peak_kib())
segments = list(transcriber.iter_segments(sys.argv[2]))
print(len(texts[1].segments), len(segments), round(texts[1].duration_s))
print(peaks[1] - peaks[0], peak_kib() - peaks[0])
"""


def test_an_hour_needs_no_more_memory_than_a_minute(examples, tmp_path: Path) -> None:
    speech = load_audio(examples / "us_female_2.ogg").samples.numpy()
    minute = np.zeros(60 * RATE, np.float32)
    minute[RATE : RATE + len(speech)] = speech
    soundfile.write(tmp_path / "minute.flac", minute, RATE)
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", RATE, 1) as file:
        for number in range(60):
            file.write(minute if number % 20 == 0 else 0 * minute)
    files = [str(tmp_path / name) for name in ("minute.flac", "hour.flac")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *files], capture_output=True, text=True, check=True
    )
    counts, growth_kib = (list(map(int, line.split())) for line in done.stdout.splitlines())
    assert counts == [3, 3, 3600]
    # Its samples alone would be 225 MiB.
    assert max(growth_kib) < 64 * 1024
