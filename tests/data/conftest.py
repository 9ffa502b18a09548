"""A job's data section from a table written in the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stillroom.core.records import Dataset
from stillroom.data.build import build_dataset
from stillroom.spec.data import DataSpec

BuildFrom = Callable[..., Dataset]


@pytest.fixture
def build_from(tmp_path: Path) -> BuildFrom:
    """build_from(frame, test=None, unlabeled=None, task=..., seed=..., source={...}, **section): CSV files, then `build_dataset`."""

    def build(
        train: pd.DataFrame | str,
        *,
        test: pd.DataFrame | None = None,
        unlabeled: pd.DataFrame | None = None,
        task: Any = "tabular-classification",
        seed: int = 0,
        source: dict[str, Any] | None = None,
        **section: Any,
    ) -> Dataset:
        files = {"train": train, "test": test, "unlabeled": unlabeled}
        paths = {}
        for name, table in files.items():
            if table is not None:
                paths[name] = str(tmp_path / f"{name}.csv")
                Path(paths[name]).write_text(table if isinstance(table, str) else table.to_csv(index=False), encoding="utf-8")
        content = {"target": "y", **section, "source": {"kind": "file", **paths, **(source or {})}}
        return build_dataset(DataSpec.model_validate(content), task=task, seed=seed)

    return build
