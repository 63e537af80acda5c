"""Task instructions (specification, section 8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from stepaudio.errors import ConfigError


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
        tts: speak a text; voice and style follow in the same message.
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
    tts: str = "read this aloud"
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
