"""Special tokens and id ranges: the only home of token numbers (specification, section 7).

Ids are resolved by token name, so that every vocabulary works: the public one, and the smaller
ones of models trained here, which keep the names and the order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stepaudio.errors import ConfigError

ENDOFTEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
TOOL_CALL = "<tool_call>"
TOOL_CALL_END = "</tool_call>"
EOT = "<|EOT|>"
BOT = "<|BOT|>"
AUDIO_START = "<audio_start>"
AUDIO_END = "<audio_end>"
AUDIO_PATCH = "<audio_patch>"
TTS_START = "<tts_start>"
TTS_END = "<tts_end>"
TTS_PAD = "<tts_pad>"

NUM_AUDIO_CODES = 6561  # codes of the public speech tokenizer; one more token is the audio pad
CODES_PER_GROUP = 4  # speech interleaves one text token with four audio tokens

# Ids that several public sources agree on; the other special tokens are looked up by name only.
PUBLIC_IDS: Mapping[str, int] = {
    ENDOFTEXT: 151643,
    IM_START: 151644,
    IM_END: 151645,
    EOT: 151665,
    AUDIO_START: 151688,
    AUDIO_END: 151689,
    AUDIO_PATCH: 151690,
    TTS_START: 151693,
    TTS_END: 151694,
    TTS_PAD: 151695,
    "<audio_0>": 151696,
}

_QWEN_CONTROL = (
    ENDOFTEXT,
    IM_START,
    IM_END,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Added tokens that stay in decoded text, as in the tokenizer of Qwen2.5.
_QWEN_VISIBLE = (
    TOOL_CALL,
    TOOL_CALL_END,
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
VISIBLE_TOKENS = frozenset(_QWEN_VISIBLE)

_AUDIO_NAME = re.compile(r"<audio_\d+>")
_FIELD_NAMES = {
    "pad": ENDOFTEXT,
    "im_start": IM_START,
    "im_end": IM_END,
    "eot": EOT,
    "bot": BOT,
    "audio_start": AUDIO_START,
    "audio_end": AUDIO_END,
    "audio_patch": AUDIO_PATCH,
    "tts_start": TTS_START,
    "tts_end": TTS_END,
    "tts_pad": TTS_PAD,
}


def audio_token_name(code: int) -> str:
    """Name of the token that stands for an audio code."""
    return f"<audio_{code}>"


def special_token_names() -> list[str]:
    """Every token between the text and ``<audio_0>``, in the public order.

    Public ids whose names no source tells are held by reserved names, so that the distances
    between known tokens are the public ones.
    """
    names = [*_QWEN_CONTROL, *_QWEN_VISIBLE, EOT, BOT]
    first = PUBLIC_IDS[ENDOFTEXT]
    known = {i - first: name for name, i in PUBLIC_IDS.items()}
    for offset in range(len(names), PUBLIC_IDS["<audio_0>"] - first):
        names.append(known.get(offset, f"<|reserved_{first + offset}|>"))
    return names


def audio_token_names(num_codes: int = NUM_AUDIO_CODES) -> list[str]:
    """``<audio_0>`` to the audio pad, ``<audio_6561>`` in the public vocabulary."""
    return [audio_token_name(code) for code in range(num_codes + 1)]


def phone_token_name(phone: str) -> str:
    """Name of the token that stands for a phone in a reading, where a vocabulary has them."""
    return f"<phone_{phone}>"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Ids of one tokenizer's special tokens.

    Attributes:
        pad: ``<|endoftext|>``, padding and the end of a Base model's output.
        eot: end of a message.
        bot: begin of a message.
        audio_start: before the patches of an audio that the model hears.
        audio_end: behind them.
        audio_patch: placeholder that one latent replaces.
        tts_start: begin of speech output.
        tts_end: end of speech output.
        tts_pad: fills text slots of speech whose text has run out.
        audio_0: token of audio code 0; the codes follow.
        num_codes: audio codes that the vocoder can speak. The token behind them pads.
        im_start: begin of a ChatML message; unused by the template.
        im_end: end of a ChatML message, a further stop token.
        tool_call: begin of a tool call, where the tokenizer has one token for it.
        tool_call_end: end of a tool call.
    """

    pad: int
    eot: int
    bot: int
    audio_start: int
    audio_end: int
    audio_patch: int
    tts_start: int
    tts_end: int
    tts_pad: int
    audio_0: int
    num_codes: int = NUM_AUDIO_CODES
    im_start: int | None = None
    im_end: int | None = None
    tool_call: int | None = None
    tool_call_end: int | None = None

    def __post_init__(self) -> None:
        controls = (self.audio_end, self.audio_patch, self.tts_start, self.tts_end, self.tts_pad)
        if not all(self.audio_start < i < self.audio_0 for i in controls):
            raise ConfigError(
                "special tokens are out of order: the audio and tts tokens must lie between "
                f"{AUDIO_START} ({self.audio_start}) and <audio_0> ({self.audio_0})"
            )
        if max(self.pad, self.eot, self.bot) >= self.audio_start:
            raise ConfigError(f"{ENDOFTEXT}, {EOT} and {BOT} must lie before {AUDIO_START}")

    @classmethod
    def from_token_map(cls, token_ids: Mapping[str, int]) -> Vocabulary:
        """Resolve the special tokens of a tokenizer.

        Args:
            token_ids: id of every token, added tokens included.

        Raises:
            ConfigError: tokens are missing, the audio tokens are not consecutive, or a
                vocabulary of the public size has other ids than the public ones.
        """
        num_codes = _num_codes(token_ids)
        audio_names = audio_token_names(num_codes)
        missing = [name for name in _FIELD_NAMES.values() if name not in token_ids]
        missing_audio = [name for name in audio_names if name not in token_ids]
        if missing or missing_audio:
            shown = missing + missing_audio[:3]
            more = f" and {len(missing_audio) - 3} more audio tokens" if missing_audio[3:] else ""
            raise ConfigError(
                f"the tokenizer lacks the special tokens {', '.join(shown)}{more}; "
                "use the tokenizer files of a Step-Audio 2 checkpoint"
            )
        audio_0 = token_ids[audio_names[0]]
        for code, name in enumerate(audio_names):
            if token_ids[name] != audio_0 + code:
                raise ConfigError(
                    f"audio tokens must be consecutive: {name} has id {token_ids[name]}, "
                    f"expected {audio_0 + code}"
                )
        _check_public_ids(token_ids)
        return cls(
            audio_0=audio_0,
            num_codes=num_codes,
            tool_call=token_ids.get(TOOL_CALL),
            tool_call_end=token_ids.get(TOOL_CALL_END),
            **{field: token_ids[name] for field, name in _FIELD_NAMES.items()},
        )

    @property
    def text_size(self) -> int:
        """Ids below this one are text or end a message: the head's rows in text modes."""
        return self.audio_start

    @property
    def size(self) -> int:
        """Rows that an embedding table needs at least."""
        return self.audio_0 + self.num_codes + 1

    @property
    def audio_pad(self) -> int:
        """Token behind the last code; it fills short groups and is never spoken."""
        return self.audio_0 + self.num_codes

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a generation."""
        ids = (self.eot, self.pad) if self.im_end is None else (self.eot, self.pad, self.im_end)
        return tuple(sorted(ids))

    def is_audio(self, token_id: int) -> bool:
        """Whether the token is an audio code or the audio pad."""
        return self.audio_0 <= token_id <= self.audio_pad

    def code_of(self, token_id: int) -> int:
        """Audio code of a token.

        Raises:
            ValueError: the token is no audio token.
        """
        if not self.is_audio(token_id):
            raise ValueError(
                f"token {token_id} is no audio token ({self.audio_0} to {self.audio_pad})"
            )
        return token_id - self.audio_0

    def id_of_code(self, code: int) -> int:
        """Token of an audio code; ``num_codes`` gives the audio pad.

        Raises:
            ValueError: there is no such code.
        """
        if not 0 <= code <= self.num_codes:
            raise ValueError(f"audio codes go from 0 to {self.num_codes}, got {code}")
        return self.audio_0 + code

    def split_ids(self, token_ids: Iterable[int]) -> tuple[list[int], list[int]]:
        """Separate interleaved output into text ids and audio codes.

        Control tokens and the padding of both kinds are dropped.

        Returns:
            Text ids and audio codes, each in order.
        """
        text, codes = [], []
        for token_id in token_ids:
            if token_id < self.text_size:
                text.append(token_id)
            elif self.audio_0 <= token_id < self.audio_pad:
                codes.append(token_id - self.audio_0)
        return text, codes


def _num_codes(token_ids: Mapping[str, int]) -> int:
    """Codes of a vocabulary: as many as it names, all of the public ones in one of their size."""
    if max(token_ids.values(), default=0) >= PUBLIC_IDS[ENDOFTEXT]:
        return NUM_AUDIO_CODES
    named = sum(_AUDIO_NAME.fullmatch(name) is not None for name in token_ids)
    return max(1, named - 1)


def _check_public_ids(token_ids: Mapping[str, int]) -> None:
    """A vocabulary of the public size must have the public ids, or the weights do not fit it."""
    if max(token_ids.values()) < PUBLIC_IDS[ENDOFTEXT]:
        return
    wrong = [
        f"{name} is {token_ids[name]} instead of {public}"
        for name, public in PUBLIC_IDS.items()
        if token_ids[name] != public
    ]
    if wrong:
        raise ConfigError(
            f"the tokenizer does not have the ids of Step-Audio 2: {', '.join(wrong)}; "
            "use the tokenizer files that came with the weights"
        )
