"""report.html: one page, escaped, self-contained, with everything in it that the run found."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from stillroom.core.records import Details, Evidence
from stillroom.report.data import ReportData
from stillroom.report.page import render_report

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The elements of a page with their attributes, the text, and whether the tags balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.faults: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(attrs) != len(dict(attrs)):
            self.faults.append(f"{tag} repeats an attribute")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(params=["helped", "no evidence", "hurt", "hostile", "regression", "empty"])
def any_run(request, make, hostile_run, regression_run) -> ReportData:
    made = {"hostile": hostile_run, "regression": regression_run, "empty": ReportData("nothing", {}, Evidence((), (), None))}
    return made.get(request.param) or make(request.param)


def test_is_well_formed_and_small(any_run: ReportData) -> None:
    html = render_report(any_run)
    page = Page(html)
    assert page.faults == []
    assert page.open == []
    assert len(html.encode()) < 2_000_000
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_loads_nothing_and_runs_nothing(any_run: ReportData) -> None:
    page = Page(render_report(any_run))
    names = {name for name, _ in page.elements}
    assert not names & {"script", "img", "iframe", "object", "embed", "video", "audio", "form", "base", "image", "use", "foreignobject"}
    for name, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "srcset", "style", "xlink:href")], (
            name,
            attributes,
        )
        if "href" in attributes:
            assert re.match(r"#[\w-]+$|data:,$|https://", attributes["href"] or ""), attributes
    policy = next(a["content"] for n, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_contents_lead_to_sections_that_are_there(any_run: ReportData) -> None:
    page = Page(render_report(any_run))
    ids = {attributes.get("id") for _, attributes in page.elements}
    links = [a["href"] for n, a in page.elements if n == "a" and (a.get("href") or "").startswith("#")]
    assert links
    assert {link[1:] for link in links if link} <= ids
    headings = [a["id"] for n, a in page.elements if n == "h2"]
    assert [link[1:] for link in links if link] == headings


def test_a_hostile_cell_is_shown_as_text(hostile_run: ReportData, hostile_text: str) -> None:
    html = render_report(hostile_run)
    assert "<script" not in html
    assert "<img" not in html
    page = Page(html)
    # Shown as it is wherever a text goes, and no template in it is evaluated.
    assert page.text.count(hostile_text) > 15
    assert "49" not in page.text.split("{{ 7*7")[1][:9]


def test_everything_found_is_on_the_page(run: ReportData) -> None:
    text = Page(render_report(run)).text.replace("\u202f", " ")
    for words in (
        "Distillation helped.",
        "+0.6 to +5.1",
        "94.1 to 99.5 %",
        "Throughput, 1024 rows a call",
        "The teacher knows its training rows by heart.",
        "The labels of this run are out of fold",
        "Calibrated with temperature 0.61.",
        "2.4 × 10⁻⁷",
        "its terms forbid training other models; used under a waiver",
        "read 2026-11-22",
        "CC-BY-4.0",
        "426 labelled training rows.",
        "hard_label_weight: 0.3",
        "3.11.2",
        "a group with a long name",
        "stillroom/evidence@1",
    ):
        assert words in text, words
    assert text.count("written consent of the owner") == 2  # at the top, and with the teacher


def test_every_measure_of_every_arm_is_in_the_table(run: ReportData) -> None:
    html = render_report(run)
    table = html[html.index('<table class="arms">') : html.index("</table>")]
    assert table.count("<td>") == len({m.measure for m in run.evidence.measures}) * len(run.evidence.arms)
    assert table.count("<td><span") == table.count("<td>") - len(run.evidence.measures)


def test_pictures_have_names(run: ReportData) -> None:
    html = render_report(run)
    pictures = re.findall(r"<svg[^>]*>(.{0,40})", html)
    named = [start for start in pictures if start.startswith("<title")]
    silent = re.findall(r'<svg[^>]*(?:aria-hidden="true"|overflow="visible")[^>]*>', html)
    assert len(named) + len(silent) == len(pictures)
    assert len(named) > 20


@pytest.mark.parametrize("without", ["details", "provenance", "leak", "calibration", "parity", "notes", "environment", "waiver"])
def test_what_a_run_lacks_is_left_out(without: str, run: ReportData) -> None:
    empty = {"details": Details(), "provenance": (), "parity": {}, "notes": (), "environment": {}}
    html = render_report(replace(run, **{without: empty.get(without)}))
    assert Page(html).faults == []
    assert len(html) < len(render_report(run))


def test_in_sample_labels_of_a_leaking_teacher_raise_the_alarm(run: ReportData) -> None:
    assert 'class="alarm"' not in render_report(run)
    assert 'class="alarm"' in render_report(replace(run, job={**run.job, "labelling": {"mode": "in-sample"}}))


def test_the_same_run_gives_the_same_page(run: ReportData) -> None:
    assert render_report(run) == render_report(run)


def test_how_long_each_stage_took_stands_with_the_provenance(run: ReportData) -> None:
    assert "How long each stage took over all attempts, resumed runs included label 4031.2 s · train 0.5 s" in Page(render_report(run)).text
    assert "How long" not in Page(render_report(replace(run, seconds={}))).text


def test_learning_curves_are_said_to_be_of_the_arms_that_have_one(run: ReportData) -> None:
    assert "Of the first trained student and control." in Page(render_report(run)).text
    alone = replace(run.details, curves={"student": run.details.curves["student"], "control": ()})
    assert "Of the first trained student." in Page(render_report(replace(run, details=alone))).text


def test_a_language_model_is_told_of_in_documents_and_tokens(language_run: ReportData) -> None:
    page = Page(render_report(language_run)).text
    for words in (
        "rows like the 50 test",
        "test rows",
        "row by row",
        "top class",
        "total variation",
        "given to the label",
        "label 16 tokens",
    ):
        assert words not in page, words
    for words in (
        "Every arm on the same test documents",
        "student and control document by document",
        "It holds for documents like the 50 test documents",
        "share of tokens that it held for the likeliest",
        "given to the next token, in nats a token",
        "mean KL(teacher\u2016student), in nats a token",
        "The 1 test documents on which their next-token distributions are furthest apart",
        "length 16 tokens",
        "0.0243 nats a token apart",
        "330.3",
        "between arms only validation measures compare",
    ):
        assert words in page, words
    assert 'class="wrong"' not in render_report(language_run)
