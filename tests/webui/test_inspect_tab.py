"""The tab "Inspect": the numbers are those of the model, and they are shown."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page

from stepaudio.audio.io import load_audio
from stepaudio.errors import ConfigError
from stepaudio_webui.inspection import Inspection, Token, inspect_hearing, inspect_speaking
from stepaudio_webui.local_backend import LocalBackend
from stepaudio_webui.pictures import render
from tests.webui.site import PATIENCE_S, ScriptedBackend, Site, screenshot

TEXT = "It is ten past nine."


def test_what_is_heard(nano: LocalBackend, examples: Path) -> None:
    path = examples / "us_female_1.ogg"
    samples = load_audio(path).samples
    with nano.local_model() as model:
        run = inspect_hearing(model, path)
        latents = model.config.audio_encoder_config.geometry.tokens_for_samples(len(samples))
        codes = model.synthesizer.engine.tokenize(samples).tolist()
    assert len(run.samples) == len(samples)
    assert list(run.codes) == codes and max(codes) < run.codebook_size
    heard = [token for token in run.tokens if token.kind == "heard"]
    assert len(heard) == latents and all(token.is_prompt for token in heard)
    assert run.facts["encoder"].startswith(f"{latents} latents")
    written = "".join(token.label for token in run.tokens if not token.is_prompt)
    assert run.result.replace(" ", "") == written.replace(" ", "") != ""
    assert {"log-mel", "encoder", "audio tokens"} <= run.stages.keys()
    assert all(seconds >= 0 for seconds in run.stages.values())


def test_how_it_is_spoken(nano: LocalBackend) -> None:
    with nano.local_model() as model:
        run = inspect_speaking(model, TEXT, "")
    made = [token for token in run.tokens if not token.is_prompt]
    runs = [(kind, len(list(group))) for kind, group in groupby(made, lambda token: token.kind)]
    groups = [size for kind, size in runs if kind == "audio"]
    # Behind every text token, or what fills its place, four codes; the last ones may be fewer.
    assert set(groups[:-1]) == {4} and groups[-1] <= 4
    assert sum(groups) >= len(run.codes) > 20
    assert run.duration_s == pytest.approx(len(run.codes) / 25, abs=0.6)
    assert abs(run.samples).max() > 0.02
    assert run.mel.shape[1] == pytest.approx(100 * run.duration_s, abs=4)


def test_what_is_too_long_is_told(nano: LocalBackend, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(26 * 8000), 8000)
    with nano.local_model() as model:
        with pytest.raises(ConfigError, match="26 s long"):
            inspect_hearing(model, path)
        with pytest.raises(ConfigError, match="600 letters"):
            inspect_speaking(model, "a" * 600, "")


def test_texts_cannot_become_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    run = Inspection("Spoken", evil, tokens=(Token("text", evil, True),), facts={evil: evil})
    run.samples = np.zeros(16_000, np.float32)
    run.stages[evil] = 1.0
    assert "<img src=x" not in render(run)


def test_pictures_in_a_browser(
    page: Page, nano_site: Site, examples: Path, pictures: Path | None
) -> None:
    page.set_default_timeout(1000 * PATIENCE_S)
    page.goto(nano_site.url)
    page.get_by_role("tab", name="Inspect").click()
    page.set_input_files("#inspect-audio input[type=file]", examples / "us_female_1.ogg")
    page.wait_for_selector("#inspect-audio audio", state="attached")  # ours is drawn, not shown
    page.get_by_role("button", name="Inspect what is heard").click()
    page.wait_for_selector("#inspect-result img[alt*='audio tokens']")
    assert "heard × " in page.inner_text("#inspect-result")
    width = page.evaluate("document.querySelector('#inspect-result img').naturalWidth")
    assert width > 800
    page.get_by_role("button", name="Inspect how it is spoken").click()
    page.wait_for_selector("#inspect-result .token.audio")
    assert "audio tokens in" in page.inner_text("#inspect-result")
    screenshot(page, pictures, "inspect")


def test_a_model_elsewhere_is_told_in_plain_words(page: Page) -> None:
    with ScriptedBackend().showing() as site:
        page.set_default_timeout(1000 * PATIENCE_S)
        page.goto(site.url)
        page.get_by_role("tab", name="Inspect").click()
        page.get_by_role("button", name="Inspect how it is spoken").click()
        page.wait_for_selector("#inspect-result [role=alert]")
        assert "not on this computer" in page.inner_text("#inspect-result")
