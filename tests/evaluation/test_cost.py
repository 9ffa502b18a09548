"""Costs are measured in real child processes, with predictors of known slowness, size and appetite for memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stillroom.core.errors import StageFailed
from stillroom.core.records import Measure
from stillroom.evaluation import cost_worker
from stillroom.evaluation.cost import measure_cost, quantile_interval
from stillroom.models.python import PythonPredictor

PREDICTORS = '''
import os, sys, time
import numpy as np

class Answers:
    """Sleeps a set time a call and a row, and may waste memory, print, or die."""
    def __init__(self, call=0.0, row=0.0, megabytes=0, chatty=False, dies=False):
        self.call, self.row, self.chatty, self.dies = call, row, chatty, dies
        self.waste = np.ones(megabytes * 2**17)
    def predict(self, features):
        assert list(features.columns) == ["number", "word"], list(features.columns)
        assert features["word"].isna().sum() <= len(features) / 2 + 1 and features["number"].dtype == np.float64
        if self.chatty:
            print("hello"); os.write(1, b"hello from C")
        if self.dies:
            os.kill(os.getpid(), 9)
        time.sleep(self.call + self.row * len(features))
        return np.zeros(len(features))

def broken():
    raise RuntimeError("the weights are gone")
'''
FEATURES = pd.DataFrame({"number": [0.5, float("nan"), 2.0], "word": ["a", None, "c"]})


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    (tmp_path / "slow_answers.py").write_text(PREDICTORS)
    monkeypatch.syspath_prepend(tmp_path)

    def saved(name: str, source: str = "slow_answers:Answers", **params: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        if source.endswith("Answers"):
            PythonPredictor(source, params, (), allow_code=True).save(folder)
        else:
            PythonPredictor("slow_answers:Answers", {}, (), allow_code=True).save(folder)
            manifest = folder / "predictor.json"
            manifest.write_text(manifest.read_text().replace("slow_answers:Answers", source))
        return folder

    return saved


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    return {m.measure: m for m in measures}


def test_known_delays_come_back_as_latency_and_throughput(save, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    folder = save("steady", call=0.01, row=0.0001, chatty=True)
    (folder / "weights.bin").write_bytes(b"0" * 12_345)
    found = by_name(measure_cost({"steady": folder}, FEATURES, calls=40, seed=0, allow_code=True, budget_seconds=10))
    assert list(found) == [
        "latency_p50_seconds",
        "latency_p99_seconds",
        "throughput_32_rows_per_second",
        "throughput_1024_rows_per_second",
        "peak_memory_bytes",
        "size_bytes",
        "threads",
    ]
    p50, p99 = found["latency_p50_seconds"], found["latency_p99_seconds"]
    # A sleep is never shorter than asked for; a busy machine may make it much longer.
    assert 0.0101 <= p50.value < 0.5
    assert p50.low is not None
    assert p50.high is not None
    assert p50.low <= p50.value <= p50.high
    assert p99.value >= p50.value
    assert (p99.low, p99.n, p50.n, p50.seeds) == (None, 40, 40, 1)  # 40 calls say too little about the 99th percentile
    assert 32 / 1.0 < found["throughput_32_rows_per_second"].value <= 32 / 0.0132
    assert 1024 / 3.0 < found["throughput_1024_rows_per_second"].value <= 1024 / 0.1124
    assert found["size_bytes"].value == 12_345 + (folder / "predictor.json").stat().st_size
    assert found["threads"].value == 1  # what the environment says


def test_a_slow_arm_gets_fewer_calls_and_no_endless_batch(save) -> None:  # type: ignore[no-untyped-def]
    folder = save("slow", call=0.02, row=0.01)
    found = by_name(measure_cost({"slow": folder}, FEATURES, calls=1000, seed=0, allow_code=True, budget_seconds=1.2))
    assert 1 <= found["latency_p50_seconds"].n <= 41
    assert found["throughput_32_rows_per_second"].n <= 4
    assert "throughput_1024_rows_per_second" not in found  # one call takes ten seconds


def test_memory_is_the_arms_own_and_not_inherited(save) -> None:  # type: ignore[no-untyped-def]
    ballast = np.ones(80 * 2**17)  # the parent grows, as one that has trained does
    folders = {"small": save("small"), "large": save("large", megabytes=200), "again": save("again")}
    found = measure_cost(folders, FEATURES, calls=3, seed=0, allow_code=True, budget_seconds=0.05)
    memory = {m.arm: m.value for m in found if m.measure == "peak_memory_bytes"}
    assert memory["large"] - memory["small"] == pytest.approx(200 * 2**20, rel=0.1)
    assert memory["again"] == pytest.approx(memory["small"], rel=0.1)
    assert ballast.nbytes > 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_large_parent_does_not_show_in_a_childs_peak(tmp_path: Path) -> None:
    child = "from stillroom.evaluation.cost_worker import _peak_memory; print(_peak_memory())"
    parent = f"import subprocess, sys; waste = b'x' * (400 * 2**20); subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", parent], check=True, capture_output=True, text=True, env=environment)
    assert int(done.stdout) < 390 * 2**20


def test_what_goes_wrong_in_the_child_is_told_in_one_line(save) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StageFailed, match=r"arm 'b': cannot measure its cost: RuntimeError: the weights are gone$"):
        measure_cost({"b": save("broken", source="slow_answers:broken")}, FEATURES, calls=3, seed=0, allow_code=True)
    with pytest.raises(StageFailed, match="arm 'k': cannot measure its cost: killed by signal 9"):
        measure_cost({"k": save("killed", dies=True)}, FEATURES, calls=3, seed=0, allow_code=True)
    with pytest.raises(StageFailed, match=r"arm 'p': cannot measure its cost: .*--allow-code"):
        measure_cost({"p": save("refused")}, FEATURES, calls=3, seed=0, allow_code=False)


def test_single_rows_are_rotated_and_the_order_is_the_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "features.parquet"
    pd.DataFrame({"number": np.arange(10.0)}).to_parquet(table)
    seen: list[list[float]] = []

    class Spy:
        classes = ()

        def predict_values(self, features: pd.DataFrame) -> np.ndarray:  # type: ignore[type-arg]
            seen.append(features["number"].tolist())
            return np.zeros(len(features))

    monkeypatch.setattr(cost_worker, "load_predictor", lambda folder, allow_code: Spy())

    def rows_of_size_one(seed: int) -> list[float]:
        seen.clear()
        request = {"folder": str(tmp_path), "features": str(table), "calls": 25, "seed": seed, "allow_code": False, "budget_seconds": 5}
        cost_worker.measure(request)
        assert sorted({len(rows) for rows in seen}) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
        return [rows[0] for rows in seen if len(rows) == 1]

    order = rows_of_size_one(0)
    timed = order[-25:]
    assert sorted(timed[:10]) == list(range(10))
    assert timed[10:20] == timed[:10]
    assert rows_of_size_one(0) == order != rows_of_size_one(1)


@pytest.mark.parametrize(("level", "calls"), [(0.5, 30), (0.9, 60), (0.99, 400)])
def test_order_statistics_cover_the_true_quantile(level: float, calls: int) -> None:
    rng = np.random.default_rng(0)
    truth, hits = float(stats.lognorm.ppf(level, 1.0)), 0
    for _ in range(400):
        value, low, high = quantile_interval(np.sort(rng.lognormal(size=calls)), level, 0.95)
        assert low is not None
        assert high is not None
        assert low <= value <= high
        hits += low <= truth <= high
    assert hits >= 0.93 * 400
    assert quantile_interval(np.array([0.1, 0.2]), level, 0.95)[1:] == (None, None)


def test_the_99th_percentile_needs_368_calls() -> None:
    assert quantile_interval(np.arange(367.0), 0.99, 0.95)[1:] == (None, None)
    assert quantile_interval(np.arange(368.0), 0.99, 0.95)[2] == 367.0


LIGHTGBM = """
import os
import numpy as np
from stillroom.models.estimators import resolve_estimator
estimator = resolve_estimator("lightgbm", {"n_estimators": 5}, task="classification", seed=0, place="student")
rows = np.random.default_rng(0).normal(size=(2000, 20))
before = len(os.listdir("/proc/self/task"))
estimator.fit(rows, rows[:, 0] > 0).predict_proba(rows)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists() or (os.cpu_count() or 1) < 2, reason="counts threads in Linux's /proc")
def test_lightgbm_takes_no_more_threads_than_the_other_arms() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", LIGHTGBM], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "0"
