"""Which teacher taught best? Students of other teachers against the control, and against the main teacher's student.

Every other teacher is one more chance that a difference stands out by luck. Each question (against the control; against the main
teacher's student; the teachers themselves), on each domain, is answered for k other teachers by intervals at the level
1 - (1 - confidence) / k: together they hold at the job's level (Bonferroni; Dunn 1961, JASA 56:52), also for the best of them, picked
after the fact. The verdict on the main student is a question of its own and stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stillroom.core.arms import other_teacher, student_of, teacher_of
from stillroom.core.records import Comparison
from stillroom.evaluation.significance import Estimate, combine, interval, judge
from stillroom.evaluation.statistic import Metric


def compare_teachers(
    estimates: Mapping[str, Estimate], num_seeds: Mapping[str, int], metric: Metric, *, suffix: str = "", confidence: float = 0.95
) -> Iterator[Comparison]:
    """Every other teacher's student against "control" and "student", as `judge` compares recipes; and that teacher against "teacher",
    as two models that are what they are: over documents alone. Of the main student against "control" it repeats the verdict, and gives the
    same for other domains. Nothing where there is one teacher alone.

    Args:
        estimates: of `metric`, by arm.
        num_seeds: trained models behind each arm.
        suffix: "@DOMAIN", or "" for the test documents.
    """
    teachers = [arm for arm in estimates if other_teacher(arm) and arm == teacher_of(arm)]
    level = 1 - (1 - confidence) / max(len(teachers), 1)
    name, sign = metric.name + suffix, 1.0 if metric.higher_is_better else -1.0

    def judged(arm: str, against: str, at: float) -> Iterator[Comparison]:
        if {arm, against} <= estimates.keys():
            seeds = min(num_seeds[arm], num_seeds[against])
            found = judge(estimates[arm], estimates[against], metric, num_seeds=seeds, confidence=at)
            yield Comparison(arm, against, name, found.difference, found.low, found.high, at)

    if teachers:
        yield from judged("student", "control", confidence)
    for teacher in teachers:
        student = student_of(teacher)
        yield from judged(student, "control", level)
        yield from judged(student, "student", level)
        if "teacher" in estimates:
            apart = interval(combine([(sign, estimates[teacher]), (-sign, estimates["teacher"])]), level)
            if apart.low is not None and apart.high is not None:
                yield Comparison(teacher, "teacher", name, apart.value, apart.low, apart.high, level)
