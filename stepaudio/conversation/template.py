"""The chat template: messages to token ids and spans."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from stepaudio.conversation.messages import (
    AudioPart,
    Message,
    Mode,
    Part,
    Prompt,
    SpecialPart,
    SpeechPart,
    TextPart,
    TokenPart,
)
from stepaudio.text.vocab import (
    CODES_PER_GROUP,
    TOOL_CALL,
    TOOL_CALL_END,
    TTS_START,
    Vocabulary,
)

_HEADER_NAMES = {"user": "human"}
_THINK_BLOCK = re.compile(r"\s*<think>.*?(?:</think>|\Z)\s*", re.DOTALL)
_LEADING_LINES = re.compile(r"\s*[\r\n]+")


def interleave(text_ids: Sequence[int], codes: Sequence[int], vocab: Vocabulary) -> list[int]:
    """Arrange speech as groups of one text token and four audio tokens ("TA4").

    Text that runs out is filled with ``<tts_pad>``, audio with the audio pad. The helper of the
    public server pads the audio to one entry a group instead of four, so that long texts with
    little audio lose the shape of their groups; here every group is complete.
    `Vocabulary.split_ids` undoes it.

    Args:
        text_ids: text tokens.
        codes: audio codes, 25 for a second.
        vocab: ids of the pads and of the codes.

    Raises:
        ValueError: a code is out of range.
    """
    num_groups = max(-(-len(codes) // CODES_PER_GROUP), len(text_ids))
    text = [*text_ids, *[vocab.tts_pad] * (num_groups - len(text_ids))]
    missing = num_groups * CODES_PER_GROUP - len(codes)
    audio = [*map(vocab.id_of_code, codes), *[vocab.audio_pad] * missing]
    ids = []
    for group, text_id in enumerate(text):
        first = group * CODES_PER_GROUP
        ids += [text_id, *audio[first : first + CODES_PER_GROUP]]
    return ids


class PieceTokenizer(Protocol):
    """What the template needs of a tokenizer; `TextTokenizer` has it."""

    @property
    def vocab(self) -> Vocabulary:
        """Ids of the special tokens."""

    def encode(self, text: str) -> list[int]:
        """Encode plain text."""

    def encode_special(self, name: str) -> int:
        """Id of a token by its name."""


class _Writer:
    """Collects ids, spans and loss mask of one prompt."""

    def __init__(self, tokenizer: PieceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocab = tokenizer.vocab
        self.prompt = Prompt()

    def add(self, ids: Sequence[int], *, train: bool = False) -> None:
        self.prompt.ids.extend(ids)
        self.prompt.loss_mask.extend([train] * len(ids))

    def text(self, text: str, *, train: bool = False) -> None:
        if text:
            self.add(self._tokenizer.encode(text), train=train)

    def part(self, part: Part, *, train: bool = False) -> None:
        vocab = self._vocab
        match part:
            case TextPart(text):
                self.text(text, train=train)
            case SpecialPart(name):
                self._special(name, train=train)
            case TokenPart(ids):
                self.add(ids, train=train)
            case AudioPart(num_tokens, key):
                start = len(self.prompt.ids) + 1
                self.prompt.audio_spans.append((start, start + num_tokens, key))
                patches = [vocab.audio_patch] * num_tokens
                self.add([vocab.audio_start, *patches, vocab.audio_end])
            case SpeechPart(text, codes):
                self._special(TTS_START, train=train)
                text_ids = self._tokenizer.encode(text) if text else []
                self.add([*interleave(text_ids, codes, vocab), vocab.tts_end], train=train)

    def _special(self, name: str, *, train: bool) -> None:
        if name == TTS_START:
            # The program asks for speech, the model never decides on it.
            self.add([self._vocab.tts_start])
        elif name in (TOOL_CALL, TOOL_CALL_END) and self._vocab.tool_call is None:
            self.text(name, train=train)
        else:
            self.add([self._tokenizer.encode_special(name)], train=train)

    def header(self, role: str, following: str = "") -> None:
        self.add([self._vocab.bot])
        self.text(f"{_HEADER_NAMES.get(role, role)}\n{following}")

    @property
    def speech_is_open(self) -> bool:
        marks = (self._vocab.tts_start, self._vocab.tts_end, self._vocab.bot)
        last = next((i for i in reversed(self.prompt.ids) if i in marks), None)
        return last == self._vocab.tts_start


class ChatTemplate:
    """Renders conversations for one tokenizer."""

    def __init__(self, tokenizer: PieceTokenizer) -> None:
        """Bind the template to a tokenizer."""
        self._tokenizer = tokenizer

    def render(
        self, messages: Sequence[Message], *, mode: Mode = "text", prime: bool = True
    ) -> Prompt:
        """Render a conversation for an instruct model.

        Thoughts of past assistant messages are left out, unless they are to be trained.

        Args:
            messages: the conversation. If its last message is open (``eot=False``), that message
                primes the model, whatever `mode` says.
            mode: kind of answer that is asked for.
            prime: end with the header of the answer, and with ``<tts_start>`` if it is speech.
        """
        writer = _Writer(self._tokenizer)
        open_end = bool(messages) and not messages[-1].eot
        for index, message in enumerate(messages):
            is_prime = open_end and index == len(messages) - 1
            self._message(writer, message, keep_thoughts=is_prime or message.train)
        if prime and not open_end:
            writer.header("assistant")
            if mode == "speech":
                writer.part(SpecialPart(TTS_START))
        return writer.prompt

    def render_flat(self, parts: Iterable[Part], *, mode: Mode = "text") -> Prompt:
        """Render for a Base model, which has no template: the parts one behind the other.

        Args:
            parts: content; instruction and text of a speech task are parts of their own.
            mode: "speech" ends with ``<tts_start>``.
        """
        writer = _Writer(self._tokenizer)
        for part in parts:
            writer.part(part)
        if mode == "speech":
            writer.part(SpecialPart(TTS_START))
        return writer.prompt

    def _message(self, writer: _Writer, message: Message, *, keep_thoughts: bool) -> None:
        parts = message.parts
        if message.role == "assistant" and not keep_thoughts:
            parts = tuple(_without_thoughts(part) for part in parts)
        lines = ""
        if parts and isinstance(parts[0], TextPart):
            # In the reference the header and a string content are one piece, in which the line
            # end of the header and those that follow it are one token.
            match = _LEADING_LINES.match(parts[0].text)
            lines = match.group() if match else ""
            parts = (TextPart(parts[0].text[len(lines) :]), *parts[1:])
        writer.header(message.role, lines)
        for part in parts:
            writer.part(part, train=message.train)
        vocab = self._tokenizer.vocab
        if message.interrupted and writer.speech_is_open:
            writer.add([vocab.tts_end])
        if message.eot:
            writer.add([vocab.eot], train=message.train and not message.interrupted)


def _without_thoughts(part: Part) -> Part:
    return TextPart(_THINK_BLOCK.sub("", part.text)) if isinstance(part, TextPart) else part
