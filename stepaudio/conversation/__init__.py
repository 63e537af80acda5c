"""Conversations and the chat template: messages to token ids, pure, without any I/O.

The format is that of the public models (specification, sections 8 and 9): each message is
``<|BOT|>{role}\\n{content}<|EOT|>``, nothing stands between messages, and every string piece is
tokenised by itself. Audio enters as a count of placeholder tokens and a key; the data stay with
the caller.
"""

from stepaudio.conversation.dicts import messages_from_dicts, num_audio_items
from stepaudio.conversation.messages import (
    THINK_END,
    THINK_START,
    AudioPart,
    Message,
    Mode,
    Part,
    Prompt,
    Role,
    SpecialPart,
    SpeechPart,
    TextPart,
    TokenPart,
    audio_parts,
    task_messages,
    text_message,
    think_message,
)
from stepaudio.conversation.prompts import Prompts
from stepaudio.conversation.template import ChatTemplate, PieceTokenizer, interleave
from stepaudio.conversation.tools import (
    ToolCall,
    parse_tool_calls,
    tool_call_parts,
    tool_names_message,
    tools_message,
)

__all__ = [
    "THINK_END",
    "THINK_START",
    "AudioPart",
    "ChatTemplate",
    "Message",
    "Mode",
    "Part",
    "PieceTokenizer",
    "Prompt",
    "Prompts",
    "Role",
    "SpecialPart",
    "SpeechPart",
    "TextPart",
    "TokenPart",
    "ToolCall",
    "audio_parts",
    "interleave",
    "messages_from_dicts",
    "num_audio_items",
    "parse_tool_calls",
    "task_messages",
    "text_message",
    "think_message",
    "tool_call_parts",
    "tool_names_message",
    "tools_message",
]
