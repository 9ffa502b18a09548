"""The verdict in plain words: what was found, how sure it is, and what it does not say."""

from __future__ import annotations

from stillroom.core.records import Evidence, Verdict
from stillroom.report.measures import difference_words, in_a_sentence, percent, ratio, shown, shown_difference, style

HEADLINES = {
    "helped": "Distillation helped.",
    "no evidence": "No evidence that distillation helped.",
    "hurt": "Distillation hurt.",
}


def verdict_words(evidence: Evidence, confidence: float | None = None) -> str:
    """The headline, the finding and the student against the teacher, as one paragraph of plain text."""
    sentences = [headline(evidence), finding(evidence, confidence), against_teacher(evidence)]
    return " ".join(sentence for sentence in sentences if sentence)


def unit(evidence: Evidence) -> str:
    """What the test split consists of, and what intervals are over: a "document" of a language model, else a "row"."""
    return "document" if any(m.measure == "perplexity" for m in evidence.measures) else "row"


def headline(evidence: Evidence) -> str:
    """The verdict in one sentence."""
    return HEADLINES[evidence.verdict.outcome] if evidence.verdict else "No verdict: this run has no control."


def finding(evidence: Evidence, confidence: float | None = None) -> str:
    """The difference to the control with its interval."""
    verdict = evidence.verdict
    if verdict is None:
        return "Whether the teacher was worth it can only be judged against the same student trained without it."
    level = "" if confidence is None else f"{percent(confidence)} "
    interval = f"{level}interval {_signed(verdict, verdict.low)} to {_signed(verdict, verdict.high)}"
    if verdict.difference == 0:
        return (
            f"On {in_a_sentence(verdict.measure)} the student and the same student trained without the teacher do not differ ({interval})."
        )
    side = "better" if verdict.difference > 0 else "worse"
    amount = difference_words(verdict.measure, verdict.difference)
    return f"The student is {amount} {side} than the same student trained without the teacher ({interval})."


def against_teacher(evidence: Evidence) -> str:
    """Quality kept, speed and size of the student next to the teacher; "" where none was measured."""
    sentences = []
    kept = evidence.value("student", "retention")
    if kept is not None and evidence.verdict is not None:
        name = in_a_sentence(evidence.verdict.measure)
        if style(evidence.verdict.measure).better == "lower" and kept.value > 0:
            sentences.append(f"Its {name} is {ratio(1 / kept.value)} the teacher\u2019s.")
        else:
            sentences.append(f"It keeps {shown('retention', kept.value)} of the teacher\u2019s {name}.")
    if speed := _compared(evidence, "latency_p50_seconds", "in", "faster", "slower"):
        sentences.append(f"It answers a row in {speed}.")
    if speed := _compared(evidence, "time_to_first_token_p50_seconds", "after", "faster", "slower"):
        sentences.append(f"Its first token comes after {speed}.")
    if price := evidence.value("teacher", "usd_per_1000_rows"):
        rate = evidence.value("student", "throughput_1024_rows_per_second")
        instead = (
            "" if rate is None else f"; the student answers as many in {shown('latency_p50_seconds', 1000 / rate.value)} of this machine"
        )
        sentences.append(f"1000 rows cost {shown('usd_per_1000_rows', price.value)} at the teacher\u2019s endpoint{instead}.")
    if size := _compared(evidence, "size_bytes", "", "smaller", "larger"):
        sentences.append(f"On disk it takes {size}.")
    return " ".join(sentences)


def limits(evidence: Evidence, confidence: float | None = None) -> list[str]:
    """What the verdict does not say, one sentence each."""
    verdict = evidence.verdict
    if verdict is None:
        return ["Without a control nothing is said about distillation itself: set evaluation.control to true."]
    student = evidence.value("student", verdict.measure)
    test_rows = f"test {unit(evidence)}s"
    rows = f"{student.n} {test_rows}" if student else test_rows
    seeds = student.seeds if student else 0
    said = {
        "helped": "The verdict does not say that the student is as good as the teacher, or that another one would gain as much.",
        "no evidence": "The verdict does not say that distillation has no effect: every value inside the interval remains possible.",
        "hurt": "The verdict does not say that the teacher is bad: with other settings or another student it may still help.",
    }[verdict.outcome]
    limits = [said]
    if seeds == 1:
        limits.append(
            "Only one student was trained. A single one shows nothing of how much training varies, so that no verdict is possible."
        )
    elif verdict.outcome == "no evidence" and student and _is_wide(evidence, verdict):
        limits.append(f"The interval is wide: {rows} and {seeds} trained students cannot tell a small gain from none.")
    limits.append(f"It holds for {unit(evidence)}s like the {rows}; those from another time or place may behave otherwise.")
    level = "The interval" if confidence is None else f"The {percent(confidence)} interval"
    limits.append(
        f"{level} covers the choice of {test_rows} and the randomness of training ({_students(seeds)}), not the choice of settings."
    )
    return limits


def _is_wide(evidence: Evidence, verdict: Verdict) -> bool:
    teacher, control = evidence.value("teacher", verdict.measure), evidence.value("control", verdict.measure)
    if teacher is None or control is None:
        return False
    return verdict.high - verdict.low > abs(teacher.value - control.value)


def _students(seeds: int) -> str:
    return "1 student and 1 control" if seeds == 1 else f"{seeds} students and {seeds} controls"


def _compared(evidence: Evidence, measure: str, preposition: str, less: str, more: str) -> str:
    student, teacher = evidence.value("student", measure), evidence.value("teacher", measure)
    if student is None or teacher is None or min(student.value, teacher.value) <= 0:
        return ""
    both = " ".join(filter(None, [f"{shown(measure, student.value)}, the teacher", preposition, shown(measure, teacher.value)]))
    factor = teacher.value / student.value
    if 0.95 < factor < 1.05:
        return both
    return f"{both}: {ratio(factor)} {less}" if factor > 1 else f"{both}: {ratio(1 / factor)} {more}"


def _signed(verdict: Verdict, value: float) -> str:
    return shown_difference(verdict.measure, value)
