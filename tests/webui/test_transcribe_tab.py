"""Tab "Transcribe": real recordings in a browser, and what it is made of."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from playwright.sync_api import BrowserContext, Page

from stepaudio.cli.formats import Result
from stepaudio.errors import AudioLoadError, CapacityError
from stepaudio.tasks.transcript import Segment, Transcript, Word
from stepaudio_webui.backend import TranscribeOptions
from stepaudio_webui.local_backend import LocalBackend
from stepaudio_webui.server_backend import ServerBackend
from stepaudio_webui.timeline import (
    NUM_MELS,
    TILE_S,
    WAVE_COLUMNS_PER_S,
    PlayerFiles,
    clock,
    draw_tiles,
    render_player,
)
from stepaudio_webui.transcripts import (
    DecodingComparison,
    check_length,
    hear,
    parse_hotwords,
    save_archive,
    save_exports,
)
from tests.webui.site import Site, screenshot
from tests.webui.tabs import ToneBackend, TranscribeTab

RATE = 16_000
FILES = PlayerFiles("audio.wav", ((1.0, "wave0.png", "mel0.png"),))


@pytest.fixture
def tones() -> ToneBackend:
    return ToneBackend()


@pytest.fixture
def tone_site(tones: ToneBackend) -> Iterator[Site]:
    with tones.showing() as site:
        yield site


def recording(path: Path, seconds: float = 1.0, level: float = 0.1, rate: int = RATE) -> Path:
    noise = np.random.default_rng(0).normal(0, 1, round(seconds * rate)) * level
    soundfile.write(path, noise, rate)
    return path


# ---- in a browser, with nano ---------------------------------------------------------------------


def test_a_real_recording_has_words_to_click(
    page: Page, nano_site: Site, nano: LocalBackend, examples: Path, pictures: Path | None
) -> None:
    file = examples / "us_female_1.ogg"
    tab = TranscribeTab(page, nano_site)
    tab.transcribe(file)
    words = tab.words()
    transcript = nano.transcribe(file, TranscribeOptions())
    assert words == transcript.text.split() and words

    # The strip shows what there is to see, and every word at its place.
    said = [word for segment in transcript.segments for word in segment.words]
    page.wait_for_function(
        "() => [...document.querySelectorAll('#transcribe-player img')]"
        ".filter(image => image.naturalWidth > 100).length === 2"
    )
    assert page.locator("#transcribe-player .tl-label").all_inner_texts() == words

    page.locator("#transcribe-player .tl-word").nth(5).click()
    page.wait_for_function(
        "start => document.querySelector('#transcribe-player audio').currentTime > start",
        arg=said[5].start,
    )
    assert said[5].start < tab.audio("audio.currentTime") <= tab.audio("audio.duration")
    assert abs(tab.audio("audio.duration") - transcript.duration_s) < 0.05
    page.locator("#transcribe-json").scroll_into_view_if_needed()
    screenshot(page, pictures, "transcribe")

    name, data = tab.download("transcribe-srt")
    assert name == "us_female_1.srt" and data.startswith(b"1\n00:00:0")
    name, data = tab.download("transcribe-json")
    exported = json.loads(data)
    assert (exported["file"], exported["text"]) == (file.name, transcript.text)
    assert [word["word"] for word in exported["segments"][0]["words"]][:3] == words[:3]


def test_greedy_beside_multi_token_decoding(page: Page, nano_site: Site, examples: Path) -> None:
    tab = TranscribeTab(page, nano_site)
    tab.choose(examples / "digit_seven.wav")
    page.get_by_role("button", name="Compare greedy and multi-token decoding").click()
    page.click("#compare-start")
    page.wait_for_selector("#compare-result table")
    rows = page.locator("#compare-result tbody tr").all_inner_texts()
    greedy, multi = (row.split("\t") for row in rows)
    assert greedy[0] == "Greedy" and int(greedy[1]) > 0
    assert multi[0] == "Multi-token" and multi[-1] == greedy[-1]
    assert int(multi[1]) <= int(greedy[1])


def test_a_model_without_blocks_is_told(
    nano: LocalBackend, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepaudio.models.mtp_file.find_predictor", lambda source: None)
    comparison = DecodingComparison(nano).run(examples / "digit_seven.wav")
    assert [run.name for run in comparison.runs] == ["Greedy"]
    assert "nano has no prediction blocks" in comparison.note


# ---- in a browser, with a model that answers at once ---------------------------------------------


def test_many_recordings_and_a_bad_one(
    page: Page, tones: ToneBackend, tone_site: Site, tmp_path: Path, pictures: Path | None
) -> None:
    bad = tmp_path / "notes.mp3"
    bad.write_text("this is no sound")
    files = [
        recording(tmp_path / "first.wav"),
        bad,
        recording(tmp_path / "endless.flac", 31 * 60, rate=8000, level=0),
        recording(tmp_path / "last.flac", 2.0),
    ]
    tab = TranscribeTab(page, tone_site)
    page.fill("#transcribe-hotwords textarea, #transcribe-hotwords input", "Anna, Zürich")
    tab.choose_many(files)
    page.click("#batch-start")
    said = tab.wait_for("batch-status", "written down")
    assert "2 of 4 files written down; 2 could not be" in said
    page.locator("#batch-table tbody tr").nth(3).wait_for()
    rows = [row.split("\t") for row in page.locator("#batch-table tbody tr").all_inner_texts()]
    assert [row[0] for row in rows] == ["first.wav", "notes.mp3", "endless.flac", "last.flac"]
    assert rows[0][2] == "<b>one two"
    assert "not audio" in rows[1][2] and "/" not in rows[1][2]
    assert "lasts 31 minutes; this works up to 30" in rows[2][2]
    assert [options.keywords for _, options in tones.asked] == [("Anna", "Zürich")] * 2
    page.locator("#batch-zip").scroll_into_view_if_needed()
    screenshot(page, pictures, "transcribe_many")
    name, data = tab.download("batch-zip")
    assert name == "transcripts.zip"
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert sorted(names) == sorted(
        f"{stem}{suffix}"
        for stem in ("first", "last")
        for suffix in (".txt", ".json", ".srt", ".vtt")
    )


def test_many_recordings_can_be_stopped(page: Page, tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.wav" for index in range(30)]
    for file in files:
        soundfile.write(file, np.zeros(800), 16_000)
    with (tones := ToneBackend(pause_s=2.0)).showing() as site:
        tab = TranscribeTab(page, site)
        tab.choose_many(files)
        page.click("#batch-start")
        page.locator("#batch-table tbody tr").first.wait_for()
        page.click("#batch-stop")
        tab.wait_for("batch-status", "Stopped")
        heard = len(tones.asked)
        assert heard < len(files)
        page.click("#batch-start")
        for _ in range(300):
            if len(tones.asked) > heard:
                break
            page.wait_for_timeout(100)
        assert tones.asked[heard][0] == "0.wav"


def test_problems_are_told_and_the_page_goes_on(
    page: Page, tone_site: Site, tmp_path: Path
) -> None:
    tab = TranscribeTab(page, tone_site)
    page.click("#transcribe-start")
    assert "Choose a file" in tab.status("transcribe-status", "problem")

    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF no")
    page.set_input_files("#transcribe-audio input[type=file]", bad)
    page.wait_for_selector("#transcribe-audio button[aria-label=Clear]")
    page.click("#transcribe-start")
    tab.wait_for("transcribe-status", "bad.wav: ")  # Gradio's clock may stand before it for a while

    page.click("#transcribe-audio button[aria-label=Clear]")
    tab.transcribe(recording(tmp_path / "good.wav"))
    assert tab.words() == ["<b>one", "two"]


def test_words_by_the_keyboard(page: Page, tone_site: Site, tmp_path: Path) -> None:
    tab = TranscribeTab(page, tone_site)
    tab.transcribe(recording(tmp_path / "a.wav"))
    tab.words()
    page.locator("#transcribe-player .tl-word").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.innerText") == "two"
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#transcribe-player audio').currentTime >= 0.5")
    tab.audio("(audio.pause(), (audio.currentTime = 0.6))")
    page.wait_for_selector("#transcribe-player .tl-word[aria-current]")
    assert page.inner_text("#transcribe-player .tl-word[aria-current]") == "two"
    assert page.inner_text("#transcribe-player .tl-label[aria-current]") == "two"


def test_two_browsers_do_not_mix(context: BrowserContext, tone_site: Site, tmp_path: Path) -> None:
    browser = context.browser
    assert browser is not None
    tabs = [TranscribeTab(browser.new_context().new_page(), tone_site) for _ in range(2)]
    for index, tab in enumerate(tabs):
        tab.choose(recording(tmp_path / f"r{index}.wav", 1.0 + 2 * index))
    for tab in tabs:
        tab.page.click("#transcribe-start")
    for index, tab in enumerate(tabs):
        tab.words()
        tab.page.wait_for_function("document.querySelector('#transcribe-player audio').duration")
        assert round(tab.audio("audio.duration")) == 1 + 2 * index
        assert tab.download("transcribe-text")[0] == f"r{index}.txt"
        tab.page.context.close()


# ---- without a browser ---------------------------------------------------------------------------


def test_pictures_show_what_is_there() -> None:
    loud = np.zeros(RATE * (TILE_S + 1), np.float32)
    times = np.arange(RATE) / RATE
    loud[RATE : 2 * RATE] = 0.5 * np.sin(2 * np.pi * 1000 * times)
    first, second = draw_tiles(loud)
    assert (first.duration_s, second.duration_s) == (TILE_S, 1)
    wave = np.asarray(Image.open(io.BytesIO(first.wave)))
    assert wave.shape[1] == TILE_S * WAVE_COLUMNS_PER_S
    heights = wave.sum(axis=0)
    middle = slice(WAVE_COLUMNS_PER_S, 2 * WAVE_COLUMNS_PER_S)
    assert (heights[middle] == len(wave)).all()  # the loudest sample fills the height
    assert heights[: WAVE_COLUMNS_PER_S - 1].max() <= 2
    mel = np.asarray(Image.open(io.BytesIO(first.mel)))
    assert mel.shape == (NUM_MELS, 100 * TILE_S)
    column = mel[:, 150]
    assert abs(column.argmax() - (NUM_MELS - 27)) <= 1  # 1 kHz is the 27th band from below
    assert mel[:, 1000].max() < column.max()


@pytest.mark.parametrize("seconds", [0.0, 0.003, 0.5])
def test_pictures_of_short_and_silent_recordings(seconds: float) -> None:
    tiles = draw_tiles(np.zeros(round(RATE * seconds), np.float32))
    assert [tile.duration_s for tile in tiles] == ([seconds] if seconds else [])
    for tile in tiles:
        assert Image.open(io.BytesIO(tile.mel)).size[0] >= 1


def test_what_was_heard_is_text_not_markup() -> None:
    words = (Word("<script>", 0.0, 0.5, 0.9), Word('"two"', 0.5, 1.0, 0.3))
    shown = render_player(
        Transcript("<script> two", (Segment(0, 1, "<script> two", words),), 1.0), FILES
    )
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert shown.count('class="tl-word') == 2 and shown.count("tl-unsure") == 1
    assert shown.count('tabindex="0"') == 1
    assert 'data-start="0.500" data-end="1.000"' in shown


def test_segments_without_words_and_silence() -> None:
    whole = Transcript("a b", (Segment(0.25, 1, "a b"),), 1.0)
    assert 'data-start="0.250" data-end="1.000"' in render_player(whole, FILES)
    assert "No speech was found" in render_player(Transcript("", (), 1.0), FILES)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00.0"), (59.96, "1:00.0"), (3725.5, "1:02:05.5")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        (None, ()),
        (" , ;\n", ()),
        ("Anna  Kowalski, Zürich;\nZürich", ("Anna Kowalski", "Zürich")),
    ],
)
def test_hotwords(text: str | None, terms: tuple[str, ...]) -> None:
    assert parse_hotwords(text) == terms


def test_files_in_every_format(tmp_path: Path) -> None:
    results = [
        Result(name, Transcript(text, (Segment(0, 1, text),), 1.0), "nano")
        for name, text in (("a.wav", "one"), ("a.mp3", "two"))
    ]
    files = save_exports(results[0], tmp_path / "new")
    assert {kind: path.name for kind, path in files.items()} == {
        "text": "a.txt", "json": "a.json", "srt": "a.srt", "vtt": "a.vtt"
    }  # fmt: skip
    assert files["text"].read_text() == "one\n"
    archive = zipfile.ZipFile(save_archive(results, tmp_path / "zip" / "all.zip"))
    assert archive.read("a.wav.txt") == b"one\n" and archive.read("a.mp3.txt") == b"two\n"


def test_recordings_that_the_page_refuses(tmp_path: Path, tones: ToneBackend) -> None:
    assert check_length(recording(tmp_path / "a.wav")) == pytest.approx(1.0)
    with pytest.raises(CapacityError, match=r"a\.wav lasts 0 minutes; this works up to 0"):
        check_length(tmp_path / "a.wav", longest_s=0.5)
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(AudioLoadError, match=r"text\.wav"):
        hear(tones, tmp_path / "text.wav")
    assert tones.asked == []


def test_a_server_that_is_gone_is_told(page: Page, tmp_path: Path) -> None:
    from tests.webui.site import showing

    async def no_session(websocket: object) -> None: ...

    with showing(ServerBackend("http://127.0.0.1:9"), no_session) as site:
        tab = TranscribeTab(page, site)
        tab.transcribe(recording(tmp_path / "a.wav"))
        assert "does not answer" in tab.wait_for("transcribe-status", "127.0.0.1:9")
        page.get_by_role("button", name="Compare greedy and multi-token decoding").click()
        page.click("#compare-start")
        assert "without --server" in tab.wait_for("compare-result", "this computer")
