"""The text of an answer as it is generated, apart from all that is not said.

Speech interleaves groups of one text token and four audio tokens; behind ``<tts_end>`` tool calls
may follow (specification, section 8). What is shown is what is said: marks, pads, the markup of
calls and what follows the speech are left out.
"""

from __future__ import annotations

from stepaudio.conversation import Mode
from stepaudio.text.tokenizer import TextTokenizer
from stepaudio.text.vocab import TOOL_CALL


class AnswerText:
    """Text of one answer, token by token; never a part of a character or of a call.

    Args:
        tokenizer: of the model.
        mode: kind of the answer: of speech the text ends with ``<tts_end>``.
    """

    def __init__(self, tokenizer: TextTokenizer, mode: Mode) -> None:
        self._vocab = tokenizer.vocab
        self._mode = mode
        self._stream = tokenizer.stream()
        self._held = ""  # may be the beginning of a call
        self._has_call = self._is_over = False

    def push(self, token_id: int) -> str:
        """Text that may be shown with this token."""
        if self._has_call or self._is_over or token_id >= self._vocab.text_size:
            self._is_over |= self._mode == "speech" and token_id == self._vocab.tts_end
            return ""
        return self._show(self._stream.push(token_id))

    def flush(self) -> str:
        """What is left at the end of the answer."""
        if self._has_call:
            return ""
        shown = self._held + self._stream.flush()
        self._held = ""
        return shown

    def _show(self, text: str) -> str:
        text, self._held = self._held + text, ""
        before, call, _ = text.partition(TOOL_CALL)
        if call:
            self._has_call = True
            return before
        for size in range(min(len(TOOL_CALL) - 1, len(text)), 0, -1):
            if TOOL_CALL.startswith(text[-size:]):
                self._held = text[-size:]
                return text[:-size]
        return text
