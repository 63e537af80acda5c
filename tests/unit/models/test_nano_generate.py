"""nano in transformers' own `generate()`."""

from pathlib import Path

import torch

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.io import load_audio
from stepaudio.models.checkpoint import load_pretrained
from stepaudio.models.processor import StepAudioProcessor
from stepaudio.tasks.asr import Transcriber


def test_it_writes_the_text_of_greedy_decoding_and_no_audio_tokens(examples: Path) -> None:
    model, tokenizer = load_pretrained("nano", device="cpu")
    config = model.config
    processor = StepAudioProcessor(tokenizer, config.audio_encoder_config, config.prompts)
    wav = load_audio(examples / "learner_child.ogg").samples
    messages = [
        {"role": "system", "content": config.prompts["asr"]},
        {"role": "user", "content": [{"type": "audio"}]},
    ]
    inputs = processor(messages, audio=[wav], sampling_rate=SAMPLE_RATE)
    with torch.inference_mode():
        ids = model.eval().generate(**inputs, do_sample=False, max_new_tokens=60)
    text = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :].tolist()).strip()
    assert text == Transcriber(model, tokenizer, decoding="greedy").transcribe_pieces([wav])[0]
    assert text.startswith("teddy can see")
