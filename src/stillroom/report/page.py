"""report.html: one self-contained page. Every text in it is escaped; it loads nothing and runs no script."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stillroom.core.arms import other_teacher, teacher_of
from stillroom.core.records import EVIDENCE_SCHEMA, Evidence, LeakFinding, Measure, Provenance
from stillroom.report import accept_rates, cases, generated, plots, review, teachers, words
from stillroom.report.asking import as_served, asking_words
from stillroom.report.data import ReportData
from stillroom.report.measures import GROUP_TITLES, STYLES, explanation, percent, ratio, shown, shown_range, shown_work, style

T = TypeVar("T")
TEMPLATES = Path(__file__).parent / "templates"

ARM_MEANINGS = {
    "teacher": "whom the student learns from",
    "student": "the distilled student, mean over its seeds",
    "control": "the same student on hard labels alone: same budget, same seeds",
    "untouched": "the student as it came, before any training",
    "student-onnx": "the shipped student as ONNX, run by ONNX Runtime",
}
_TEACHERS = {
    "allowed": "its answers may train other models",
    "conditional": "its answers may train other models, on conditions",
    "unknown": "nobody has declared whether its answers may train other models",
    "waived": "its terms forbid training other models; used under a waiver",
    "forbidden": "its terms forbid training other models",
}
PERMISSIONS = {
    "teacher": _TEACHERS,
    "other teacher": _TEACHERS,
    "data": {
        "allowed": "may train models",
        "conditional": "may train models, on conditions",
        "unknown": "nobody has declared whether it may train models",
        "waived": "its terms forbid training models; used under a waiver",
        "forbidden": "its terms forbid training models",
    },
    "student": {
        "allowed": "nothing above limits it",
        "conditional": "bound by the conditions of its teacher and data",
        "unknown": "rests on terms that nobody has declared",
        "waived": "made under a waiver",
        "forbidden": "made against the terms of its teacher or data",
    },
}
_COSTS = (
    "latency_p50_seconds",
    "time_to_first_token_p50_seconds",
    "size_bytes",
    "peak_memory_bytes",
    "throughput_1024_rows_per_second",
    "usd_per_1000_rows",
    "generated_tokens_per_second",
)
_ON_ANSWERS = "the same student on the data\u2019s own answers to the same prompts: as many steps, same seeds"
_OVER_NETWORK = "a model behind an endpoint; its times are those of the real requests, many at once, network included"


def render_report(data: ReportData) -> str:
    """The page as HTML, UTF-8 text below 2 MB."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    template = environment.get_template("report.html.j2")
    return template.render(
        **_head(data),
        **_figures(data),
        **_findings(data),
        css=Markup(css),  # noqa: S704 - our own file
        css_hash="sha256-" + b64encode(sha256(css.encode()).digest()).decode(),
        key_mark=plots.key_mark,
        schema=EVIDENCE_SCHEMA,
    )


def _head(data: ReportData) -> dict[str, Any]:
    evidence, verdict = data.evidence, data.evidence.verdict
    confidence = data.setting("evaluation", "confidence")
    return {
        "title": data.title,
        "task": str(data.setting("task") or "").replace("-", " "),
        "outcome": verdict.outcome.replace(" ", "-") if verdict else "none",
        "headline": words.headline(evidence),
        "finding": words.finding(evidence, confidence),
        "against_teacher": words.against_teacher(evidence),
        "limits": words.limits(evidence, confidence),
        "unit": words.unit(evidence),
        "strip": plots.verdict_strip(verdict) if verdict else None,
        "waiver": data.waiver,
        "tiles": _tiles(evidence),
        "level": "" if confidence is None else f"{percent(confidence)} ",
        "level_in_words": "most" if confidence is None else percent(confidence),
        "contents": _contents(data),
    }


def _figures(data: ReportData) -> dict[str, Any]:
    evidence, primary = data.evidence, primary_of(data)
    return {
        "arms": evidence.arms,
        "arm_meanings": [(arm, meaning) for arm in evidence.arms if (meaning := _meaning(arm, data))],
        "groups": _groups(evidence),
        "trade_offs": _trade_offs(evidence, primary),
        "forests": _forests(evidence),
        "curves": _curves(data),
        "curve_arms": [arm for arm, curve in _of_main(data.details.curves).items() if len(curve) > 1],
        "teachers": teachers.section(evidence),
        "reliabilities": [
            {"arm": arm, "ece": _value(evidence, arm, "ece"), "picture": plots.reliability(arm, bins, key=f"reliability-{i}")}
            for i, (arm, bins) in enumerate(_of_main(data.details.reliability).items())
            if bins
        ],
        "primary_label": style(primary).label if primary else "The primary measure",
        "slices": _slices(data, primary),
        "slice_arms": list(dict.fromkeys(s.arm for s in data.details.slices)),
    }


def _findings(data: ReportData) -> dict[str, Any]:
    disagreements = data.details.disagreements
    task = str(data.setting("task") or "")
    return {
        "cases": [cases.case(each, task) for each in disagreements],
        "cases_summary": cases.summary(disagreements, task),
        "leak": None if data.leak is None else _leak(data.leak, in_sample=data.setting("labelling", "mode") == "in-sample"),
        "calibration": None if data.calibration is None else data.calibration.message,
        "asking": asking_words(data.asking, data.setting("task")),
        "responses": accept_rates.section(data.responses),
        "generated": generated.section(data.generated, data.setting("evaluation", "confidence")),
        "review": None if data.review is None else review.section(data.review),
        "parity": [
            {
                "format": name,
                "difference": shown("parity_largest_difference", check.largest_difference),
                "tolerance": shown("parity_largest_difference", check.tolerance),
                "agreement": "" if check.label_agreement is None else shown("label_agreement_with_student", check.label_agreement),
                "n": check.n,
            }
            for name, check in data.parity.items()
        ],
        "provenance": [_line(line) for line in data.provenance],
        "notes": data.notes,
        "job": yaml.safe_dump(dict(data.job), sort_keys=False, allow_unicode=True),
        "work": [(stage, shown_work(seconds)) for stage, seconds in data.seconds.items()],
        "environment": list(data.environment.items()),
    }


def _meaning(arm: str, data: ReportData) -> str:
    """What an arm is, in a clause; "" where its name says it."""
    if not (name := other_teacher(arm)):
        over_network = arm == "teacher" and data.setting("teacher", "kind") == "endpoint"
        on_answers = arm == "control" and data.responses is not None
        return _OVER_NETWORK if over_network else _ON_ANSWERS if on_answers else ARM_MEANINGS.get(arm, "")
    if arm != teacher_of(arm):
        return f"the same student, taught by {teacher_of(arm)}"
    return f"another teacher: {data.setting('other_teachers', name, 'name') or data.setting('other_teachers', name, 'model')}"


def _of_main(by_arm: Mapping[str, T]) -> dict[str, T]:
    """Without the arms of other teachers, which have a section of their own."""
    return {arm: value for arm, value in by_arm.items() if not other_teacher(arm)}


def primary_of(data: ReportData) -> str:
    """The measure that the verdict (or, without one, the job) is about; "" where neither says."""
    if data.evidence.verdict:
        return data.evidence.verdict.measure
    named = data.setting("evaluation", "primary")
    known = [m.measure for m in data.evidence.measures if style(m.measure).group == "quality"]
    return str(named) if named else known[0] if known else ""


def _contents(data: ReportData) -> list[tuple[str, str]]:
    details = data.details
    costs = any(data.evidence.value(arm, cost) for arm in data.evidence.arms for cost in _COSTS)
    sections = [
        ("arms", "All arms", True),
        ("which-teacher", "Which teacher", bool(data.evidence.comparisons)),
        ("trade-offs", "Quality against cost", costs and len(data.evidence.arms) > 1),
        ("intervals", "Intervals", bool(_forests(data.evidence))),
        ("curves", "Learning curves", any(_of_main(details.curves).values())),
        ("reliability", "Reliability", any(_of_main(details.reliability).values())),
        ("disagreements", "Disagreements", bool(details.disagreements)),
        ("slices", "Groups", bool(details.slices)),
        ("teacher", "Teacher", any((data.leak, data.calibration, data.review, data.asking))),
        ("generated", "Generated examples", data.generated is not None),
        ("exports", "Exports", bool(data.parity)),
        ("lineage", "Lineage", bool(data.provenance)),
        ("notes", "Notes", bool(data.notes)),
        ("job", "Job", True),
        ("environment", "Environment", bool(data.environment)),
    ]
    return [(name, heading) for name, heading, there in sections if there]


def _tiles(evidence: Evidence) -> list[dict[str, str]]:
    tiles = []
    for measure, label in (("retention", "of the teacher\u2019s quality kept"), ("gap_closed", "of the gap to the teacher closed")):
        if found := evidence.value("student", measure):
            tiles.append({"value": shown(measure, found.value), "label": label, "small": _range(found)})
    for measure, label, less in (
        ("latency_p50_seconds", "per row", ("faster", "slower")),
        ("time_to_first_token_p50_seconds", "to the first token", ("faster", "slower")),
        ("size_bytes", "on disk", ("smaller", "larger")),
    ):
        student, teacher = evidence.value("student", measure), evidence.value("teacher", measure)
        if student and teacher and min(student.value, teacher.value) > 0:
            factor = teacher.value / student.value
            word = less[0] if factor >= 1 else less[1]
            small = f"{shown(measure, student.value)}, teacher {shown(measure, teacher.value)}"
            tiles.append({"value": ratio(max(factor, 1 / factor)), "label": f"{word} {label} than the teacher", "small": small})
    return tiles


def _groups(evidence: Evidence) -> list[dict[str, Any]]:
    """The measures as a table: one row a measure, one cell an arm."""
    found = dict.fromkeys(m.measure for m in evidence.measures)
    order = [*(name for name in STYLES if name in found), *(name for name in found if name not in STYLES)]
    groups = []
    for group, title in GROUP_TITLES.items():
        rows = [
            {
                "label": style(name).label,
                "explanation": explanation(name, of_tokens=words.unit(evidence) == "document"),
                "cells": [_cell(evidence.value(arm, name)) for arm in evidence.arms],
            }
            for name in order
            if style(name).group == group
        ]
        if rows:
            groups.append({"title": title, "rows": rows})
    return groups


def _cell(measure: Measure | None) -> dict[str, str] | None:
    return None if measure is None else {"value": shown(measure.measure, measure.value), "range": _range(measure)}


def _range(measure: Measure) -> str:
    if measure.low is None or measure.high is None:
        return ""
    return shown_range(measure.measure, measure.low, measure.high, like=measure.value)


def _value(evidence: Evidence, arm: str, measure: str) -> str:
    found = evidence.value(arm, measure)
    return "" if found is None else shown(measure, found.value)


def _trade_offs(evidence: Evidence, primary: str) -> list[dict[str, Any]]:
    if not primary:
        return []
    made = [(cost, plots.trade_off(evidence, primary, cost, key=f"trade-off-{i}")) for i, cost in enumerate(_COSTS)]
    title = style(primary).label
    return [{"title": f"{title} and {style(cost).label.lower()}", "picture": picture} for cost, picture in made if picture is not None]


def _forests(evidence: Evidence) -> list[dict[str, Any]]:
    forests = []
    for name in dict.fromkeys(m.measure for m in evidence.measures if style(m.measure).group == "quality"):
        rows = [m for m in evidence.measures if m.measure == name and m.low is not None]
        if not rows:
            continue
        intervals = [plots.Interval(m.arm, m.value, m.low, m.high) for m in rows]
        axis = plots.interval_axis(intervals)
        better = {"higher": "more is better", "lower": "less is better", "": ""}[style(name).better]
        cells = [
            {
                "arm": m.arm,
                "value": shown(name, m.value),
                "cell": plots.interval_cell([i], axis, f"{m.arm}: {shown(name, m.value)}, {_range(m)}"),
            }
            for m, i in zip(rows, intervals, strict=True)
        ]
        explained = "; ".join(filter(None, [explanation(name, of_tokens=words.unit(evidence) == "document"), better]))
        forests.append({"label": style(name).label, "explanation": explained, "rows": cells, "ticks": plots.interval_ticks(name, axis)})
    return forests


def _curves(data: ReportData) -> list[dict[str, Any]]:
    curves = _of_main(data.details.curves)
    drawn = []
    for i, name in enumerate(dict.fromkeys(point.measure for curve in curves.values() for point in curve)):
        of_measure = {arm: [point for point in curve if point.measure == name] for arm, curve in curves.items()}
        kept = {arm: curve for arm, curve in of_measure.items() if len(curve) > 1}
        if kept:
            drawn.append({"title": style(name).label.capitalize(), "picture": plots.learning_curve(name, kept, key=f"curve-{i}")})
    return drawn


def _slices(data: ReportData, primary: str) -> list[dict[str, Any]]:
    slices = []
    for column in dict.fromkeys(s.column for s in data.details.slices):
        found = [s for s in data.details.slices if s.column == column]
        axis = plots.interval_axis([plots.Interval(s.arm, s.value, s.low, s.high) for s in found])
        rows = []
        for group in dict.fromkeys(s.group for s in found):
            members = [s for s in found if s.group == group]
            told = "; ".join(f"{s.arm}: {shown(primary, s.value)}" for s in members)
            student = next((shown(primary, s.value) for s in members if s.arm == "student"), "")
            intervals = [plots.Interval(s.arm, s.value, s.low, s.high) for s in members]
            rows.append(
                {"group": group or "(blank)", "n": members[0].n, "value": student, "cell": plots.interval_cell(intervals, axis, told)}
            )
        slices.append({"column": column, "rows": rows, "ticks": plots.interval_ticks(primary, axis)})
    return slices


def _leak(leak: LeakFinding, *, in_sample: bool) -> dict[str, Any]:
    measure = "r2" if leak.in_sample_entropy is None else "accuracy"

    def entropy(value: float | None) -> str:
        return "" if value is None else shown("log_loss", value)

    return {
        "alarms": leak.leaks and in_sample,
        "spared": leak.leaks and not in_sample,
        "message": leak.message,
        "n": leak.n,
        "measure": f"{style(measure).label} against the labels",
        "fit_in": shown(measure, leak.in_sample_fit),
        "fit_out": shown(measure, leak.out_of_fold_fit),
        "entropy_in": entropy(leak.in_sample_entropy),
        "entropy_out": entropy(leak.out_of_fold_entropy),
    }


def _line(line: Provenance) -> dict[str, Any]:
    is_dated = line.checked_on[:1].isdigit()
    return {
        "role": line.role,
        "name": line.name,
        "kind": line.kind,
        "licence": "licence not chosen yet" if line.role == "student" else line.licence,
        "output_training": line.output_training,
        "permission": PERMISSIONS[line.role][line.output_training],
        "conditions": line.conditions,
        "source": line.source,
        "answered_by": f"{line.provider}{as_served(line)}" if line.provider else "",
        "links": line.source.startswith("https://"),
        "checked": f"read {line.checked_on}" if is_dated else line.checked_on,
        "fingerprint": line.fingerprint,
    }
