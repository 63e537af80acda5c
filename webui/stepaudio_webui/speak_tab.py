"""Tab "Speak": texts aloud, in a voice and style, and which of two takes is better."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import get_blocks_context

from stepaudio.errors import RequestError, StepAudioError
from stepaudio_webui.backend import Backend, SpeakRequest
from stepaudio_webui.live_speech import LiveSpeech
from stepaudio_webui.notices import counted, named, note, problem
from stepaudio_webui.takes import (
    MAX_TEXT,
    Speech,
    SpeechForm,
    Take,
    default_preference_folder,
    save_preference,
)
from stepaudio_webui.theme import STATIC

_DEFAULT_VOICE = ("Default voice", "")
_HIGHEST_SEED = 2**31 - 1
_AT_ONCE = 4  # listeners; their pieces are made in turn
_LIVE = """\
<div class="sp" data-state="idle" data-testid="speech">
<div class="sp-meter"><div class="sp-level"></div></div>
<span class="sp-state" role="status"></span></div>
"""


def build(backend: Backend, preferences: Path | None = None) -> None:
    """Build the tab.

    Args:
        backend: speaks.
        preferences: folder for decisions; None: among the user's own data.
    """
    fields = _build_form(backend)
    _build_speaking(backend, fields)
    _build_takes(backend, fields, preferences or default_preference_folder())


def _build_form(backend: Backend) -> list[gr.Component]:
    """The fields, in the order of `_form`."""
    text = gr.Textbox(
        label="Text",
        lines=4,
        max_lines=12,
        placeholder="It is ten past nine, and the kettle is on.",
        info=f"Up to {MAX_TEXT} characters; numbers, dates and abbreviations are spoken as words",
        elem_id="speak-text",
    )
    with gr.Row():
        voice = gr.Dropdown(
            [_DEFAULT_VOICE], value="", label="Voice", min_width=180, elem_id="speak-voice"
        )
        instruction = gr.Textbox(
            label="Instruction", placeholder="slowly", min_width=180, elem_id="speak-instruction"
        )
    with gr.Row():
        speed = gr.Slider(
            0.5,
            2.0,
            value=1.0,
            step=0.05,
            label="Speed",
            info="nano has three paces: slow, normal, quick",
            min_width=180,
            elem_id="speak-speed",
        )
        with gr.Column(min_width=180):
            seed = gr.Number(
                0,
                label="Seed",
                info="The same seed gives the same speech",
                precision=0,
                minimum=0,
                maximum=_HIGHEST_SEED,
                elem_id="speak-seed",
            )
            dice = gr.Button("Another seed", size="sm", elem_id="speak-dice")
    with gr.Accordion("Speak in the voice of a recording", open=False, elem_id="speak-cloning"):
        reference = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Reference recording, 1 to 15 s",
            elem_id="speak-reference",
        )
        consent = gr.Checkbox(
            label="The person in this recording agrees that their voice is imitated",
            elem_id="speak-consent",
        )
    dice.click(lambda: secrets.randbelow(_HIGHEST_SEED), None, [seed], api_visibility="private")
    _offer_voices(backend, voice)
    return [text, voice, instruction, speed, seed, reference, consent]


def _offer_voices(backend: Backend, voice: gr.Dropdown) -> None:
    """Fill in the voices when the page is opened; the model may still be loading then."""

    def offer() -> Any:
        try:
            names = backend.wait_ready().voices
        except StepAudioError:
            return gr.skip()  # the page's head tells what is wrong
        return gr.update(choices=[_DEFAULT_VOICE, *((name, name) for name in names)])

    page = get_blocks_context()
    if isinstance(page, gr.Blocks):
        page.load(
            offer,
            None,
            [voice],
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=None,
        )


def _form(values: tuple[Any, ...]) -> SpeechForm:
    text, voice, instruction, speed, seed, reference, consent = values
    return SpeechForm(
        text=text or "",
        voice=voice or "",
        reference=reference,
        has_consent=bool(consent),
        instruction=instruction or "",
        speed=float(speed),
        seed=int(seed or 0),
    )


# ---- one take, heard while it is made ------------------------------------------------------------


def _build_speaking(backend: Backend, fields: list[gr.Component]) -> None:
    live = LiveSpeech()

    def fetch(wish: dict[str, Any]) -> dict[str, Any]:
        return live.fetch(wish)

    with gr.Row():
        start = gr.Button("Speak", variant="primary", elem_id="speak-start")
        stop = gr.Button("Stop", elem_id="speak-stop")
    status = gr.HTML(elem_id="speak-status")
    stream = gr.HTML(
        {"run": ""},
        html_template=_LIVE,
        css_template=(STATIC / "speech.css").read_text(encoding="utf-8"),
        js_on_load=(STATIC / "speech.js").read_text(encoding="utf-8"),
        server_functions=[fetch],
        elem_id="speak-stream",
    )
    whole = gr.Audio(
        label="All of it", interactive=False, visible=False, buttons=["download"],
        elem_id="speak-whole",
    )  # fmt: skip
    folder = Path(whole.GRADIO_CACHE)

    def speak(*values: Any) -> Iterator[list[Any]]:
        hidden = gr.update(visible=False, value=None)
        form = _form(values)
        try:
            request = form.checked(backend)
        except StepAudioError as error:
            yield [problem(str(error)), {"run": ""}, hidden]
            return
        run = live.open()
        yield [note("Speaking"), {"run": run}, hidden]
        speech = Speech(backend, request)
        try:
            with closing(speech.__iter__()) as pieces:
                for piece in pieces:
                    live.push(run, piece)
                    yield [gr.skip(), gr.skip(), gr.skip()]  # where it can be stopped
        except StepAudioError as error:
            yield [problem(_told(error, form)), {"run": ""}, hidden]
            return
        finally:
            live.end(run)
        take = speech.take
        shown = gr.update(visible=True, value=_saved(take, folder, "speech"))
        yield [_summary(take), gr.skip(), shown]

    outputs = [status, stream, whole]
    running = start.click(
        speak,
        fields,
        outputs,
        show_progress="hidden",
        concurrency_limit=_AT_ONCE,
        api_visibility="private",
    )
    stop.click(
        lambda: {"run": ""}, None, [stream], cancels=[running], queue=False,
        api_visibility="private",
    )  # fmt: skip
    # Not before the piece that is being made is there: until then the page ignores "Speak".
    running.failure(lambda: note("Stopped"), None, [status], queue=False, api_visibility="private")


def _summary(take: Take) -> str:
    if not take.duration_s:
        return problem("The model has said nothing: try another seed")
    text = (
        f"{take.duration_s:.1f} s of speech, seed {take.request.seed}; the first sound came after "
        f"{take.first_sound_s:.2f} s, the last after {take.wall_s:.1f} s."
    )
    return note(text) + "".join(problem(warning) for warning in take.warnings)


def _told(error: StepAudioError, form: SpeechForm) -> str:
    return str(error) if form.reference is None else named(error, form.reference)


def _saved(take: Take, folder: Path, name: str) -> str:
    """Path of the sound, in a folder that nobody can guess."""
    own = folder / secrets.token_hex(16)
    own.mkdir(parents=True)
    path = own / f"{name}.wav"
    path.write_bytes(take.wav())
    return str(path)


# ---- two takes -----------------------------------------------------------------------------------


def _build_takes(backend: Backend, fields: list[gr.Component], preferences: Path) -> None:
    gr.Markdown("### Which take is better?")
    gr.Markdown(
        "Two takes of the text above, with this seed and the next one. Your decision is saved "
        f"with both recordings in `{preferences}`, for preference training."
    )
    both = gr.Button("Make two takes", elem_id="takes-start")
    with gr.Row():
        with gr.Column(min_width=260):
            first = gr.Audio(
                label="Take A", interactive=False, buttons=["download"], elem_id="take-a"
            )
            a_is_better = gr.Button("A is better", interactive=False, elem_id="prefer-a")
        with gr.Column(min_width=260):
            second = gr.Audio(
                label="Take B", interactive=False, buttons=["download"], elem_id="take-b"
            )
            b_is_better = gr.Button("B is better", interactive=False, elem_id="prefer-b")
    status = gr.HTML(elem_id="takes-status")
    takes = gr.State(None)
    deciding = [a_is_better, b_is_better]
    folder = Path(first.GRADIO_CACHE)

    def make(*values: Any) -> Iterator[list[Any]]:
        form = _form(values)
        waiting = [gr.update(interactive=False)] * 2
        yield [note("Making take A"), None, None, None, *waiting]
        made: list[Take] = []
        try:
            request = form.checked(backend)
            for index, name in enumerate("ab"):
                made.append(_whole(backend, replace(request, seed=request.seed + index)))
                shown = [_saved(made[-1], folder, f"take-{name}")]
                before = [gr.skip()] * index
                behind = [None] * (1 - index)
                yield [note("Making take B"), None, *before, *shown, *behind, *waiting]
        except StepAudioError as error:
            yield [problem(_told(error, form)), None, None, None, *waiting]
            return
        ready = [gr.update(interactive=True)] * 2
        yield [_compared(made), tuple(made), gr.skip(), gr.skip(), *ready]

    def decide(winner: str, pair: tuple[Take, Take] | None) -> str:
        if pair is None:
            return problem("Make two takes first")
        try:
            number = save_preference(preferences, *pair, winner, backend.status().model)
        except StepAudioError as error:
            return problem(str(error))
        return note(
            f"Saved: {winner.upper()} is better. {counted(number, 'decision')} in {preferences}. "
            "If you change your mind, press the other button: the last one counts."
        )

    both.click(
        make,
        fields,
        [status, takes, first, second, *deciding],
        show_progress_on=[status],
        concurrency_limit=_AT_ONCE,
        api_visibility="private",
    )
    for button, winner in ((a_is_better, "a"), (b_is_better, "b")):

        def save(pair: tuple[Take, Take] | None, winner: str = winner) -> str:
            return decide(winner, pair)

        button.click(save, [takes], [status], api_visibility="private")


def _whole(backend: Backend, request: SpeakRequest) -> Take:
    """A take without an audience.

    Raises:
        RequestError: nothing was said.
        StepAudioError: it cannot be spoken, or the server is gone.
    """
    speech = Speech(backend, request)
    for _ in speech:
        pass
    if not speech.take.duration_s:
        raise RequestError("The model has said nothing: try another seed")
    return speech.take


def _compared(made: list[Take]) -> str:
    lines = [
        f"{name}: {take.duration_s:.1f} s, seed {take.request.seed}"
        for name, take in zip("AB", made, strict=True)
    ]
    warnings = [
        problem(f"{name}: {warning}")
        for name, take in zip("AB", made, strict=True)
        for warning in take.warnings
    ]
    return note(f"{'; '.join(lines)}. Listen to both, then decide.") + "".join(warnings)
