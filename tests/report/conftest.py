"""A finished run as the report sees it, made up: every section has something to show."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest

from stillroom.core.generated import Generated, Unfilled
from stillroom.core.records import (
    Calibration,
    Comparison,
    CurvePoint,
    Details,
    Disagreement,
    Evidence,
    LeakFinding,
    Measure,
    ParityCheck,
    Provenance,
    ReliabilityBin,
    SliceMeasure,
    Verdict,
)
from stillroom.core.review import Confusion, Overlap, ReviewFinding
from stillroom.report.data import ReportData

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)> &amp; {{ 7*7 }} javascript:alert(4)"
VERDICTS = {
    "helped": Verdict("helped", "accuracy", 0.028, 0.006, 0.051),
    "no evidence": Verdict("no evidence", "accuracy", 0.007, -0.012, 0.026),
    "hurt": Verdict("hurt", "accuracy", -0.031, -0.055, -0.008),
}
WAIVER = "Waived by A. Person on 2026-11-01: written consent of the owner"


def _measures() -> tuple[Measure, ...]:
    found: list[Measure] = []

    def add(arm: str, name: str, value: float, half: float | None = None, n: int = 143) -> None:
        bounds = (None, None) if half is None else (value - half, value + half)
        found.append(Measure(arm, name, value, *bounds, n, 1 if arm == "teacher" else 3))

    for arm, accuracy, loss in (("teacher", 0.968, 0.1), ("student", 0.956, 0.16), ("control", 0.928, 0.29)):
        add(arm, "accuracy", accuracy, 0.027)
        add(arm, "roc_auc", accuracy + 0.02, 0.008)
        add(arm, "log_loss", loss, 0.05)
        add(arm, "ece", 1 - accuracy, 0.015)
        if arm != "teacher":
            add(arm, "agreement", accuracy, 0.02)
            add(arm, "retention", accuracy / 0.968, 0.02)
    add("student", "gap_closed", 0.7, 0.5)
    costs = (("teacher", 0.0213, 48.2e6, 310e6), ("student", 0.00081, 61e3, 188e6), ("control", 0.00079, 60e3, 187e6))
    for arm, latency, size, memory in (*costs, ("student-onnx", 0.000042, 9.1e3, 92e6)):
        add(arm, "latency_p50_seconds", latency, latency * 0.03, 200)
        add(arm, "throughput_1024_rows_per_second", 150 / latency, 9 / latency, 30)
        add(arm, "peak_memory_bytes", memory)
        add(arm, "size_bytes", size)
        add(arm, "parameters", 1203441 if arm == "teacher" else 61)
    add("student-onnx", "parity_largest_difference", 2.4e-7)
    return tuple(found)


def _details() -> Details:
    source = random.Random(0)

    def bins(bias: float) -> tuple[ReliabilityBin, ...]:
        middles = [(i + 0.5) / 15 for i in range(8, 15)]
        return tuple(ReliabilityBin(m - 1 / 30, m + 1 / 30, m, min(1.0, m + bias * (1 - m)), 5 + 9 * i) for i, m in enumerate(middles))

    columns = [f"mean {name}" for name in ("radius", "texture", "perimeter", "area", "smoothness", "concavity")]
    classes = ["benign", "malignant"]
    cases = tuple(
        Disagreement({name: f"{source.uniform(0, 900):.4g}" for name in columns}, *source.choices(classes, k=4), 0.83 - 0.06 * i)
        for i in range(6)
    )
    groups = {
        "mean area": ["[143.5, 420.3)", "[420.3, 551.1)", "[551.1, 2501]"],
        "clinic": ["north", "a group with a long name " * 4, "missing"],
    }
    slices = tuple(
        SliceMeasure(column, group, arm, value + source.uniform(-0.03, 0.03), value - 0.07, value + 0.04, 36)
        for column, names in groups.items()
        for group in names
        for arm, value in (("teacher", 0.95), ("student", 0.94), ("control", 0.92))
    )
    curves = {
        arm: tuple(CurvePoint(step, "training_loss", height * math.exp(-step / 30) + 0.1) for step in range(1, 400))
        for arm, height in (("student", 0.6), ("control", 0.5))
    }
    return Details({"teacher": bins(-0.1), "student": bins(0.2), "control": bins(-0.6)}, cases, slices, curves)


LINEAGE = (
    Provenance(
        "teacher",
        "acme/judge-7b",
        "huggingface",
        "sr1-" + "2cf24dba5fb0a30e" * 3,
        "llama2",
        "waived",
        (WAIVER, "Outputs may not be used to improve any large language model but Llama 2."),
        "https://ai.meta.com/llama/license/",
        "2026-11-22",
    ),
    Provenance("teacher", "extra-trees", "estimator", "sr1-9f86", "fitted here", "allowed"),
    Provenance(
        "data", "rows.csv", "file", "sr1-6030", "CC-BY-4.0", "conditional", ("Name the author.",), "https://x.org/by", "not re-checked"
    ),
    Provenance("student", "job student", "estimator", "sr1-fd61", "not chosen", "waived"),
)
GENERATED = Generated(
    planned=12_000, accepted=11_890, cells=210, unfilled_cells=4,
    unfilled=tuple(Unfilled(f"balance_not_updated_after_bank_transfer (near pending_transfer), angry, {i}", 5, i) for i in range(4)),
    pairs=300, covered=298, removed={"leak": 3, "near-duplicate": 70, "left-out": 1}, unusable={"not-json": 2}, repaired=1, asked_again=5,
    rounds=4, requests=2500, tokens=1_200_000, usd=0.5,
    measures=(
        *(Measure(arm, "spread", value, value - 0.05, value + 0.05, 90, 1) for arm, value in (("generated", 0.71), ("real", 0.93))),
        *(Measure(arm, "corpus_distinct_2", value, None, None, 90, 1) for arm, value in (("generated", 0.8), ("real", 0.9))),
        Measure("generated", "two_sample_auc", 0.912, 0.88, 0.94, 490, 1),
        Measure("generated", "label_agreement", 0.94, 0.93, 0.95, 11_890, 1),
        Measure("generated", "label_agreement@hard", 0.81, 0.7, 0.9, 500, 1),
        Measure("generated", "label_balance", 0.998, None, None, 11_890, 1),
    ),
)  # fmt: skip
JOB: dict[str, Any] = {
    "name": "breast-cancer",
    "task": "tabular-classification",
    "teacher": {"kind": "estimator", "estimator": "extra-trees"},
    "student": {"kind": "estimator", "estimator": "decision-tree"},
    "labelling": {"mode": "out-of-fold"},
    "objective": {"temperature": 2.0, "hard_label_weight": 0.3},
    "evaluation": {"confidence": 0.95, "primary": None, "seeds": 3},
}


def make_run(outcome: str = "helped", **changes: Any) -> ReportData:
    """A run with the given verdict; `changes` replace fields of ReportData."""
    data = ReportData(
        title="breast-cancer",
        job=JOB,
        evidence=Evidence(("teacher", "student", "control", "student-onnx"), _measures(), VERDICTS[outcome]),
        details=_details(),
        provenance=LINEAGE,
        leak=LeakFinding(True, 1.0, 0.962, 0.0, 0.131, 426, "The teacher knows its training rows by heart."),
        calibration=Calibration(True, 0.61, 0.002, (0.4, 0.6), 0.013, 0.004, 0.021, "Calibrated with temperature 0.61."),
        parity={"onnx": ParityCheck(2.4e-7, 1e-4, 1.0, 143)},
        notes=("426 labelled training rows.",),
        seconds={"label": 4031.24, "train": 0.5},
        environment={"python": "3.11.2", "processor": "a processor with quite a long name and no end in sight", "cores": "2"},
        waiver=WAIVER,
        generated=GENERATED,
    )
    return replace(data, **changes)


def make_review() -> ReviewFinding:
    """What two people found, who have looked at 40 rows both."""
    confused = (Confusion("benign", "malignant", 3), Confusion("malignant", "benign", 1))
    return ReviewFinding(0.031, 0.012, 0.078, 0.95, 100, 4, 2, 426, 2, confused, (Overlap(40, 0.925, 0.84),))


@pytest.fixture
def review() -> ReviewFinding:
    return make_review()


def make_close_run() -> ReportData:
    """Arms that nearly coincide: labels and ticks have to find their places."""
    data = make_run("no evidence")
    costs = {"teacher": 1.9, "student": 1.0, "control": 1.05, "student-onnx": 0.8}
    bases = {
        "latency_p50_seconds": 0.0007,
        "throughput_1024_rows_per_second": 23_900.0,
        "peak_memory_bytes": 429e6,
        "size_bytes": 7.4e6,
        "accuracy": 0.953,
    }
    measures = tuple(
        replace(m, value=value, low=value * 0.98, high=value * 1.01)
        if (value := bases.get(m.measure, 0.0) * (costs[m.arm] if m.measure != "accuracy" else 1 + costs[m.arm] / 1000))
        else m
        for m in data.evidence.measures
    )
    return replace(data, evidence=replace(data.evidence, measures=measures))


def make_hostile_run() -> ReportData:
    """The same run where every text that a user or a file can put in is markup."""
    data = make_run("hurt")
    arms = (*data.evidence.arms, HOSTILE)
    measures = (*data.evidence.measures, *(replace(m, arm=HOSTILE) for m in data.evidence.measures if m.arm == "student"))
    own = Measure("student", HOSTILE, 1.0, 0.5, 1.5, 9, 3)
    case = Disagreement({HOSTILE: HOSTILE}, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.9)
    details = replace(
        data.details,
        disagreements=(case, replace(case, example={HOSTILE: HOSTILE, "b": HOSTILE})),
        slices=(SliceMeasure(HOSTILE, HOSTILE, HOSTILE, 0.9, 0.8, 1.0, 3),),
        reliability={HOSTILE: data.details.reliability["student"]},
        curves={HOSTILE: (CurvePoint(1, HOSTILE, 1.0), CurvePoint(2, HOSTILE, 0.5))},
    )
    line = Provenance("teacher", HOSTILE, HOSTILE, HOSTILE, HOSTILE, "conditional", (HOSTILE,), "javascript:alert(5)//" + HOSTILE, HOSTILE)
    return replace(
        data,
        title=HOSTILE,
        job={**JOB, HOSTILE: HOSTILE},
        evidence=Evidence(arms, (*measures, own), data.evidence.verdict),
        details=details,
        provenance=(line,),
        leak=replace(data.leak, message=HOSTILE),
        calibration=replace(data.calibration, message=HOSTILE),
        parity={HOSTILE: ParityCheck(1e-7, 1e-4, 1.0, 3)},
        review=replace(make_review(), confusions=(Confusion(HOSTILE, HOSTILE, 2),)),
        notes=(HOSTILE,),
        environment={HOSTILE: HOSTILE},
        waiver=HOSTILE,
        generated=replace(GENERATED, unfilled=(Unfilled(HOSTILE, 5, 0),), removed={HOSTILE: 1}, unusable={HOSTILE: 1}, remarks=(HOSTILE,)),
    )


def make_regression_run() -> ReportData:
    """A regression without control, export and cost: most sections are empty."""
    measures = (
        Measure("teacher", "r2", 0.61, 0.5, 0.7, 110, 1),
        Measure("student", "r2", -0.02, -0.2, 0.1, 110, 1),
        Measure("teacher", "rmse", 54.3, 50.0, 58.0, 110, 1),
        Measure("student", "rmse", 57.1, 52.0, 62.0, 110, 1),
    )
    case = Disagreement({"age": "0.03", "bmi": ""}, "151", "188.2", "120.4", None, 67.8)
    job = {"task": "tabular-regression", "evaluation": {"confidence": 0.9, "primary": None}}
    return ReportData("diabetes", job, Evidence(("teacher", "student"), measures, None), Details(disagreements=(case,)))


def make_teachers_run(stronger_is_worse: bool = True) -> ReportData:
    """A language model with three teachers, in two domains. The strongest of them teaches worst, unless it is made to teach best."""
    names = {"teacher": 1.62, "teacher@a-much-larger-one": 1.41, "teacher@half-trained": 1.75}
    taught = {
        "student": 1.90,
        "student@a-much-larger-one": 1.96 if stronger_is_worse else 1.84,
        "student@half-trained": 1.898,
        "control": 1.99,
    }
    measures: list[Measure] = []
    comparisons: list[Comparison] = []
    for domain, worse in (("", 0.0), ("@plays", 1.1)):
        for arm, loss in {**names, **taught}.items():
            half = 0.05 if arm in names else 0.06
            measures.append(
                Measure(arm, f"log_loss{domain}", loss + worse, loss + worse - half, loss + worse + half, 120, 1 if arm in names else 3)
            )

        def compare(arm: str, against: str, half: float, level: float, domain: str = domain) -> None:
            values = {**names, **taught}
            apart = values[against] - values[arm]
            comparisons.append(Comparison(arm, against, f"log_loss{domain}", apart, apart - half, apart + half, level))

        compare("student", "control", 0.02, 0.95)
        for other in ("a-much-larger-one", "half-trained"):
            compare(f"student@{other}", "control", 0.03, 0.975)
            compare(f"student@{other}", "student", 0.03, 0.975)
            compare(f"teacher@{other}", "teacher", 0.01, 0.975)
    arms = (
        "teacher",
        "student",
        "control",
        *(f"{role}@{name}" for name in ("a-much-larger-one", "half-trained") for role in ("teacher", "student")),
    )
    other = {"kind": "huggingface", "model": "acme/lm-30m", "licence": "MIT", "name": None}
    job = {**JOB, "task": "language-model", "other_teachers": {"a-much-larger-one": other, "half-trained": {**other, "name": "step 1000"}}}
    curves = {arm: tuple(CurvePoint(step, "train_loss", 3.0 - step / 40) for step in range(1, 40)) for arm in taught}
    verdict = Verdict("helped", "log_loss", 0.09, 0.07, 0.11)
    lineage = (
        LINEAGE[1],
        *(replace(LINEAGE[1], role="other teacher", name=name, licence="MIT") for name in ("acme/lm-30m", "step 1000")),
        LINEAGE[3],
    )
    return ReportData(
        "several-teachers", job, Evidence(arms, tuple(measures), verdict, tuple(comparisons)), Details(curves=curves), lineage
    )


@pytest.fixture
def teachers_run() -> ReportData:
    return make_teachers_run()


@pytest.fixture
def make_teachers() -> Any:
    return make_teachers_run


def make_language_run() -> ReportData:
    """A language model that was hurt, and surely so: the interval lies narrow at the picture's edge."""
    measures = tuple(
        Measure(arm, name, value, value * 0.99, value * 1.01, 50, 1 if arm == "teacher" else 2)
        for arm, loss in (("teacher", 5.8), ("student", 4.5), ("control", 4.1))
        for name, value in (
            ("log_loss", loss),
            ("perplexity", math.exp(loss)),
            ("accuracy", 0.6),
            ("forward_kl", 0.02),
            ("agreement", 0.9),
            ("scored_tokens_per_second", 60_000 / loss),
        )
    )
    case = Disagreement({"document": "6", "text": "One day Ben"}, "16 tokens", "5.843 nats a token", "4.427 nats a token", None, 0.0243)
    job = {**JOB, "task": "language-model", "teacher": {"kind": "huggingface"}, "student": {"kind": "huggingface"}}
    evidence = Evidence(("teacher", "student", "control"), measures, Verdict("hurt", "log_loss", -0.344, -0.350, -0.337))
    curves = {arm: (CurvePoint(1, "train_loss", 2.0), CurvePoint(2, "train_loss", 1.0)) for arm in ("student", "control")}
    return ReportData("stories", job, evidence, Details(disagreements=(case,), curves=curves))


@pytest.fixture
def language_run() -> ReportData:
    return make_language_run()


@pytest.fixture
def run() -> ReportData:
    return make_run()


@pytest.fixture
def generated() -> Generated:
    return GENERATED


@pytest.fixture
def make() -> Any:
    return make_run


@pytest.fixture
def hostile_run() -> ReportData:
    return make_hostile_run()


@pytest.fixture
def close_run() -> ReportData:
    return make_close_run()


@pytest.fixture
def regression_run() -> ReportData:
    return make_regression_run()


@pytest.fixture
def hostile_text() -> str:
    return HOSTILE
