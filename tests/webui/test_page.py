"""The page as a whole: its tabs, phones, light and dark, the keyboard, no network."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.webui.site import ScriptedBackend, Site, VoicePage, screenshot

TABS = ("Voice chat", "Transcribe", "Speak", "Inspect")
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ScriptedBackend().showing() as shown:
        yield shown


def test_all_tabs_fit_a_phone_and_ask_nobody_else(
    page: Page, site: Site, pictures: Path | None
) -> None:
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_viewport_size(PHONE)
    voice = VoicePage(page, site)
    voice.say("hello")
    voice.when("talk.turns.last('assistant')?.state === 'done' && !talk.player.isBusy")
    tabs = page.get_by_role("tab")
    shown = [tabs.nth(index).inner_text().strip() for index in range(tabs.count())]
    assert [name for name in shown if name in TABS] == list(TABS)
    for name in TABS:
        page.get_by_role("tab", name=name, exact=True).click()
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
    page.get_by_role("tab", name=TABS[0], exact=True).click()
    screenshot(page, pictures, "voice-chat-phone")
    foreign = {url for url in asked if not url.startswith((site.url, "data:", "blob:"))}
    assert not foreign and not errors


def test_light_and_dark_are_kept_and_readable(
    page: Page, site: Site, pictures: Path | None
) -> None:
    voice = VoicePage(page, site)
    voice.say("hello")
    voice.when("talk.turns.last('assistant')?.state === 'done' && !talk.player.isBusy")
    contrasts = [contrast(page, ".state"), contrast(page, ".turn.assistant .said")]
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("document.body.classList.contains('dark')")
    page.wait_for_timeout(300)
    contrasts += [contrast(page, ".state"), contrast(page, ".turn.assistant .said")]
    assert min(contrasts) > 7
    screenshot(page, pictures, "voice-chat-dark")
    page.reload()
    page.wait_for_function("() => document.body.classList.contains('dark')")


def test_the_keyboard_is_enough(page: Page, site: Site) -> None:
    voice = VoicePage(page, site)
    page.wait_for_selector("stepaudio-voice .mic:not([disabled])")
    page.get_by_role("tab", name="Voice chat").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name === 'text'"):
            break
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    voice.when("talk.turns.last('assistant')?.state === 'done' && !talk.player.isBusy")
    assert [turn["text"] for turn in voice.turns()] == ["hello", "Hello there."]


def test_servers_import_libraries_as_they_are() -> None:
    fileio = importlib.import_module("anyio._core._fileio")  # when the first file is sent
    assert type(fileio.__loader__) is SourceFileLoader, "see addopts in pyproject.toml"


def contrast(page: Page, selector: str) -> float:
    """Contrast of a text with what is behind it, as WCAG reckons it."""
    ratio: float = page.evaluate(
        """(selector) => {
          const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
          const luminance = (text) => rgb(text).slice(0, 3).map((value) => value / 255)
            .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
          let behind = document.querySelector(`stepaudio-voice ${selector}`);
          const front = luminance(getComputedStyle(behind).color);
          const isClear = (element) => rgb(getComputedStyle(element).backgroundColor)[3] === 0;
          while (isClear(behind)) behind = behind.parentElement;
          const back = luminance(getComputedStyle(behind).backgroundColor);
          return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
        }""",
        selector,
    )
    return ratio
