"""Speed of reading aloud on a CPU: whole, streamed, and how streamed sound differs.

    python benchmarks/speech.py [--model nano] [--voice kathleen] [--rounds 5] [--threads 2]

Every round speaks each sentence whole and as a stream, one after the other. "RTF" is seconds of
work for one second of sound, "RTF takes" with as many takes of each sentence as the checkpoint
wants, of which the best is kept; "first" is the time from the call to the first sound of the
stream; "difference" is the largest between the samples of stream and whole, which have the same
codes. The last line is the time to read all adapters and to merge each into a copy of the decoder.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch

from stepaudio.catalog import embedded_folder
from stepaudio.generation.adapters import AdapterSet
from stepaudio.models.hub import checkpoint_folder
from stepaudio.tasks.speech_options import SpeechOptions
from stepaudio.tasks.tts import Synthesizer

SENTENCES = (
    "It is ten past nine.",
    "The museum opens on Tuesday, and tickets cost twelve dollars.",
    "She walked along the river until the lights of the town were out of sight behind the hills.",
)


def adapter_seconds(synthesizer: Synthesizer, folder: Path, rounds: int) -> float:
    """Median time to load and merge all adapters of the checkpoint."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        AdapterSet.load(folder).decoders(synthesizer.model.model)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Print one line a sentence, medians of the rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="nano")
    parser.add_argument("--voice", default="kathleen")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # Without retries and choices both have the same codes.
    synthesizer = Synthesizer.from_pretrained(
        args.model, device="cpu", options=SpeechOptions(retries=0, takes=1)
    )
    chooser = Synthesizer(synthesizer.model, synthesizer.engine)
    for speaker in (synthesizer, chooser):
        speaker.speak(SENTENCES[0], voice=args.voice)
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, {args.model}")
    columns = ("sound s", "RTF", "codes", "sound", "RTF takes", "RTF stream", "first ms")
    columns += ("difference",)
    print(" ".join(f"{column:>10}" for column in columns))
    for sentence in SENTENCES:
        whole, codes, sound, chosen, streamed, first = [], [], [], [], [], []
        difference = 0.0
        for seed in range(args.rounds):
            spoken = synthesizer.speak(sentence, voice=args.voice, seed=seed)
            whole.append(spoken.stats.rtf)
            codes.append(spoken.stats.generation.total_s / spoken.stats.speech_s)
            sound.append(spoken.stats.vocode_s / spoken.stats.speech_s)
            started = time.perf_counter()
            best = chooser.speak(sentence, voice=args.voice, seed=seed)
            chosen.append((time.perf_counter() - started) / best.duration_s)
            started = time.perf_counter()
            stream = synthesizer.stream(sentence, voice=args.voice, seed=seed)
            parts = list(stream)
            seconds = time.perf_counter() - started
            samples = torch.cat(parts)
            streamed.append(seconds * synthesizer.sample_rate / len(samples))
            first.append(1000 * (stream.spoken.stats.first_sound_s or 0.0))
            difference = max(difference, float((samples - spoken.samples).abs().max()))
        medians = [statistics.median(v) for v in (whole, codes, sound, chosen, streamed, first)]
        print(
            f"{len(spoken.samples) / synthesizer.sample_rate:10.2f} {medians[0]:10.3f} "
            f"{medians[1]:10.3f} {medians[2]:10.3f} {medians[3]:10.3f} {medians[4]:10.3f} "
            f"{medians[5]:10.0f} {difference:10.1e}"
        )
    folder = embedded_folder(args.model) or checkpoint_folder(args.model)
    seconds = adapter_seconds(synthesizer, Path(folder), args.rounds)
    print(f"all adapters: {1000 * seconds:.0f} ms")


if __name__ == "__main__":
    main()
