"""model-card.md: front matter that the Hub can read, and text that stays text."""

from dataclasses import replace

import yaml

from stillroom.core.records import Evidence
from stillroom.report.card import render_card
from stillroom.report.data import ReportData


def front_matter(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("\n---\n", 1)[0])


def test_the_front_matter(run: ReportData) -> None:
    front = front_matter(render_card(run))
    assert front["license"] == "other"
    assert front["base_model"] == ["acme/judge-7b"]  # what was fitted here is no base model
    assert front["tags"] == ["stillroom", "knowledge-distillation", "tabular-classification"]
    assert front["metrics"][0] == "accuracy"
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "rows.csv"
    assert {"type": "accuracy", "value": 0.956, "name": "Accuracy"} in result["metrics"]


def test_a_student_cut_out_of_its_teacher_says_so(run: ReportData) -> None:
    assert "base_model_relation" not in front_matter(render_card(run))
    cut = replace(run, job={**run.job, "student": {"kind": "huggingface", "init": "teacher-layers"}})
    assert front_matter(render_card(cut))["base_model_relation"] == "finetune"


def test_the_text_has_the_verdict_the_limits_and_the_lineage(run: ReportData) -> None:
    card = render_card(run).replace("\u202f", " ")
    for words in (
        "Distillation helped. The student is 2.8 percentage points",
        "| Accuracy | 96.8 % (94.1 to 99.5 %) | 95.6 %",
        "The verdict does not say that",
        "426 labelled training rows.",
        "**Used under a waiver.**",
        "licence llama2; training on it is waived",
        "https://ai.meta.com/llama/license/, read 2026-11-22",
        "https://x.org/by, not re-checked",
        "Temperature: 2.0",
    ):
        assert words in card, words


def test_markup_stays_text(hostile_run: ReportData) -> None:
    card = render_card(hostile_run)
    front_matter(card)
    body = card.split("\n---\n", 1)[1]
    assert "<" not in body
    table = [line for line in body.splitlines() if line.startswith("| ")]
    columns = {line.replace("\\|", "").count("|") for line in table}
    assert len(columns) == 1


def test_a_cell_cannot_break_out_of_its_line(run: ReportData) -> None:
    sly = "a\n\n# Not ours\n| x | [click](http://x) `code` *bold*"
    card = render_card(replace(run, title=sly, notes=(sly,), provenance=(replace(run.provenance[0], name=sly),)))
    assert front_matter(card)["model-index"][0]["name"] == sly
    body = card.split("\n---\n", 1)[1]
    assert "\n# Not ours" not in body
    assert "[click](http" not in body


def test_a_run_with_nothing_in_it() -> None:
    card = render_card(ReportData("nothing", {}, Evidence((), (), None)))
    assert front_matter(card)["tags"] == ["stillroom", "knowledge-distillation"]
    assert "No verdict" in card
