"""A small random checkpoint of every part that a reading voice has; what it says is noise."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepaudio.models.adapters import (
    ADAPTER_FOLDER,
    LoraConfig,
    adapter_of,
    inject_lora,
    save_adapter,
)
from stepaudio.models.checkpoint import save_checkpoint
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.models.token2wav.folder import save_parts
from stepaudio.text.ngram import NUM_RESERVED, train_ngrams
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.word_model import WordModel
from stepaudio_recipes.lexicon import PHONES
from stepaudio_recipes.tokenizer import save_tokenizer, train_tokenizer
from tests.unit.models.token2wav.parts import CODEBOOK, small_parts

_TEXTS = "the quick brown fox jumps over a lazy dog while seven wizards hum very odd jazz tunes"
_SPOKEN = {
    "hello": "HH AH L OW",
    "the": "DH AH",
    "dog": "D AO G",
    "two": "T UW",
    "dogs": "D AO G Z",
}
SPEECH = {
    "reading": "phones",
    "given_text": True,
    "adapter": "tts",
    "voices": ["kathleen"],
    "styles": {"slowly": 1.3, "quickly": 0.8, "cheerful": 1.0},
    # A text token of this tokenizer is about a letter, and takes a group of codes.
    "seconds_a_phone": 0.18,
}


def word_model() -> WordModel:
    phones = [pronunciation.split() for pronunciation in _SPOKEN.values()]
    return WordModel(
        tuple(_SPOKEN),
        tuple(PHONES),
        np.ones(len(phones), np.uint8),
        np.array(list(map(len, phones)), np.uint8),
        np.array([1 + PHONES.index(p) for word in phones for p in word], np.uint8),
        train_ngrams([[3, 4]] * 3, NUM_RESERVED + len(phones), largest_word=9),
    )


def speaking_checkpoint(folder: Path, *, with_parts: bool = True, **config: Any) -> Path:
    """Write a checkpoint that reads aloud.

    Args:
        folder: where to.
        with_parts: also write what turns audio codes into sound.
        **config: further fields of the configuration.
    """
    tokenizer = train_tokenizer([_TEXTS] * 3, num_text_tokens=280, num_codes=CODEBOOK)
    save_tokenizer(tokenizer, folder)
    tokens = TextTokenizer.from_folder(folder)
    vocab = tokens.vocab
    configs = Path(str(files("stepaudio_recipes"))) / "configs" / "pretrain"
    values = json.loads((configs / "tiny_model.json").read_text())
    values["text_config"] |= {
        "vocab_size": tokens.num_tokens,
        "eos_token_id": list(vocab.stop_ids),
        "pad_token_id": vocab.pad,
        "initializer_range": 0.2,
    }
    values |= {
        "audio_start_token_id": vocab.audio_start,
        "audio_patch_token_id": vocab.audio_patch,
        "modes": ["asr", "tts"],
        "speech": SPEECH,
        "prompts": {"tts": "read this aloud"},
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    model = StepAudio2ForCausalLM(StepAudioConfig(**(values | config)))
    with torch.no_grad():
        # Behind the text it ends as often as it goes on.
        model.lm_head.weight[[vocab.tts_end, vocab.tts_pad]] = 0.0
    save_checkpoint(model, folder)
    word_model().save(folder)
    lora = LoraConfig(rank=2, alpha=2.0)
    inject_lora(model.model, lora)
    for parameter in adapter_of(model.model, lora).tensors.values():
        torch.nn.init.normal_(parameter, std=0.2)
    save_adapter(adapter_of(model.model, lora), folder / ADAPTER_FOLDER / "tts")
    if with_parts:
        save_parts(folder / "token2wav", small_parts())
    return folder
