"""Several teachers in the report: who taught best, whether that is beyond chance, and where the stronger one taught worse."""

from dataclasses import replace

import pytest

from stillroom.core.records import Comparison, Evidence
from stillroom.report.card import render_card
from stillroom.report.page import render_report
from stillroom.report.plots import teacher_curve
from stillroom.report.teachers import domains_of, level_words, rows_of, teachers_of, which_teacher


def plain(text: str) -> str:
    return text.replace("\u202f", " ").replace("\u2212", "-").replace("\u2019", "'")


def test_a_stronger_teacher_that_taught_worse_is_said_to_have(make_teachers) -> None:
    evidence = make_teachers(stronger_is_worse=True).evidence
    assert domains_of(evidence) == ["log_loss", "log_loss@plays"]
    words = plain(" ".join(which_teacher(evidence, "log_loss")))
    assert words.startswith("On the test documents teacher@half-trained taught best: the log loss of its student is 1.898.")
    assert (
        "teacher@a-much-larger-one is 0.060 nats of log loss worse than the main teacher's, beyond chance (97.5 % interval -0.090 to"
        in words
    )
    assert (
        "although teacher@a-much-larger-one is itself the better model by 0.210 nats of log loss: the stronger teacher taught worse."
        in words
    )
    # The other is weaker itself and not shown to teach better: no finding is made of it.
    assert "which chance may explain (97.5 % interval -0.028 to +0.032), although the main teacher is itself the better model" in words
    assert words.count("taught worse") == 1
    assert plain(which_teacher(evidence, "log_loss@plays")[0]).startswith("On plays teacher@half-trained taught best")


def test_a_stronger_teacher_that_taught_better_gets_no_but(make_teachers) -> None:
    words = plain(" ".join(which_teacher(make_teachers(stronger_is_worse=False).evidence, "log_loss")))
    assert words.startswith("On the test documents teacher@a-much-larger-one taught best: the log loss of its student is 1.840.")
    assert (
        "is 0.060 nats of log loss better than the main teacher's, beyond chance (97.5 % interval +0.030 to +0.090). The student" in words
    )
    assert "taught worse" not in words


def test_the_weaker_main_teacher_can_be_the_better_one_and_equal_students_do_not_differ(make_teachers) -> None:
    evidence = make_teachers().evidence
    turned = tuple(replace(c, difference=-c.difference, low=-c.high, high=-c.low) for c in evidence.comparisons)
    words = plain(" ".join(which_teacher(replace(evidence, comparisons=turned), "log_loss")))
    assert "better than the main teacher's, beyond chance" in words
    assert "although the main teacher is itself the better model by 0.210 nats of log loss: the stronger teacher taught worse" in words
    equal = tuple(replace(c, difference=0.0, low=-0.1, high=0.1) for c in evidence.comparisons)
    assert plain(which_teacher(replace(evidence, comparisons=equal), "log_loss")[1]).startswith(
        "The student of teacher@a-much-larger-one and the main teacher's do not differ (97.5 % interval -0.100 to +0.100)"
    )


def test_teachers_that_chance_cannot_tell_apart_are_not_called_stronger(make_teachers) -> None:
    evidence = make_teachers().evidence
    unsure = tuple(replace(c, low=-1.0, high=1.0) if c.against == "teacher" else c for c in evidence.comparisons)
    assert "itself" not in " ".join(which_teacher(replace(evidence, comparisons=unsure), "log_loss"))


def test_of_a_measure_that_grows_the_best_is_the_highest(make_teachers) -> None:
    evidence = make_teachers().evidence
    measures = tuple(replace(m, measure="accuracy", value=m.value / 4) for m in evidence.measures if m.measure == "log_loss")
    found = Comparison("student@half-trained", "student", "accuracy", -0.001, -0.01, 0.01, 0.975)
    words = plain(" ".join(which_teacher(replace(evidence, measures=measures, comparisons=(found,)), "accuracy")))
    assert words.startswith("On the test documents teacher@a-much-larger-one taught best: the accuracy of its student is 49.0 %.")
    assert "0.1 percentage points of accuracy worse" in words


def test_the_levels_are_told_where_there_are_several(make_teachers) -> None:
    evidence = make_teachers().evidence
    assert "each interval of theirs is at 97.5 %, so that the 2 of one question hold together at 95 %" in plain(level_words(evidence))
    one = replace(evidence, arms=tuple(arm for arm in evidence.arms if not arm.endswith("half-trained")))
    assert level_words(one) == ""


def test_the_table_has_every_teacher_with_its_student_and_the_differences(make_teachers) -> None:
    evidence = make_teachers().evidence
    rows = rows_of(evidence, "log_loss@plays")
    assert [row["arm"] for row in rows] == teachers_of(evidence) == ["teacher", "teacher@a-much-larger-one", "teacher@half-trained"]
    assert [[cell and plain(cell["value"]) for cell in row["cells"]] for row in rows] == [
        ["2.720", "3.000", "+0.090", None],
        ["2.510", "3.060", "+0.030", "-0.060"],
        ["2.850", "2.998", "+0.092", "+0.002"],
    ]


def test_the_curve_puts_each_student_over_its_teacher(make_teachers) -> None:
    evidence = make_teachers().evidence
    drawn = str(teacher_curve(evidence, "log_loss", teachers_of(evidence), key="k"))
    assert "a-much-larger-one: 1.410, its student 1.960; main: 1.620, its student 1.900; half-trained: 1.750, its student 1.898" in drawn
    points = [pair.split(",") for pair in drawn.partition('polyline points="')[2].partition('"')[0].split()]
    across, down = ([float(pair[axis]) for pair in points] for axis in (0, 1))
    assert across == sorted(across)
    assert down[0] < down[1] < down[2], "a higher loss stands higher"
    alone = replace(evidence, measures=tuple(m for m in evidence.measures if m.arm != "control"))
    assert "control" not in str(teacher_curve(alone, "log_loss", teachers_of(alone), key="k"))


def test_page_and_card_show_them_and_only_the_main_one_is_what_the_student_was_made_from(teachers_run) -> None:
    page, card = plain(render_report(teachers_run)), plain(render_card(teachers_run))
    for text in (page, card):
        assert "the stronger teacher taught worse" in text
        assert "chooses a teacher by these documents" in text
    assert page.count('id="which-teacher"') == 1
    assert page.count("Log loss, on plays: student over teacher") == 1
    assert "another teacher: acme/lm-30m" in page
    assert "another teacher: step 1000" in page
    assert "Of the first trained student and control" in page, "learning curves of the main arms alone"
    assert "distilled from extra-trees with Stillroom" in card
    assert "acme/lm-30m" not in card.partition("\n---\n")[0], "no base model of what ships"


def test_one_teacher_alone_has_no_such_section(run) -> None:
    assert "which-teacher" not in render_report(run)
    assert "Which teacher" not in render_card(run)
    assert teachers_of(Evidence((), (), None)) == []


@pytest.mark.parametrize("arm", ["teacher@x", "student@x"])
def test_an_other_arm_has_its_roles_colour_and_a_mark_of_its_own(arm: str) -> None:
    from stillroom.report.plots import key_mark

    role = arm.partition("@")[0]
    assert f"arm-{role}" in key_mark(arm)
    assert key_mark(arm) != key_mark(role)
