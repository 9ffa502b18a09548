"""The report in a real browser: desktop and phone, light and dark, silent, and nothing beyond the page."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillroom.core.records import Disagreement
from stillroom.report.page import render_report

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SIZES = {"desktop": (1280, 900), "half a desktop": (500, 900), "phone": (360, 780), "large phone": (390, 844)}

OVERLAPPING_TEXTS = """
const hits = [];
for (const svg of document.querySelectorAll('svg')) {
  if (svg.parentElement.closest('svg')) continue;
  const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
    const [a, b] = [texts[i][1], texts[j][1]];
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    // Line boxes are taller than letters: neighbours may touch by a few pixels.
    if (across > 1 && down > 6) hits.push(texts[i][0] + ' over ' + texts[j][0]);
  }
}
return hits;
"""
LOW_CONTRAST = """
const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const paper = light(getComputedStyle(document.body).backgroundColor);
const hits = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || element.closest('title, desc, pre')) continue;
  const style = getComputedStyle(element);
  const ink = light(element.closest('svg') ? style.fill : style.color);
  const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  if (ratio < 4.5) hits.push(element.tagName + ' ' + walker.currentNode.textContent.trim().slice(0, 30) + ' ' + ratio.toFixed(2));
}
return hits;
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
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        chrome = webdriver.Chrome(options=options, service=Service(driver))
        yield chrome
        chrome.quit()


def show(browser: Any, html: str, folder: Path, *, size: str = "desktop", scheme: str = "light") -> str:
    """Open a page as a file; returns its address."""
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    width, height = SIZES[size]
    device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size != "desktop"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(path.as_uri())
    return path.as_uri()


def requested(browser: Any) -> set[str]:
    """What the page asked for; not what the browser's own first page still loads."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    return {url for url in urls if not url.startswith("chrome://")}


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("outcome", ["helped", "close", "hostile", "regression", "teachers"])
def test_is_silent_fits_and_can_be_read(
    outcome: str, scheme: str, size: str, browser: Any, make, close_run, hostile_run, regression_run, teachers_run, tmp_path: Path
) -> None:
    made = {"close": close_run, "hostile": hostile_run, "regression": regression_run, "teachers": teachers_run}
    run = made.get(outcome) or make(outcome)
    address = show(browser, render_report(run), tmp_path, size=size, scheme=scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert browser.get_log("browser") == []
    assert {url for url in requested(browser) if not url.startswith("data:")} == {address}
    wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner == SIZES[size][0]
    assert browser.execute_script(LOW_CONTRAST) == []
    if outcome != "hostile":  # names as long as a sentence have no room beside a point
        assert browser.execute_script(OVERLAPPING_TEXTS) == []


def test_several_teachers_fit_a_phone(browser: Any, teachers_run, tmp_path: Path) -> None:
    """The section is no wider than the screen; its table scrolls by itself, and its pictures show every name whole."""
    show(browser, render_report(teachers_run), tmp_path, size="large phone")
    wide, right, table, cut = browser.execute_script(
        """
        const section = document.getElementById('which-teacher').closest('section'), inner = section.querySelector('.scroll');
        const cut = [...section.querySelectorAll('svg.plot text')].filter(t => {
          const [a, b] = [t.getBoundingClientRect(), t.closest('svg').getBoundingClientRect()];
          return a.left < b.left - 1 || a.right > b.right + 1;
        });
        const reach = Math.max(...[...section.querySelectorAll('p, figure, .scroll')].map(e => e.getBoundingClientRect().right));
        return [document.documentElement.scrollWidth, reach, inner.scrollWidth > inner.clientWidth, cut.map(t => t.textContent)];
        """
    )
    assert wide == SIZES["large phone"][0]
    assert right <= wide
    assert table
    assert cut == []


OUTSIDE = """
return [...document.querySelectorAll('svg text')].filter(text => {
  let svg = text.closest('svg'); while (svg.parentElement.closest('svg')) svg = svg.parentElement.closest('svg');
  const [inner, outer] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
  return inner.left < outer.left - 1 || inner.right > outer.right + 1;
}).map(text => text.textContent);
"""


def test_no_arm_is_cut_off_where_there_is_room_for_folded_intervals(browser: Any, language_run, tmp_path: Path) -> None:
    show(browser, render_report(language_run), tmp_path, size="half a desktop")
    cut = browser.execute_script(
        """
        const box = document.querySelector('.scroll'), edge = box.getBoundingClientRect().right;
        return [...box.querySelectorAll('th, td, small')].filter(e => e.getBoundingClientRect().right > edge + 1).map(e => e.textContent);
        """
    )
    assert cut == []


@pytest.mark.parametrize("size", SIZES)
def test_a_language_model_s_figures_stay_inside_their_pictures(size: str, browser: Any, language_run, tmp_path: Path) -> None:
    show(browser, render_report(language_run), tmp_path, size=size)
    wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner
    assert browser.execute_script(OUTSIDE) == []
    assert browser.execute_script(OVERLAPPING_TEXTS) == []


def test_follows_the_colour_scheme_of_the_reader(browser: Any, run, tmp_path: Path) -> None:
    papers = {}
    for scheme in ("light", "dark"):
        show(browser, render_report(run), tmp_path, scheme=scheme)
        papers[scheme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert papers["light"] != papers["dark"]


def test_the_verdict_is_the_first_thing_on_a_phone(browser: Any, run, tmp_path: Path) -> None:
    show(browser, render_report(run), tmp_path, size="phone")
    top, bottom, size = browser.execute_script(
        "const e = document.querySelector('h1'), b = e.getBoundingClientRect();"
        "return [b.top, b.bottom, parseFloat(getComputedStyle(e).fontSize)]"
    )
    assert 0 <= top < bottom < SIZES["phone"][1] / 2
    assert size >= 28


def test_the_style_is_applied_under_the_page_s_own_policy(browser: Any, run, tmp_path: Path) -> None:
    show(browser, render_report(run), tmp_path)
    assert browser.execute_script("return getComputedStyle(document.querySelector('.verdict')).borderLeftStyle") == "solid"


def test_a_script_in_the_page_would_not_run(browser: Any, run, tmp_path: Path) -> None:
    """The policy is a second lock behind the escaping; here the first one is opened on purpose."""
    html = render_report(run).replace("</main>", "<script>document.title = 'broken in'</script></main>")
    show(browser, html, tmp_path)
    assert browser.title != "broken in"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_a_label_without_a_blank_wraps_on_a_phone(browser: Any, run, tmp_path: Path) -> None:
    label = "balance_not_updated_after_cheque_or_cash_deposit"
    case = Disagreement({"text": "Where is it?"}, label, label, label, label, 0.9)
    show(browser, render_report(replace(run, details=replace(run.details, disagreements=(case,)))), tmp_path, size="phone")
    wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner == SIZES["phone"][0]
