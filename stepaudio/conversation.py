"""Conversations and the chat template: messages to token ids, pure, without any I/O.

The format is that of the public models (specification, sections 8 and 9): each message is
``<|BOT|>{role}\\n{content}<|EOT|>``, nothing stands between messages, and every string piece is
tokenised by itself. Audio enters as a count of placeholder tokens and a key; the data stay with
the caller.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from stepaudio.audio.frames import FrameGeometry, pieces
from stepaudio.errors import ConfigError, ToolError
from stepaudio.text.vocab import (
    CODES_PER_GROUP,
    TOOL_CALL,
    TOOL_CALL_END,
    TTS_END,
    TTS_START,
    Vocabulary,
)

Role = Literal["system", "user", "assistant", "tool_json_schemas", "input", "function_output"]
Mode = Literal["text", "speech"]

THINK_START = "\n<think>\n"
THINK_END = "</think>"

_HEADER_NAMES = {"user": "human"}
_ROLE_ALIASES = {"human": "user", "function_output": "input", "tool": "function_output"}
_THINK_BLOCK = re.compile(r"\s*<think>.*?(?:</think>|\Z)\s*", re.DOTALL)
_LEADING_LINES = re.compile(r"\s*[\r\n]+")
_ASSISTANT_MARKS = re.compile(f"({TTS_START}|{TTS_END}|{TOOL_CALL}|{TOOL_CALL_END})")
_AUDIO_TYPES = ("audio", "input_audio")
_AUDIO_NAME = re.compile(r"<audio_(\d+)>")


# ---- messages ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextPart:
    """Plain text; names of special tokens in it are ordinary characters."""

    text: str


@dataclass(frozen=True)
class SpecialPart:
    """One special token by name, for what the program itself writes (``<tts_start>``)."""

    name: str


@dataclass(frozen=True)
class AudioPart:
    """One piece of at most 25 s that the model hears.

    Attributes:
        num_tokens: placeholders, one for each latent.
        key: name under which the caller keeps the audio.
    """

    num_tokens: int
    key: str


@dataclass(frozen=True)
class TokenPart:
    """Model output kept as ids, text and audio as they were generated."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class SpeechPart:
    """Speech output given as its text and its audio codes; rendering interleaves them."""

    text: str
    codes: tuple[int, ...]


Part = TextPart | SpecialPart | AudioPart | TokenPart | SpeechPart


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        role: who speaks. ``input`` is a tool result as the public client writes it,
            ``function_output`` as the public server does.
        parts: content in order.
        train: the content counts in the loss.
        interrupted: the user cut it off; open speech is closed by ``<tts_end>``.
        eot: false leaves the message open, so that the model continues it.
    """

    role: Role
    parts: tuple[Part, ...]
    train: bool = False
    interrupted: bool = False
    eot: bool = True

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"unknown role {self.role!r}; known are {', '.join(get_args(Role))}")


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        ids: token ids.
        audio_spans: first placeholder, end and key of every audio piece, in order.
        loss_mask: for every id, whether it counts in the loss.
    """

    ids: list[int] = field(default_factory=list)
    audio_spans: list[tuple[int, int, str]] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)


def text_message(role: Role, text: str, *, train: bool = False, eot: bool = True) -> Message:
    """Build a message of plain text."""
    return Message(role, (TextPart(text),), train=train, eot=eot)


def task_messages(instruction: str, parts: Iterable[Part]) -> list[Message]:
    """Build the conversation of a one-turn task: system instruction, then the user's content."""
    return [text_message("system", instruction), Message("user", tuple(parts))]


def audio_parts(num_samples: int, geometry: FrameGeometry, key: str) -> tuple[AudioPart, ...]:
    """Cut a waveform into its pieces of at most 25 s.

    Args:
        num_samples: length at 16 kHz.
        geometry: frame arithmetic of the encoder that will hear it.
        key: name of the waveform; piece ``n`` gets the key ``{key}/{n}``.
    """
    return tuple(
        AudioPart(geometry.tokens_for_samples(stop - start), f"{key}/{n}")
        for n, (start, stop) in enumerate(pieces(num_samples))
    )


def think_message(thought: str | None = None, *, mode: Mode = "speech") -> Message:
    """Open message that makes the Think variant think, or answer after it has thought.

    Args:
        thought: None to let the model think until ``</think>``; afterwards the text it thought,
            without that mark.
        mode: kind of the answer.
    """
    if thought is None:
        return text_message("assistant", THINK_START, eot=False)
    parts: list[Part] = [TextPart(f"{THINK_START}{thought}{THINK_END}\n\n")]
    if mode == "speech":
        parts.append(SpecialPart(TTS_START))
    return Message("assistant", tuple(parts), eot=False)


# ---- speech output -------------------------------------------------------------------------


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


# ---- template ------------------------------------------------------------------------------


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


# ---- prompts -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Task instructions; they belong to a checkpoint, the defaults to the public ones.

    Attributes:
        asr: transcribe speech.
        chat: converse in text.
        voice_chat: converse in speech.
        translate: translate speech into text.
        translate_speech: translate speech into speech.
        caption: describe the events in an audio.
        describe: transcribe and describe speaker, background and events.
        audio_qa: answer a question about an audio.
        think: system message of the Think variant.
        read_aloud: before the text that a Base model shall speak.
        read_translation: before the text that a Base model shall translate and speak.
        tool_summary: behind a tool result.
    """

    asr: str = "请记录下你所听到的语音内容。"
    chat: str = "You are a helpful assistant."
    voice_chat: str = "请用语音与我交流。"
    translate: str = "请仔细聆听这段语音，然后将其内容翻译成中文。"
    translate_speech: str = "请仔细聆听这段语音，然后将其内容翻译成中文并用语音播报。"
    caption: str = "Please briefly explain the important events involved in this audio clip."
    describe: str = (
        "你是一位经验丰富的音频分析专家，擅长对各种语音音频进行深入细致的分析。"
        "你的任务不仅仅是将音频内容准确转写为文字，还要对说话人的声音特征（如性别、年龄、情绪状态）、"
        "背景声音、环境信息以及可能涉及的事件进行全面描述。"
        "请以专业、客观的视角，详细、准确地完成每一次分析和转写。"
    )
    audio_qa: str = (
        "You are an expert in audio analysis, please analyze the audio content and answer the "
        "questions accurately."
    )
    think: str = (
        "你的名字叫小跃，你是由阶跃星辰(StepFun)公司训练出来的语音大模型，"
        "你能听见用户的声音特征并在思维过程中描述出来，"
        "请激活深度思考模式，通过逐步分析、逻辑推理来解决用户的问题。"
    )
    read_aloud: str = "以自然的语速读出下面的文字。\n"
    read_translation: str = "将下面的文本翻译成英文，并用语音播报。\n"
    tool_summary: str = "\n\n\n请用口语化形式总结检索结果，简短地回答用户的问题。"

    @classmethod
    def from_dict(cls, prompts: Mapping[str, str] | None) -> Prompts:
        """Take a checkpoint's own prompts; tasks that it does not name keep the public ones.

        Raises:
            ConfigError: a task is unknown.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(prompts or {}) - set(known))
        if unknown:
            raise ConfigError(f"prompts: unknown tasks {unknown}; known are {', '.join(known)}")
        return cls(**(prompts or {}))

    def to_dict(self) -> dict[str, str]:
        """All prompts by task name."""
        return dataclasses.asdict(self)


# ---- tools ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool by the model.

    Attributes:
        name: the tool.
        arguments: its arguments.
    """

    name: str
    arguments: Mapping[str, Any]


def tools_message(schemas: Sequence[Mapping[str, Any]]) -> Message:
    """Build the message that declares tools, given as OpenAI function schemas."""
    return text_message("tool_json_schemas", json.dumps(list(schemas), ensure_ascii=False))


def tool_call_parts(call: ToolCall) -> tuple[Part, ...]:
    """Render a tool call as content of an assistant message."""
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    body = TextPart(f"function\n{call.name}\n{arguments}")
    return (SpecialPart(TOOL_CALL), body, SpecialPart(TOOL_CALL_END))


def parse_tool_calls(text: str) -> list[ToolCall]:
    """Find the tool calls in decoded output; text around them is ignored.

    Raises:
        ToolError: a call is incomplete, of an unknown kind, or its arguments are no JSON object.
    """
    calls = []
    position = text.find(TOOL_CALL)
    while position >= 0:
        call, end = _parse_tool_call(text, position + len(TOOL_CALL))
        calls.append(call)
        position = text.find(TOOL_CALL, end)
    return calls


def _parse_tool_call(text: str, start: int) -> tuple[ToolCall, int]:
    head = re.compile(r"\s*(\w+)[ \t]*\n[ \t]*([^\n]+?)[ \t]*\n\s*").match(text, start)
    if head is None or head.group(1) != "function":
        raise ToolError(
            f"malformed tool call at character {start}: expected 'function', the tool's name and "
            "its arguments on lines of their own"
        )
    name = head.group(2)
    try:
        arguments, end = json.JSONDecoder().raw_decode(text, head.end())
    except (ValueError, RecursionError) as error:
        raise ToolError(f"tool call {name}: the arguments are no valid JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ToolError(f"tool call {name}: the arguments must be a JSON object")
    close = re.compile(rf"\s*{TOOL_CALL_END}").match(text, end)
    if close is None:
        raise ToolError(f"tool call {name}: {TOOL_CALL_END} is missing behind the arguments")
    return ToolCall(name, arguments), close.end()


# ---- messages from dicts -------------------------------------------------------------------


def messages_from_dicts(
    messages: Sequence[Mapping[str, Any]],
    audio: Iterable[Sequence[AudioPart]] = (),
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[Message]:
    """Read messages in the form of the public client or of the OpenAI API.

    Content is a string, None (header only) or a list of items of type ``text``, ``audio`` or
    ``input_audio``, and ``token``. Only in assistant messages do ``<tts_start>``, ``<tts_end>``
    and the tool call marks become special tokens. As on the public server, role ``tool`` becomes
    ``function_output`` with the tool's name, and role ``function_output`` becomes ``input``.

    Args:
        messages: dicts with ``role`` and ``content``, and optionally ``eot``, ``tool_calls``,
            ``tool_call_id``, ``name`` and ``tts_content``.
        audio: for each audio item, in order, its pieces.
        tools: OpenAI function schemas; they are declared behind the system message.

    Raises:
        ValueError: a message is malformed, or audio items and `audio` differ in number.
        ToolError: the arguments of a tool call are no JSON object.
    """
    reader = _DictReader(audio)
    result = [reader.message(message) for message in messages]
    reader.check_audio_is_used()
    if tools:
        behind = 1 if result and result[0].role == "system" else 0
        result.insert(behind, tools_message(tools))
    return result


def num_audio_items(messages: Iterable[Mapping[str, Any]]) -> int:
    """Count the audio items of dict messages: what `messages_from_dicts` wants audio for."""
    contents = (message.get("content") for message in messages)
    return sum(
        item.get("type") in _AUDIO_TYPES
        for content in contents
        if content is not None and not isinstance(content, str)
        for item in content
    )


class _DictReader:
    """Reads dict messages; remembers tool names and which audio comes next."""

    def __init__(self, audio: Iterable[Sequence[AudioPart]]) -> None:
        self._audio = list(audio)
        self._num_audio = 0
        self._tool_names: dict[str, str] = {}

    def message(self, message: Mapping[str, Any]) -> Message:
        name, content = str(_required(message, "role", "message")), message.get("content")
        role: Any = _ROLE_ALIASES.get(name, name)
        parts: list[Part] = []
        if name == "tool":
            tool = message.get("name") or self._tool_names.get(message.get("tool_call_id", ""))
            content = _behind_name(tool or "tool", content)
        if "tts_content" in message:
            parts.append(_speech_part(message["tts_content"]))
        parts += self._content(content, role)
        for call in message.get("tool_calls") or ():
            parts += self._tool_call(call)
        eot = bool(message.get("eot", True)) and bool(parts or content is not None)
        return Message(role, tuple(parts), eot=eot)

    def _content(self, content: Any, role: str) -> list[Part]:
        if content is None:
            return []
        if isinstance(content, str):
            return _text_parts(content, role)
        parts: list[Part] = []
        for item in content:
            kind = item.get("type")
            if kind == "text":
                parts += _text_parts(_required(item, "text", "text item of the content"), role)
            elif kind in _AUDIO_TYPES:
                parts += self._next_audio()
            elif kind == "token":
                parts.append(
                    TokenPart(tuple(_required(item, "token", "token item of the content")))
                )
            else:
                raise ValueError(f"unknown content type {kind!r}; known are text, audio, token")
        return parts

    def _next_audio(self) -> Sequence[AudioPart]:
        self._num_audio += 1
        if self._num_audio > len(self._audio):
            raise ValueError(f"audio is missing: {len(self._audio)} given, more in the messages")
        return self._audio[self._num_audio - 1]

    def check_audio_is_used(self) -> None:
        if self._num_audio != len(self._audio):
            raise ValueError(
                f"{len(self._audio)} audio given, but the messages have {self._num_audio} audio "
                "items"
            )

    def _tool_call(self, call: Mapping[str, Any]) -> tuple[Part, ...]:
        function = call.get("function", call)
        name: str = _required(function, "name", "tool call")
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):  # the OpenAI API sends JSON in a string
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                raise ToolError(f"tool call {name}: {error}") from error
        if not isinstance(arguments, dict):
            raise ToolError(f"tool call {name}: arguments must be an object")
        self._tool_names[call.get("id", "")] = name
        return tool_call_parts(ToolCall(name, arguments))


def _required(values: Mapping[str, Any], name: str, what: str) -> Any:
    try:
        return values[name]
    except KeyError:
        raise ValueError(f"a {what} lacks {name!r}; it has {sorted(values)}") from None


def _behind_name(tool: str, content: Any) -> Any:
    """Tool result with the tool's name on a line before it."""
    if content is None or isinstance(content, str):
        return f"{tool}\n{content or ''}"
    return [{"type": "text", "text": f"{tool}\n"}, *content]


def _text_parts(text: str, role: str) -> list[Part]:
    if role != "assistant":
        return [TextPart(text)]
    split = _ASSISTANT_MARKS.split(text)
    return [
        SpecialPart(piece) if index % 2 else TextPart(piece)
        for index, piece in enumerate(split)
        if piece
    ]


def _speech_part(content: Mapping[str, str]) -> SpeechPart:
    text: str = _required(content, "tts_text", "tts_content")
    audio: str = _required(content, "tts_audio", "tts_content")
    return SpeechPart(text, tuple(int(code) for code in _AUDIO_NAME.findall(audio)))
