"""model-card.md: a model card with the front matter that the Hugging Face Hub reads, ready to be finished by a person."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from stillroom.core.records import Evidence, Measure, Provenance
from stillroom.report import words
from stillroom.report.accept_rates import accept_words
from stillroom.report.asking import as_served, asking_words
from stillroom.report.data import ReportData
from stillroom.report.measures import percent, shown, shown_range, style
from stillroom.report.review import review_words
from stillroom.report.teachers import CAUTION, domains_of, level_words, which_teacher

_PIPELINES = {
    "tabular-classification": "tabular-classification",
    "tabular-regression": "tabular-regression",
    "text-classification": "text-classification",
    "sequence-labelling": "token-classification",
    "language-model": "text-generation",
}
_FITTED_HERE = "fitted here"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def render_card(data: ReportData) -> str:
    """The card as Markdown. Every text of the data's is escaped: the Hub renders HTML in Markdown."""
    sections = [
        f"# {_plain(data.title)}",
        _intended(data),
        "## Was distillation worth it?\n\n" + _plain(words.verdict_words(data.evidence, data.setting("evaluation", "confidence"))),
        *_which_teacher(data),
        "## Results\n\n" + _results(data),
        "## Limits\n\n" + _bullets([*words.limits(data.evidence, data.setting("evaluation", "confidence")), *_own_limits(data)]),
        "## Lineage\n\n" + _lineage(data),
        "## Training\n\n" + _training(data),
        "## Use\n\n" + _use(data),
    ]
    return f"---\n{_front_matter(data)}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(data: ReportData) -> str:
    teachers = [line for line in data.provenance if line.role == "teacher"]
    task = str(data.setting("task") or "")
    # The student's licence is its owner's choice; "other" is the Hub's word for "see the card".
    front: dict[str, Any] = {"license": "other", "license_name": "not-chosen"}
    if names := [line.name for line in teachers if line.licence != _FITTED_HERE and _HUB_NAME.fullmatch(line.name)]:
        front["base_model"] = names
        if data.setting("student", "init") == "teacher-layers":
            front["base_model_relation"] = "finetune"  # else none: the Hub has no word for "distilled from"
    front["tags"] = ["stillroom", "knowledge-distillation", *([task] if task else [])]
    front["metrics"] = _primary_first(data.evidence)
    front["pipeline_tag"] = _PIPELINES.get(task)
    front["model-index"] = [{"name": data.title, "results": [_index(data, task)]}]
    return str(yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True))


def _primary_first(evidence: Evidence) -> list[str]:
    names = list(dict.fromkeys(m.measure for m in evidence.measures if style(m.measure).group == "quality" and m.arm == "student"))
    first = evidence.verdict.measure if evidence.verdict else None
    return sorted(names, key=lambda name: name != first)


def _index(data: ReportData, task: str) -> dict[str, Any]:
    rows = [line.name for line in data.provenance if line.role == "data"]
    metrics = [
        {"type": m.measure, "value": round(m.value, 6), "name": style(m.measure).label}
        for m in data.evidence.measures
        if m.arm == "student" and style(m.measure).group == "quality"
    ]
    dataset = {"type": "private", "name": rows[0] if rows else "unnamed", "split": "test"}
    return {"task": {"type": task or "other"}, "dataset": dataset, "metrics": metrics}


def _intended(data: ReportData) -> str:
    task = str(data.setting("task") or "prediction").replace("-", " ")
    teachers = ", ".join(_plain(line.name) for line in data.provenance if line.role == "teacher") or "a teacher"
    text = f"A small model for {_plain(task)}, distilled from {teachers} with Stillroom."
    if data.waiver:
        text += f"\n\n> **Used under a waiver.** Terms in its lineage forbid training other models. {_plain(data.waiver)}"
    return text


def _which_teacher(data: ReportData) -> list[str]:
    """A section where several teachers were compared."""
    evidence = data.evidence
    found = [" ".join(which_teacher(evidence, name)) for name in domains_of(evidence)]
    cautions = " ".join(filter(None, [level_words(evidence), CAUTION]))
    return ["\n\n".join(["## Which teacher?", *map(_plain, (*found, cautions))])] if found else []


def _results(data: ReportData) -> str:
    evidence, confidence = data.evidence, data.setting("evaluation", "confidence")
    names = dict.fromkeys(m.measure for m in evidence.measures)
    head = ["Measure", *(_plain(arm) for arm in evidence.arms)]
    body = [[_plain(style(name).label), *(_value(evidence.value(arm, name)) for arm in evidence.arms)] for name in names]
    rows = next((m.n for m in evidence.measures if style(m.measure).group == "quality"), 0)
    interval = "intervals" if confidence is None else f"{percent(confidence)} intervals"
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body])
    learnt = "the data's own answers" if data.responses else "hard labels"
    control = f"`control` is the same student trained on {learnt} alone."
    return f"On {rows} test {words.unit(evidence)}s, in brackets {interval}. {control}\n\n{table}"


def _value(measure: Measure | None) -> str:
    if measure is None:
        return ""
    value = shown(measure.measure, measure.value)
    if measure.low is None or measure.high is None:
        return value
    return f"{value} ({shown_range(measure.measure, measure.low, measure.high, like=measure.value)})"


def _own_limits(data: ReportData) -> list[str]:
    limits = [
        "The student inherits the teacher's errors and biases where it agrees with it; see the groups and disagreements in report.html.",
        *data.notes,
        *asking_words(data.asking, data.setting("task")),
        *([] if data.responses is None else accept_words(data.responses)),
    ]
    if data.leak is not None and data.leak.leaks and data.setting("labelling", "mode") == "in-sample":
        limits.append(data.leak.message)
    if data.review is not None:
        limits += review_words(data.review)
    return limits


def _lineage(data: ReportData) -> str:
    return "\n".join(_lineage_line(line) for line in data.provenance) or "Not recorded."


def _lineage_line(line: Provenance) -> str:
    licence = "its licence is its owner's to choose" if line.role == "student" else f"licence {_plain(line.licence)}"
    text = f"- **{line.role}** {_plain(line.name)} ({_plain(line.kind)}): {licence}; training on it is {line.output_training}."
    if line.role == "student":
        text = f"- **student** {_plain(line.name)} ({_plain(line.kind)}): {licence}, within terms that are {line.output_training}."
    checked = f", {'read ' if line.checked_on[:1].isdigit() else ''}{line.checked_on}" if line.checked_on else ""
    answered = [f"Answered by {line.provider}{as_served(line)}"] if line.provider else []
    source = [f"Source: {line.source}{checked}"] if line.source else []
    return "\n".join([text, *(f"  - {_plain(sentence)}" for sentence in (*line.conditions, *answered, *source))])


def _training(data: ReportData) -> str:
    facts = [
        ("Teacher", next((value for key in ("estimator", "model", "object", "kind") if (value := data.setting("teacher", key))), None)),
        ("Student", data.setting("student", "estimator") or data.setting("student", "kind")),
        *_objective(data),
        ("Students trained, each with a seed of its own", data.setting("evaluation", "seeds")),
    ]
    calibration = [] if data.calibration is None else [_plain(data.calibration.message)]
    return _bullets([*(f"{name}: {value}" for name, value in facts if value is not None), *calibration, "The whole job is in job.yaml."])


def _objective(data: ReportData) -> list[tuple[str, Any]]:
    """What the student learns from."""
    if data.responses is not None:
        return [("Objective", "cross-entropy on the teacher's responses"), ("Check of the responses", data.responses.check)]
    return [
        ("Temperature", data.setting("objective", "temperature")),
        ("Weight of the hard labels", data.setting("objective", "hard_label_weight")),
        ("Labelling", data.setting("labelling", "tokens" if data.setting("task") == "language-model" else "mode")),
    ]


def _use(data: ReportData) -> str:
    if data.setting("task") == "language-model":
        prompt = 'prompt = tokenizer("Once upon a time", return_tensors="pt")'
        if data.setting("data", "messages"):
            prompt = (
                'messages = [{"role": "user", "content": "Who are you?"}]\n'
                'prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)'
            )
        return (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("path/to/run/student")\n'
            'tokenizer = AutoTokenizer.from_pretrained("path/to/run/student")\n'
            f"{prompt}\n"
            "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=64)[0], skip_special_tokens=True))\n```\n\n"
            "transformers alone loads it. `stillroom write` writes without code; `lineage.json` says who taught what."
        )
    if data.setting("task") == "sequence-labelling":
        return (
            '```python\nimport stillroom\n\nstudent = stillroom.load("path/to/run")\n'
            'student.predict(["Ann is in Paris."])  # the spans of each text: start, end, label\n```\n\n'
            "`student/` is a transformers checkpoint, whose tags stand on the first piece of each word: "
            '`pipeline("token-classification", "path/to/run/student", aggregation_strategy="first")`. '
            "`lineage.json` says who taught what."
        )
    return (
        '```python\nimport stillroom\n\nstudent = stillroom.load("path/to/run")\nstudent.predict(table)\n```\n\n'
        "The exports lie in `exports/`; `lineage.json` says who taught what."
    )


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(sentence)}" for sentence in sentences)


def _plain(text: object) -> str:
    """A text that Markdown and HTML leave as it is, on one line."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", line)
