"""Speed of speech recognition on a CPU, beside Hugging Face `generate()` on the same tensors.

    python benchmarks/asr_cpu.py [--model nano] [--rounds 5] [--threads 2] [AUDIO ...]

Both sides transcribe the same windows with the same weights, one after the other in every round,
so that a busy machine slows both. "greedy" is mel, encoder, prefill and greedy decoding over the
slot cache; "hf" is the same mel and transformers' `generate()` with its dynamic cache. "default" is
what the model does unless told otherwise, for nano a search over words that the decoder judges;
"file" is that in the whole path of the command line: reading, resampling, voice activity
detection, recognition.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import load_audio, save_audio
from stepaudio.models.checkpoint import load_pretrained
from stepaudio.models.processor import StepAudioProcessor
from stepaudio.tasks.asr import Transcriber

LENGTHS_S = (5, 10, 20, 25)
MAX_NEW_TOKENS = 160


def windows(paths: list[Path]) -> dict[int, torch.Tensor]:
    """One waveform of every length in seconds, cut from the recordings joined in order."""
    speech = torch.cat([load_audio(path).samples for path in paths])
    longest = max(LENGTHS_S) * SAMPLE_RATE
    speech = speech.repeat(longest // len(speech) + 1)
    return {length: speech[: length * SAMPLE_RATE] for length in LENGTHS_S}


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Print the real-time factors of one length a line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("audio", nargs="*", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    paths = args.audio or sorted(Path("examples/audio").glob("*.ogg"))
    model, tokenizer = load_pretrained(args.model, device="cpu")
    model.eval()
    greedy = Transcriber(model, tokenizer, decoding="greedy")
    transcriber = Transcriber.from_pretrained(args.model, device="cpu")
    config = model.config
    processor = StepAudioProcessor(tokenizer, config.audio_encoder_config, config.prompts)

    def hugging_face(wav: torch.Tensor) -> str:
        messages = [
            {"role": "system", "content": config.prompts["asr"]},
            {"role": "user", "content": [{"type": "audio"}]},
        ]
        inputs = processor(messages, audio=[wav], sampling_rate=SAMPLE_RATE)
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        return tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :].tolist()).strip()

    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, {args.model}")
    columns = ("seconds", "greedy", "hf", "hf/greedy", "default", "file", "same text")
    print(" ".join(f"{column:>9}" for column in columns))
    for length, wav in windows(paths).items():
        same = greedy.transcribe_pieces([wav])[0] == hugging_face(wav)
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.wav"
            save_audio(clip, wav)
            calls = {
                "greedy": partial(greedy.transcribe_pieces, [wav]),
                "hf": partial(hugging_face, wav),
                "default": partial(transcriber.transcribe_pieces, [wav]),
                "file": partial(transcriber.transcribe, clip),
            }
            times: dict[str, list[float]] = {name: [] for name in calls}
            for call in calls.values():  # warm up
                call()
            for _ in range(args.rounds):
                for name, call in calls.items():
                    times[name].append(seconds(call))
        ours, hf, default, file = (statistics.median(times[name]) / length for name in calls)
        factors = f"{ours:9.4f} {hf:9.4f} {hf / ours:9.2f} {default:9.4f} {file:9.4f}"
        print(f"{length:9} {factors} {same!s:>9}", flush=True)


if __name__ == "__main__":
    main()
