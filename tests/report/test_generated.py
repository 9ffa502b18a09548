"""What was generated, as people read it: in the terminal and on the page."""

from __future__ import annotations

import json
from dataclasses import replace

from stillroom.core.generated import Generated
from stillroom.core.records import Measure
from stillroom.report.data import ReportData
from stillroom.report.generated import section, summary
from stillroom.report.page import render_report


def test_the_summary_says_what_came_what_went_and_what_it_took(generated: Generated) -> None:
    words = summary(generated, 0.95)
    assert words[0] == "11\u202f890 of 12\u202f000 planned examples were accepted, in 4 rounds of asking."
    assert words[1].startswith("Removed: 70 nearly as another, 3 giving an evaluation text away, 1 left out of an answer.")
    assert "Requests without a usable answer: 2 not-json." in words[1]
    assert words[2].startswith("4 of 210 cells of the plan are not filled (balance_not_updated_after_bank_transfer (near pending_transfer)")
    assert words[2].endswith("angry, 2: 2 of 5; \u2026). 298 of 300 planned pairs of values are met.")
    assert words[3].startswith("All that was asked so far took 2500 requests and 1\u202f200\u202f000 tokens, 0.500\u202fUSD")
    assert words[4].startswith(
        "A model can tell generated texts from real ones: AUC 0.912 (95\u202f% interval 0.880 to 0.940); 0.5 is chance"
    )
    assert "94.0\u202f% of them the label that they were written for (11\u202f890 answers, hard 81.0\u202f%)" in words[5]
    assert words[6] == "Balance of the labels: 0.998; 1 is an equal share each."


def test_what_was_not_found_is_not_claimed(generated: Generated) -> None:
    alike = replace(generated, measures=(Measure("generated", "two_sample_auc", 0.52, 0.45, 0.6, 90, 1),), unfilled=(), unfilled_cells=0)
    words = " ".join(summary(alike))
    assert "Nothing shows that a model could tell generated texts from real ones: AUC 0.520 (interval 0.450 to 0.600)" in words
    copies = replace(generated, measures=(Measure("generated", "two_sample_auc", 0.1, 0.05, 0.2, 90, 1),))
    assert "Generated texts are close copies of real ones, of which this test cannot judge: AUC 0.100" in " ".join(summary(copies))
    assert "Every cell of the plan is filled (210)." in words
    assert "label" not in words
    empty = Generated(planned=3, accepted=0, cells=1, rounds=1, complete=False, remarks=("There are no generated texts to measure.",))
    assert summary(empty)[0] == "0 of 3 planned examples were accepted, in one round of asking. The budget ended it."
    assert summary(empty)[-1] == "There are no generated texts to measure."


def test_the_record_survives_its_json_and_new_measures_replace_old_ones(generated: Generated) -> None:
    assert Generated.from_json(json.loads(json.dumps(generated.to_json()))) == generated
    changed = generated.with_measures((Measure("generated", "label_agreement", 0.5, 0.4, 0.6, 10, 1),))
    found = changed.value("generated", "label_agreement")
    assert found is not None
    assert found.value == 0.5
    assert len(changed.measures) == len(generated.measures)


def test_the_page_shows_them_beside_the_real_texts(run: ReportData, hostile_run: ReportData) -> None:
    page = render_report(run)
    assert 'href="#generated"' in page
    assert "11\u202f890 of 12\u202f000 planned examples" in page
    shown = section(run.generated, None)
    assert shown is not None
    assert [row["label"] for row in shown["rows"]] == ["Different word pairs, all texts", "Spread"], "those that both sides have"
    assert shown["rows"][1]["cells"] == [{"value": "0.710", "range": "0.660 to 0.760"}, {"value": "0.930", "range": "0.880 to 0.980"}]
    assert "The examples that the teacher wrote" not in render_report(replace(run, generated=None))
    assert "<script>alert" not in render_report(hostile_run)
