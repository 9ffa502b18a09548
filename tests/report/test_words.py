"""The verdict in words says what the numbers say, in both directions, and what they do not say."""

from dataclasses import replace

import pytest

from stillroom.core.records import Evidence, Measure, Verdict
from stillroom.report.words import against_teacher, finding, headline, limits, verdict_words


def plain(text: str) -> str:
    return text.replace("\u202f", " ").replace("\u2212", "-").replace("\u2019", "'")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("helped", "Distillation helped. The student is 2.8 percentage points of accuracy better than the same student trained"),
        ("no evidence", "No evidence that distillation helped. The student is 0.7 percentage points of accuracy better than"),
        ("hurt", "Distillation hurt. The student is 3.1 percentage points of accuracy worse than"),
    ],
)
def test_the_three_outcomes(outcome: str, words: str, make) -> None:
    assert plain(verdict_words(make(outcome).evidence)).startswith(words)


def test_the_interval_and_its_level(make) -> None:
    assert "(95 % interval -1.2 to +2.6)" in plain(finding(make("no evidence").evidence, 0.95))
    assert "(interval +0.6 to +5.1)" in plain(finding(make("helped").evidence))


def test_a_loss_is_judged_by_its_sign_not_by_its_direction(make) -> None:
    """`difference` is positive where the student is better, also where less is better."""
    evidence = replace(make().evidence, verdict=Verdict("helped", "log_loss", 0.13, 0.02, 0.2))
    assert "0.130 nats of log loss better" in finding(evidence)


def test_no_difference_at_all(make) -> None:
    evidence = replace(make().evidence, verdict=Verdict("no evidence", "r2", 0.0, 0.0, 0.0))
    assert "do not differ" in finding(evidence)


def test_next_to_the_teacher(make) -> None:
    evidence = make().evidence
    words = plain(against_teacher(evidence))
    assert "keeps 98.8 % of the teacher's accuracy" in words
    assert "810 µs, the teacher in 21.3 ms: 26× faster" in words
    assert "61.0 kB, the teacher 48.2 MB: 790× smaller" in words
    swapped = {"teacher": "student", "student": "teacher"}
    turned = Evidence(evidence.arms, tuple(replace(m, arm=swapped.get(m.arm, m.arm)) for m in evidence.measures), evidence.verdict)
    words = plain(against_teacher(turned))
    assert "21.3 ms, the teacher in 810 µs: 26× slower" in words
    assert "790× larger" in words
    assert against_teacher(Evidence((), (), None)) == ""


def test_without_a_control_there_is_no_verdict(regression_run) -> None:
    assert headline(regression_run.evidence).startswith("No verdict")
    assert "evaluation.control" in limits(regression_run.evidence)[0]


@pytest.mark.parametrize("outcome", ["helped", "no evidence", "hurt"])
def test_each_outcome_says_what_it_does_not_say(outcome: str, make) -> None:
    said = limits(make(outcome).evidence, 0.95)
    assert "does not say" in said[0]
    assert any("143 test rows" in sentence for sentence in said)
    assert any("3 students and 3 controls" in sentence for sentence in said)
    assert len({limits(make(other).evidence)[0] for other in ("helped", "no evidence", "hurt")}) == 3


def test_a_single_student_shows_nothing_and_that_is_said(make) -> None:
    evidence = make("no evidence").evidence
    one = replace(evidence, measures=tuple(replace(m, seeds=1) for m in evidence.measures))
    assert any("Only one student was trained" in sentence for sentence in limits(one))
    assert not any("Only one student" in sentence for sentence in limits(evidence))


def test_a_wide_interval_is_called_wide(make) -> None:
    evidence = make("no evidence").evidence
    wide = replace(evidence, verdict=Verdict("no evidence", "accuracy", 0.007, -0.2, 0.2))
    assert any("interval is wide" in sentence for sentence in limits(wide))
    narrow = replace(evidence, verdict=Verdict("no evidence", "accuracy", 0.0, -0.001, 0.001))
    assert not any("interval is wide" in sentence for sentence in limits(narrow))


def test_of_a_loss_the_teachers_is_a_multiple_and_nothing_is_kept() -> None:
    measures = tuple(Measure(arm, "log_loss", value, None, None, 9, 1) for arm, value in (("teacher", 0.8), ("student", 2.0)))
    kept = Measure("student", "retention", 0.4, None, None, 9, 1)
    evidence = Evidence(("teacher", "student"), (*measures, kept), Verdict("no evidence", "log_loss", 0.0, -1.0, 1.0))
    assert plain(against_teacher(evidence)) == "Its log loss is 2.5\u00d7 the teacher's."
