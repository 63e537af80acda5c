"""One loaded checkpoint and everything that it can do (specification, sections 8 and 9)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepaudio.audio.decoding import AudioSource
from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.catalog import embedded_folder
from stepaudio.conversation import (
    THINK_END,
    ChatTemplate,
    Message,
    Mode,
    Part,
    Prompt,
    TextPart,
    think_message,
)
from stepaudio.errors import CheckpointError
from stepaudio.generation.adapters import AdapterSet
from stepaudio.generation.completion import Completion, GenerationPrompt, check_fits
from stepaudio.generation.generator import Generator
from stepaudio.generation.sampling import SamplingParams
from stepaudio.models.checkpoint import load_model
from stepaudio.models.config_file import read_config
from stepaudio.models.devices import resolve_device
from stepaudio.models.fused import Precision
from stepaudio.models.hf_config import StepAudioConfig
from stepaudio.models.hub import checkpoint_folder
from stepaudio.models.processor import StepAudioProcessor
from stepaudio.models.step_audio import StepAudio2ForCausalLM
from stepaudio.models.token2wav.token2wav import Token2Wav
from stepaudio.tasks.dialogue import Dialogue, DialogueOptions
from stepaudio.tasks.hearing import Clip, hear, latents_of
from stepaudio.tasks.instructions import (
    ANSWER_FORMAT,
    Target,
    task_prompt,
    translation_prompt,
)
from stepaudio.tasks.modes import (
    DEFAULTS,
    THOUGHT_TOKENS,
    TaskMode,
    Variant,
    checked_variant,
    modes_of,
    require_mode,
)
from stepaudio.tasks.reply import Reply, read_reply
from stepaudio.tasks.transcript_dialogue import TranscriptDialogue, TranscriptEngine
from stepaudio.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from stepaudio.tasks.speech_result import SpokenText
    from stepaudio.tasks.tts import Synthesizer

_NO_ADAPTERS = AdapterSet()


class StepAudio:
    """A checkpoint with its tokenizer, template and generator; it keeps no state of requests.

    Attributes:
        name: what errors call the checkpoint.
        config: its configuration.
        processor: mel, tokenizer and prompts.
        variant: "instruct", "base" (no chat template) or "think".
        modes: what it can do.
        adapters: further decoders over the same foundation, by name.
        folder: where its files are; None: only in memory.
        precision: of the decoder's weights.

    Example:
        >>> model = StepAudio.from_pretrained("stepfun-ai/Step-Audio-2-mini")  # doctest: +SKIP
        >>> dialogue = model.dialogue(speech=True)  # doctest: +SKIP
        >>> dialogue.say(audio="question.wav").text  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - parts and options, all by name
        self,
        config: StepAudioConfig,
        processor: StepAudioProcessor,
        load: Callable[[], StepAudio2ForCausalLM],
        *,
        name: str = "the model",
        variant: str | None = None,
        adapters: AdapterSet = _NO_ADAPTERS,
        folder: Path | None = None,
        load_engine: Callable[[], Token2Wav] | None = None,
        precision: Precision = "float",
    ) -> None:
        """Bind a checkpoint; its weights are loaded when they are first needed.

        Args:
            config: its configuration.
            processor: its processor.
            load: gives the model.
            name: what errors call it.
            variant: instead of what configuration or name say.
            adapters: further decoders of the checkpoint.
            folder: where its other files are.
            load_engine: gives what turns audio codes into sound; None: it is in `folder`.
            precision: of the decoder's weights, see `Generator`.

        Raises:
            ConfigError: variant or modes are unknown.
        """
        self.name = name
        self.config = config
        self.processor = processor
        self.variant: Variant = checked_variant(config, name, variant)
        self.modes: tuple[TaskMode, ...] = modes_of(config, self.variant)
        self.adapters = adapters
        self.folder = folder
        self._load = load
        self.precision: Precision = precision
        self._load_engine = load_engine or partial(Token2Wav.from_pretrained, folder or name)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        precision: Precision = "float",
        revision: str | None = None,
        variant: str | None = None,
        progress: bool = False,
        lazy: bool = False,
    ) -> StepAudio:
        """Load a checkpoint; the small files are checked before the weights are read.

        Args:
            source: name of an embedded model such as "nano", folder, or id of a Hub repository.
            device: where to load to; "auto": a GPU where there is one.
            dtype: float32, bfloat16 or float16; None: float32 on CPU, elsewhere as stored.
            precision: "int8": decode with int8 weights, for a float32 model on a CPU.
            revision: branch, tag or commit of a repository.
            variant: "instruct", "base" or "think", where neither configuration nor name say it.
            progress: show a progress bar on standard error.
            lazy: read the weights when they are first needed, so that a request that cannot be
                served fails before.

        Raises:
            CheckpointError: files are missing or damaged, or do not fit each other.
            ConfigError: configuration or tokenizer are contradictory, or there is no such device.
        """
        chosen = resolve_device(device)
        folder = embedded_folder(str(source))
        if revision is not None and (folder is not None or Path(source).is_dir()):
            raise CheckpointError(
                f"{source}: is a folder, which has no revision {revision!r}; leave it out, or "
                "give the id of a Hub repository"
            )
        folder = folder or checkpoint_folder(source, revision=revision)
        processor = StepAudioProcessor.from_pretrained(folder)
        config = read_config(folder)

        def load() -> StepAudio2ForCausalLM:
            return load_model(folder, device=chosen, dtype=dtype, config=config, progress=progress)

        adapters = AdapterSet.load(folder)
        loaded = cls(
            config,
            processor,
            load,
            name=str(source),
            variant=variant,
            adapters=adapters,
            folder=Path(folder),
            load_engine=partial(
                Token2Wav.from_pretrained, source, device=chosen, revision=revision
            ),
            precision=precision,
        )
        if not lazy:
            loaded.model  # noqa: B018 - the property loads
        return loaded

    @cached_property
    def model(self) -> StepAudio2ForCausalLM:
        """The model; the first access loads it."""
        return self._load()

    @cached_property
    def generator(self) -> Generator:
        """Generator over the model's weights; on a CPU it copies small ones when first used."""
        adapters = self.adapters.decoders(self.model, self.precision)
        return Generator(self.model, precision=self.precision, adapters=adapters)

    @cached_property
    def transcripts(self) -> TranscriptEngine:
        """What conversations of a checkpoint share that writes down what it hears."""
        return TranscriptEngine(self, self.folder)

    @cached_property
    def synthesizer(self) -> Synthesizer:
        """What `tts` speaks with; the first access loads what turns audio codes into sound.

        Raises:
            CheckpointError: the checkpoint lacks that, or it is damaged.
            ConfigError: the checkpoint cannot read aloud.
        """
        from stepaudio.tasks.tts import Synthesizer

        return Synthesizer(self, self.token2wav)

    @cached_property
    def token2wav(self) -> Token2Wav:
        """What turns audio codes into sound; the first access loads it.

        Raises:
            CheckpointError: the checkpoint lacks it, or it is damaged.
            ConfigError: its configuration is incomplete or contradictory.
        """
        return self._load_engine()

    @property
    def tokenizer(self) -> TextTokenizer:
        """Text tokenizer."""
        return self.processor.tokenizer

    @property
    def template(self) -> ChatTemplate:
        """Chat template."""
        return self.processor.template

    def require(self, mode: TaskMode) -> None:
        """Make sure that the checkpoint has a mode.

        Raises:
            ConfigError: it does not; the message names those that it has.
        """
        require_mode(mode, self.modes, self.name)

    # ---- tasks of one turn -------------------------------------------------------------------

    def asr(self, audio: AudioSource | Tensor, params: SamplingParams | None = None) -> Reply:
        """Write down speech that fits the context, by the decoder alone.

        `Transcriber` takes recordings of any length, and searches words where the checkpoint has
        a word model: for nano that halves the errors.

        Args:
            audio: path, bytes or file object, or float32 [samples] at 16 kHz.
            params: sampling; None: as the public examples do.

        Raises:
            AudioLoadError: the audio cannot be read.
            CapacityError: it does not fit; the message says how many seconds do.
            ConfigError: the checkpoint does not have this mode.
        """
        return self._task("asr", self.processor.prompts.asr, audio, params=params)

    def translate(
        self,
        audio: AudioSource | Tensor,
        *,
        speech: bool = False,
        target: Target | None = None,
        params: SamplingParams | None = None,
    ) -> Reply:
        """Translate speech into text, or into speech; arguments and errors otherwise as `asr`.

        Args:
            audio: what to translate.
            speech: answer in speech.
            target: language; None: the one that the checkpoint's prompt names.
            params: sampling.
        """
        prompts = self.processor.prompts
        mode: TaskMode = "translate_speech" if speech else "translate"
        instruction = prompts.translate_speech if speech else prompts.translate
        return self._task(mode, translation_prompt(instruction, target), audio, params=params)

    def caption(self, audio: AudioSource | Tensor, params: SamplingParams | None = None) -> Reply:
        """Describe the events in an audio; arguments and errors as `asr`."""
        return self._task("caption", self.processor.prompts.caption, audio, params=params)

    def describe(self, audio: AudioSource | Tensor, params: SamplingParams | None = None) -> Reply:
        """Transcribe and describe speaker, background and events; otherwise as `asr`."""
        return self._task("describe", self.processor.prompts.describe, audio, params=params)

    def ask(
        self,
        audio: AudioSource | Tensor,
        question: str,
        params: SamplingParams | None = None,
    ) -> Reply:
        """Answer a question about an audio, see `Reply.answer`; otherwise as `asr`."""
        behind = (TextPart(f"{question}\n{ANSWER_FORMAT}"),)
        instruction = self.processor.prompts.audio_qa
        return self._task("audio_qa", instruction, audio, behind=behind, params=params)

    def read_aloud(self, text: str, params: SamplingParams | None = None) -> Reply:
        """Speak a text (Base); errors as `asr`."""
        return self._read("read_aloud", self.processor.prompts.read_aloud, text, params)

    def read_translation(
        self, text: str, *, target: Target | None = None, params: SamplingParams | None = None
    ) -> Reply:
        """Translate a text and speak it (Base); arguments and errors as `translate`."""
        instruction = translation_prompt(self.processor.prompts.read_translation, target)
        return self._read("read_translation", instruction, text, params)

    def tts(
        self,
        text: str,
        *,
        voice: str | Path | None = None,
        instruction: str | None = None,
        seed: int = 0,
    ) -> SpokenText:
        """Speak a text of any length as sound; arguments and errors as `Synthesizer.speak`."""
        return self.synthesizer.speak(text, voice=voice, instruction=instruction, seed=seed)

    # ---- conversations -----------------------------------------------------------------------

    def dialogue(
        self,
        *,
        speech: bool = False,
        system: str | None = None,
        think: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Dialogue:
        """Begin a conversation.

        Args:
            speech: the answers are speech.
            system: system message; None: the checkpoint's own.
            think: think before every answer (Think).
            tools: OpenAI function schemas that the model may call.

        Raises:
            ConfigError: the checkpoint does not have such a mode.
        """
        answer: Mode = "speech" if speech else "text"
        if tools:
            self.require("tools")
        self.require("think" if think else "voice_chat" if speech else "chat")
        prompts = self.processor.prompts
        default = prompts.think if think else prompts.voice_chat if speech else prompts.chat
        system = default if system is None else system
        options = DialogueOptions(answer, system, think, tuple(tools))
        if self.config.dialogue.hearing == "transcript":
            return TranscriptDialogue(self, self.transcripts, options)
        return Dialogue(self, options)

    def chat(
        self,
        *,
        text: str | None = None,
        audio: AudioSource | Tensor | None = None,
        speech: bool = False,
        params: SamplingParams | None = None,
    ) -> Reply:
        """Answer once; `dialogue` has more turns and options."""
        return self.dialogue(speech=speech).say(text=text, audio=audio, params=params)

    # ---- generation --------------------------------------------------------------------------

    def check_prompt(self, prompt: Prompt) -> None:
        """Make sure that a prompt fits the context.

        Raises:
            CapacityError: it does not; the message says how many seconds of audio would.
        """
        num_audio = sum(stop - start for start, stop, _ in prompt.audio_spans)
        geometry = self.config.audio_encoder_config.geometry
        check_fits(len(prompt.ids), num_audio, self.config.max_position_embeddings, geometry)

    def answer(
        self,
        prompt: Prompt,
        clips: Mapping[str, Clip],
        mode: Mode,
        params: SamplingParams,
        tools: Collection[str] = (),
    ) -> Reply:
        """Complete a rendered prompt.

        Args:
            prompt: rendered with audio keys of the pieces in `clips`.
            clips: audio by the key of its pieces; each is encoded once and then remembered in it.
            mode: kind of answer that the prompt asks for.
            params: sampling.
            tools: names of the declared tools.

        Raises:
            CapacityError: the prompt does not fit the context; nothing was computed.
        """
        self.check_prompt(prompt)
        ready, encode_s = self._generation_prompt(prompt, clips)
        (completion,) = self.generator.generate([ready], params)
        completion.stats.encode_s = encode_s
        return read_reply(completion, self.tokenizer, mode, tools=tools)

    def answer_after_thinking(
        self,
        messages: Sequence[Message],
        clips: Mapping[str, Clip],
        mode: Mode,
        params: SamplingParams,
        tools: Collection[str] = (),
    ) -> Reply:
        """Let the model think until ``</think>``, then answer (specification, section 9).

        Args:
            messages: the conversation, without an open message.
            clips: as in `answer`.
            mode: kind of the answer.
            params: sampling of thought and answer; `max_new_tokens` and `stop_ids` are those of
                the answer alone.
            tools: names of the declared tools.

        Raises:
            CapacityError: as in `answer`.
        """
        prompt = self.template.render([*messages, think_message()])
        self.check_prompt(prompt)
        thinking = dataclasses.replace(params, max_new_tokens=THOUGHT_TOKENS, stop_ids=None)
        ready, encode_s = self._generation_prompt(prompt, clips)
        thought, completion = self._think(ready, thinking)
        completion.stats.encode_s = encode_s
        prompt = self.template.render([*messages, think_message(thought, mode=mode)])
        reply = self.answer(prompt, clips, mode, params, tools)
        completion.stats.add(reply.stats)
        return dataclasses.replace(reply, thought=thought.strip(), stats=completion.stats)

    def _think(self, prompt: GenerationPrompt, params: SamplingParams) -> tuple[str, Completion]:
        stream, written = self.tokenizer.stream(), ""

        def ends_thought(token_id: int) -> bool:
            nonlocal written
            written += stream.push(token_id)
            return THINK_END in written[-len(THINK_END) - 16 :]

        completion = self.generator.generate_until(prompt, params, ends_thought)
        return written.partition(THINK_END)[0], completion

    def _task(
        self,
        mode: TaskMode,
        instruction: str,
        audio: AudioSource | Tensor,
        *,
        behind: Sequence[Part] = (),
        params: SamplingParams | None = None,
    ) -> Reply:
        self.require(mode)
        defaults = DEFAULTS[mode]
        clips, parts = hear(audio, self.config.audio_encoder_config.geometry, "audio")
        content = (*parts, *behind)
        prompt = task_prompt(self.template, self.variant, instruction, content, defaults.answer)
        return self.answer(prompt, clips, defaults.answer, params or defaults.sampling)

    def _read(
        self, mode: TaskMode, instruction: str, text: str, params: SamplingParams | None
    ) -> Reply:
        self.require(mode)
        prompt = self.template.render_flat([TextPart(instruction), TextPart(text)], mode="speech")
        return self.answer(prompt, {}, "speech", params or DEFAULTS[mode].sampling)

    def _generation_prompt(
        self, prompt: Prompt, clips: Mapping[str, Clip]
    ) -> tuple[GenerationPrompt, float]:
        """Encode the clips that were not encoded before; also the seconds that it took."""
        heard = [clips[key] for key in dict.fromkeys(key for _, _, key in prompt.audio_spans)]
        latents, encode_s = latents_of(heard, self.generator)
        seconds = sum(len(clip.samples) for clip in heard) / SAMPLE_RATE
        return GenerationPrompt(prompt.ids, latents, seconds), encode_s
