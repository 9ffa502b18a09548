"""The page in a real browser: keys, a phone, light and dark, and texts that try to be more."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stillroom.review.server import ReviewServer
from stillroom.review.session import Session

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run")
SIZES = {"desktop": (1280, 900), "phone": (400, 780)}
TEXTS = ("Where is my card?", '<img src=x onerror="document.title = 1"><b>bold</b>', "third", "a" * 400)
CONTRAST = """
const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = e => {
  const c = getComputedStyle(e).backgroundColor;
  return c !== 'rgba(0, 0, 0, 0)' || !e.parentElement ? c : ground(e.parentElement);
};
const low = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || e.closest('noscript, meter, [hidden]') || e.disabled) continue;
  const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) low.push(walker.currentNode.textContent.trim() + ' ' + ratio.toFixed(2));
}
return low;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    binary = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        reason = "chromium and chromedriver are not installed: apt-get install chromium chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        chrome = webdriver.Chrome(options=options, service=Service(driver))
        yield chrome
        chrome.quit()


class Page:
    """The review's page, opened."""

    def __init__(self, browser: Any, server: ReviewServer, size: str = "desktop", scheme: str = "light") -> None:
        self.browser = browser
        width, height = SIZES[size]
        device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": size == "phone"})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        browser.get_log("browser")
        browser.get(server.url)
        self.wait(lambda: self.text("where") not in ("", "Review"))

    def text(self, name: str) -> str:
        return str(self.browser.execute_script("return document.getElementById(arguments[0]).textContent", name))

    def wait(self, holds: Callable[[], bool]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 10, poll_frequency=0.02).until(lambda _: holds())

    def press(self, *keys: str) -> None:
        """Into whatever has the focus."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def at(self, number: int) -> None:
        self.wait(lambda: self.text("where").startswith(f"Row {number} "))


@pytest.fixture
def session(make: Callable[..., Session], tmp_path: Path) -> Session:
    return make(tmp_path, texts=TEXTS)


@pytest.fixture
def server(session: Session) -> Iterator[ReviewServer]:
    with ReviewServer(session) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_review_by_keyboard_alone(browser: Any, server: ReviewServer, session: Session) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, server)
    page.at(1)
    page.press(Keys.ENTER)  # accepts
    page.at(2)
    page.press("refu")
    page.wait(lambda: page.text("hint") == "Enter takes refund.")
    page.press(Keys.ENTER)
    page.at(3)
    page.press(Keys.PAGE_DOWN)  # skips
    page.at(4)
    page.press(Keys.PAGE_UP)
    page.at(3)
    assert page.text("hint") == "You have skipped this row."
    page.press("no such label", Keys.ENTER)
    page.at(3)
    assert page.text("hint") == "No label holds this."
    page.press(*[Keys.BACKSPACE] * 13, "=", Keys.ENTER)
    page.at(4)
    page.press(Keys.ENTER)
    page.wait(lambda: page.text("where") == "Done")
    assert session.decided() == {0: "card lost", 1: "refund", 2: "=SUM(A1)", 3: "card lost"}
    assert browser.get_log("browser") == []


def test_goes_on_where_it_stopped(browser: Any, server: ReviewServer, session: Session) -> None:
    session.decide({0: "refund", 1: None})
    page = Page(browser, server)
    page.at(3)
    assert page.text("done") == "2 of 4 decided"


def test_markup_in_a_row_is_text(browser: Any, server: ReviewServer, session: Session) -> None:
    session.decide({0: None})
    page = Page(browser, server)
    page.at(2)
    assert page.text("text") == TEXTS[1]
    assert browser.execute_script("return document.querySelectorAll('#row img, #row b').length") == 0
    assert browser.title == "Review: intents"
    assert "<b>soon</b>" in browser.execute_script("return document.getElementById('labels').textContent")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("columns", [("text",), ("age", "an uncommonly long name of a column", "diagnosis", "d")])
def test_fits_and_can_be_read(
    browser: Any, make: Callable[..., Session], tmp_path: Path, size: str, scheme: str, columns: tuple[str, ...]
) -> None:
    with ReviewServer(make(tmp_path, texts=(TEXTS[3],), columns=columns)) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        page = Page(browser, server, size, scheme)
        page.at(1)
        wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= inner == SIZES[size][0]
        sideways = "return [...document.querySelectorAll('#row *')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth).length"
        assert browser.execute_script(sideways) == 0
        assert browser.execute_script(CONTRAST) == []
        heights = "return [...document.querySelectorAll('#row button, #row input')].map(e => e.getBoundingClientRect().height)"
        assert min(browser.execute_script(heights)) >= 43  # a finger's breadth
        assert browser.get_log("browser") == []
        server.shutdown()


def test_a_screen_reader_is_told_each_row_and_every_control_has_a_name(browser: Any, server: ReviewServer) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, server)
    page.at(1)
    assert page.text("said").startswith("Row 1. Where is my card? The teacher says card lost, 60.0")
    page.press(Keys.ENTER)
    page.at(2)
    assert page.text("said").startswith("Row 2. ")
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = [n for n in tree if n.get("role", {}).get("value") in ("button", "textbox", "progressbar") and not n["ignored"]]
    assert len(controls) >= 8
    assert all(node["name"]["value"] for node in controls)
    assert next(n for n in controls if n["role"]["value"] == "textbox")["name"]["value"] == "Or another label"


def test_on_a_phone_no_keyboard_springs_up_and_a_finger_decides(browser: Any, server: ReviewServer, session: Session) -> None:
    page = Page(browser, server, "phone")
    page.at(1)
    assert browser.execute_script("return document.activeElement.id") == "where"
    browser.find_element("id", "accept").click()
    page.at(2)
    browser.find_element("css selector", "#labels button").click()
    page.at(3)
    assert session.decided() == {0: "card lost", 1: "card arrival"}


def test_when_the_command_has_ended_the_page_says_so_and_stays(browser: Any, server: ReviewServer, session: Session) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, server)
    page.at(1)
    browser.execute_script("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    page.press(Keys.ENTER)
    page.wait(lambda: "has ended in the terminal" in page.text("alert"))
    page.at(1)
    assert session.decided() == {}


@pytest.mark.parametrize("size", SIZES)
def test_certainty_stays_on_one_line(browser: Any, session: Session, size: str) -> None:
    sure = replace(session.items[0], probs=(1.0, 0.0, 0.0, 0.0, 0.0))
    with ReviewServer(Session("intents", [sure], session.classes, {}, session.journal, "Ann", "sr1-sample", 7)) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        Page(browser, server, size).at(1)
        heights = browser.execute_script(
            "return [...document.querySelectorAll('#answers .num')].map(e => e.getBoundingClientRect().height)"
        )
        assert len(set(heights)) == 1
        wide = "return [...document.querySelectorAll('#answers .num')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert browser.execute_script(wide) == 0
        server.shutdown()
