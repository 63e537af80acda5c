"""One stretch of speech, heard chunk by chunk with a streaming encoder, or as a whole.

States are values; both ways to hear have the same methods.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stepaudio.audio.frames import SAMPLE_RATE
from stepaudio.audio.mel import MelStreamState, init_mel_stream, stream_log_mel
from stepaudio.generation.stats import GenerationStats
from stepaudio.generation.word_search import SearchState, WordHypothesis
from stepaudio.models.encoder import EncoderState, Latents
from stepaudio.tasks.alignment import WordAligner
from stepaudio.tasks.expectations import NO_HOTWORDS
from stepaudio.tasks.recognizer import Recognizer
from stepaudio.tasks.transcript import Word
from stepaudio.text.hotwords import Hotwords

# Share of the search's probability that is given up to confirm words earlier. A word with some
# others behind it is confirmed in any case: words that sound the same would stay open for ever.
_DOUBT, _OLDER_DOUBT, _NUM_RECENT = 0.05, 1.0, 4


@dataclass(frozen=True)
class Heard:
    """What was heard of a stretch.

    Attributes:
        num_samples: samples so far.
        wav: the samples, if they are needed once more.
        mel: state of the mel stream; `frames` those that wait for a whole chunk.
        encoder: state of the encoder.
        latents: what the decoder will read, chunk by chunk.
        characters: posteriors of the character head, chunk by chunk.
        search: state of the search over words.
        encode_s: seconds spent in mel and encoder; `search_s`: in the search.
    """

    num_samples: int = 0
    wav: Tensor = field(default_factory=lambda: torch.zeros(0))
    mel: MelStreamState | None = None
    frames: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    encoder: EncoderState | None = None
    latents: tuple[Tensor, ...] = ()
    characters: tuple[Tensor, ...] = ()
    search: SearchState | None = None
    encode_s: float = 0.0
    search_s: float = 0.0


Result = tuple[str, tuple[Word, ...], GenerationStats]


class ChunkedHearing:
    """Encodes chunks as they come and searches words in them; the decoder judges at the end.

    Args:
        recognizer: a recogniser that `can_stream`.
        hotwords: words to expect.
    """

    def __init__(self, recognizer: Recognizer, hotwords: Hotwords | None = None) -> None:
        self._recognizer = recognizer
        self._two_pass = recognizer.two_pass(hotwords or NO_HOTWORDS)
        self._search = self._two_pass.search
        self._model = recognizer.model
        self._config = self._model.config.audio_encoder_config
        self._aligner = WordAligner(self._model)

    def start(self) -> Heard:
        """A stretch that begins."""
        return Heard(
            mel=init_mel_stream(),
            frames=torch.zeros(self._config.n_mels, 0),
            encoder=self._model.encoder.init_state(1),
            search=self._search.start(),
        )

    def hear(self, samples: Tensor, heard: Heard, *, last: bool = False) -> Heard:
        """More samples of the stretch; `last`: there are no others."""
        chunk = self._config.chunk_frames
        assert heard.mel is not None and chunk is not None
        new, mel = stream_log_mel(samples, heard.mel, self._config.n_mels, last=last)
        frames = torch.cat([heard.frames, new], dim=1)
        heard = replace(heard, mel=mel, num_samples=heard.num_samples + samples.shape[-1])
        while frames.shape[1] >= chunk or (last and frames.shape[1]):
            heard = self._encode(frames[:, :chunk], heard)
            frames = frames[:, chunk:]
        return replace(heard, frames=frames)

    def _encode(self, frames: Tensor, heard: Heard) -> Heard:
        assert heard.encoder is not None and heard.search is not None
        started = time.perf_counter()
        model = self._model
        weight = model.encoder.conv1.weight
        chunk = frames[None].to(weight.device, weight.dtype)
        encoded, state = model.encoder.step(chunk, heard.encoder)
        size = int(encoded.lengths[0])
        encoded = Latents(encoded.values[:, :size], encoded.lengths)
        if not size:
            return replace(heard, encoder=state)
        characters = model.ctc_head(encoded).values[0].float().cpu()
        phones = model.phone_head(encoded).values[0].float().cpu().numpy()
        latents = model.adapter(encoded).values[0]
        between = time.perf_counter()
        search = self._search.settle(
            self._search.advance(heard.search, phones),
            _DOUBT,
            older_doubt=_OLDER_DOUBT,
            num_recent=_NUM_RECENT,
        )
        return replace(
            heard,
            encoder=state,
            latents=(*heard.latents, latents),
            characters=(*heard.characters, characters),
            search=search,
            encode_s=heard.encode_s + between - started,
            search_s=heard.search_s + time.perf_counter() - between,
        )

    def words(self, heard: Heard) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Words that will not change, and all words of the best hypothesis."""
        assert heard.search is not None
        certain = self._search.certain_words(heard.search)
        likely = self._search.likely_words(heard.search)
        return tuple(self._two_pass.text(certain).split()), tuple(
            self._two_pass.text(likely).split()
        )

    def finish(self, heard: Heard, confirmed: tuple[str, ...]) -> Result:
        """The transcript of the stretch, which begins with the confirmed words."""
        assert heard.search is not None
        if not heard.latents:
            return "", (), GenerationStats()
        latents, characters = torch.cat(heard.latents), torch.cat(heard.characters)
        found = self._search.finish(heard.search)
        if not found and confirmed:  # no word could end here
            found = [WordHypothesis(self._search.certain_words(heard.search), 0.0, 0.0)]
        prompt = self._recognizer.prompt(heard.num_samples, latents)
        completion = self._two_pass.judge(prompt, characters, found)
        stats = completion.stats
        stats.encode_s = heard.encode_s
        stats.decode_s += heard.search_s
        text = self._recognizer.text(completion)
        words = self._aligner.align_frames(characters, text, heard.num_samples / SAMPLE_RATE)
        return text, words, stats


class WholeHearing:
    """Waits for the end of a stretch and then recognises it, for models that cannot do more."""

    def __init__(self, recognizer: Recognizer, hotwords: Hotwords | None = None) -> None:
        self._recognizer = recognizer
        self._hotwords = hotwords or NO_HOTWORDS
        recognizer.check_hotwords(self._hotwords)

    def start(self) -> Heard:
        """A stretch that begins."""
        return Heard()

    def hear(self, samples: Tensor, heard: Heard, *, last: bool = False) -> Heard:
        """More samples of the stretch."""
        wav = torch.cat([heard.wav, samples])
        return replace(heard, wav=wav, num_samples=len(wav))

    def words(self, heard: Heard) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """None: nothing is known before the end."""
        return (), ()

    def finish(self, heard: Heard, confirmed: tuple[str, ...]) -> Result:
        """The transcript of the stretch."""
        (found,) = self._recognizer.recognize_scored([heard.wav], self._hotwords)
        return found.text, (), found.stats
