"""Which teacher taught best? What a run found about several teachers, in words and as rows of a table."""

from __future__ import annotations

from typing import Any

from stillroom.core.arms import other_teacher, student_of, teacher_of
from stillroom.core.records import Comparison, Evidence
from stillroom.report import plots
from stillroom.report.measures import difference_words, in_a_sentence, percent, shown, shown_difference, shown_range, style

CAUTION = "Whoever chooses a teacher by these documents should measure the chosen one\u2019s student on others."


def section(evidence: Evidence) -> dict[str, Any] | None:
    """What the page shows of several teachers; None where there is one alone."""
    teachers, domains = teachers_of(evidence), domains_of(evidence)
    if not domains:
        return None
    titles = {domain: style(domain).label for domain in domains}
    return {
        "sentences": [" ".join(which_teacher(evidence, domain)) for domain in domains],
        "pictures": [
            {"title": f"{title}: student over teacher", "picture": plots.teacher_curve(evidence, domain, teachers, key=f"teachers-{i}")}
            for i, (domain, title) in enumerate(titles.items())
        ],
        "groups": [{"title": title, "rows": rows_of(evidence, domain)} for domain, title in titles.items()],
        "levels": level_words(evidence),
        "caution": CAUTION,
    }


def teachers_of(evidence: Evidence) -> list[str]:
    """The teachers' arms, the main one first; [] where only one was asked."""
    teachers = [arm for arm in evidence.arms if arm == teacher_of(arm)]
    return teachers if len(teachers) > 1 else []


def domains_of(evidence: Evidence) -> list[str]:
    """The measure that teachers were compared on: on the test documents, and on every other domain ("log_loss@wikitext")."""
    return list(dict.fromkeys(found.measure for found in evidence.comparisons))


def which_teacher(evidence: Evidence, measure: str) -> list[str]:
    """Who taught best on one domain, whether that is beyond chance, and whether a stronger teacher taught worse."""
    teachers, sign = teachers_of(evidence), -1 if style(measure).better == "lower" else 1
    students = {teacher: evidence.value(student_of(teacher), measure) for teacher in teachers}
    values = {teacher: found.value for teacher, found in students.items() if found is not None}
    best = max(values, key=lambda teacher: sign * values[teacher])  # of equals the first: the main one
    domain = measure.partition("@")[2]
    where, name = f"On {domain}" if domain else "On the test documents", in_a_sentence(measure)
    sentences = [f"{where} {_who(best)} taught best: the {name} of its student is {shown(measure, values[best])}."]
    for teacher in teachers[1:]:
        if found := evidence.compared(student_of(teacher), "student", measure):
            sentences.append(_against_main(found, evidence.compared(teacher, "teacher", measure), teacher))
    return sentences


def rows_of(evidence: Evidence, measure: str) -> list[dict[str, Any]]:
    """A row a teacher: its own value, its student's, and that student against the control and against the main teacher's."""
    return [
        {
            "arm": teacher,
            "cells": [
                _value(evidence, teacher, measure),
                _value(evidence, student_of(teacher), measure),
                _difference(evidence.compared(student_of(teacher), "control", measure)),
                _difference(evidence.compared(student_of(teacher), "student", measure)),
            ],
        }
        for teacher in teachers_of(evidence)
    ]


def level_words(evidence: Evidence) -> str:
    """How the intervals of several comparisons hold together; "" where there is one other teacher alone."""
    levels = {c.confidence for c in evidence.comparisons if c.against != "control" or c.arm != "student"}
    count = len(teachers_of(evidence)) - 1
    if count < 2 or len(levels) != 1:
        return ""
    level = levels.pop()
    together = percent(round(1 - count * (1 - level), 6))
    return (
        f"With {count} other teachers one may stand out by luck: each interval of theirs is at {percent(round(level, 6))}, "
        f"so that the {count} of one question hold together at {together} (Bonferroni)."
    )


def _against_main(students: Comparison, teachers: Comparison | None, teacher: str) -> str:
    low, high = (_signed(students, bound) for bound in (students.low, students.high))
    interval = f"{percent(round(students.confidence, 4))} interval {low} to {high}"
    if students.difference == 0:
        return f"The student of {_who(teacher)} and the main teacher\u2019s do not differ ({interval})."
    side = "better" if students.difference > 0 else "worse"
    doubt = "beyond chance" if students.beyond_chance else "which chance may explain"
    amount = difference_words(students.measure, students.difference)
    sentence = f"The student of {_who(teacher)} is {amount} {side} than the main teacher\u2019s, {doubt} ({interval})"
    return f"{sentence}{_although_stronger(students, teachers, teacher)}."


def _although_stronger(students: Comparison, teachers: Comparison | None, teacher: str) -> str:
    """The rest of a sentence, where the teacher that is better itself, beyond chance, has the worse student."""
    if teachers is None or not teachers.beyond_chance or teachers.difference * students.difference > 0:
        return ""
    stronger = _who(teacher if teachers.difference > 0 else "teacher")
    rest = f", although {stronger} is itself the better model by {difference_words(teachers.measure, teachers.difference)}"
    return f"{rest}: the stronger teacher taught worse" if students.beyond_chance else rest


def _who(teacher: str) -> str:
    return teacher if other_teacher(teacher) else "the main teacher"


def _signed(found: Comparison, value: float) -> str:
    return shown_difference(found.measure, value)


def _value(evidence: Evidence, arm: str, measure: str) -> dict[str, str] | None:
    found = evidence.value(arm, measure)
    if found is None:
        return None
    bounded = found.low is not None and found.high is not None
    return {"value": shown(measure, found.value), "range": shown_range(measure, found.low, found.high, like=found.value) if bounded else ""}  # type: ignore[arg-type]


def _difference(found: Comparison | None) -> dict[str, str] | None:
    if found is None:
        return None
    return {"value": _signed(found, found.difference), "range": f"{_signed(found, found.low)} to {_signed(found, found.high)}"}
