"""ONNX Runtime under the conditions of every other arm. Light, so that an arm's memory is its own."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime

from stillroom.core.errors import BadInput


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A graph on the CPU, with the threads that OMP_NUM_THREADS gives.

    Raises:
        BadInput: no such file, or no graph that ONNX Runtime can run.
    """
    if not path.is_file():
        raise BadInput.at(str(path), "no such file; export the student again.")
    options = onnxruntime.SessionOptions()
    # As many threads as every other arm gets, so that latencies compare; 0 leaves the choice to ONNX Runtime.
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    options.intra_op_num_threads = int(threads) if threads.isdigit() else 0
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # The runtime's exceptions share no base class below Exception.
    except Exception as error:
        raise BadInput.at(str(path), f"is no ONNX graph that ONNX Runtime can run: {error}") from error
