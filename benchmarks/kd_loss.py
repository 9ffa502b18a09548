"""Forward and backward pass of distillation losses on top of the output projection: time and peak extra memory, side by side.

    python benchmarks/kd_loss.py                  N=2048, H=512 and 768, V=32000, float32; kd_loss.md rewritten
                                                  with a CUDA device N=8192, H=2048 and 4096, V=128256, bfloat16; kd_loss_cuda.md
    python benchmarks/kd_loss.py --quick          small sizes, printed
    python benchmarks/kd_loss.py --json FILE      the raw figures as well; a measurement begun in FILE goes on there
    python benchmarks/kd_loss.py --device cpu     on a machine that has a CUDA device

Every contender gets the same hidden states and heads and gives a loss and gradients for the student's hidden states and weight.
Time: repeats interleaved in one process, so that a busy machine slows all alike; medians, and ratios within each round. Memory:
each contender in a fresh process, the peak of resident memory over one pass less what was resident before it (gradients count); on
CUDA, of memory allocated on the device. There the four matrix products alone are measured as well, the floor of a dense teacher.
TRL and Liger are measured where they are installed (pip install trl==1.16.0 liger-kernel==0.8.5), and are said to be absent where they
are not. Liger's loss is shown and not compared with the others': its log-softmax is in the type of the logits.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from stillroom.losses.divergence import forward_kl
from stillroom.losses.fused import fused_divergence
from stillroom.losses.head import Head
from stillroom.losses.teacher import DenseTeacher, SparseTeacher
from stillroom.pipeline.report import environment

ROOT = Path(__file__).parents[1]
VERSIONS = {"TRL dense": ("trl", "1.16.0"), "Liger dense": ("liger-kernel", "0.8.5")}


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    rows: int = 2048
    hidden: int = 512
    teacher_hidden: int = 768
    vocabulary: int = 32000
    entries: int = 12
    dtype: str = "float32"
    threads: int = torch.get_num_threads()
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


QUICK = Sizes(rows=256, hidden=64, teacher_hidden=96, vocabulary=4000)
CUDA = Sizes(rows=8192, hidden=2048, teacher_hidden=4096, vocabulary=128256, dtype="bfloat16")


@dataclass(frozen=True)
class Inputs:
    """Hidden states and heads with logits of a trained model's spread; ids drawn from the teacher's distribution."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor
    ids: Tensor
    probs: Tensor

    @classmethod
    def draw(cls, sizes: Sizes) -> Inputs:
        source, dtype = torch.Generator(sizes.device).manual_seed(sizes.seed), getattr(torch, sizes.dtype)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=source, device=sizes.device)

        hidden, teacher_hidden = normal(sizes.rows, sizes.hidden), normal(sizes.rows, sizes.teacher_hidden)
        weight = normal(sizes.vocabulary, sizes.hidden) * 2 / sizes.hidden**0.5
        teacher_weight = normal(sizes.vocabulary, sizes.teacher_hidden) * 2 / sizes.teacher_hidden**0.5
        probs = [torch.softmax(part @ teacher_weight.t(), -1) for part in teacher_hidden.split(64)]
        ids = torch.cat([part.multinomial(sizes.entries, generator=source) for part in probs])
        return cls(
            hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), teacher_hidden.to(dtype), teacher_weight.to(dtype),
            ids[:, 0].clone(), ids, torch.full(ids.shape, 1 / sizes.entries, device=sizes.device),
        )  # fmt: skip


def stillroom_dense(x: Inputs) -> Tensor:
    return fused_divergence(x.hidden, Head(x.weight), DenseTeacher(x.teacher_hidden, Head(x.teacher_weight)), x.labels).loss


def stillroom_sparse(x: Inputs) -> Tensor:
    return fused_divergence(x.hidden, Head(x.weight), SparseTeacher(x.ids, x.probs), x.labels).loss


def stillroom_cross_entropy(x: Inputs) -> Tensor:
    return fused_divergence(x.hidden, Head(x.weight), None, x.labels, soft_weight=0.0, hard_weight=1.0).loss


def unfused_dense(x: Inputs) -> Tensor:
    return forward_kl(linear(x.hidden, x.weight), linear(x.teacher_hidden, x.teacher_weight)).mean()


def trl_dense(x: Inputs) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    values, _ = ChunkedDivergenceFunction.apply(x.hidden, x.weight, None, x.teacher_hidden, x.teacher_weight, None, 0.0)
    return values.mean()


def liger_dense(x: Inputs) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0)  # its beta of 0 is forward KL
    return loss(x.hidden, x.weight, x.teacher_hidden, x.teacher_weight, x.labels)


def four_products(x: Inputs) -> Tensor:
    """The products of a dense teacher in chunks of 2048 rows, and nothing else: no loss, no gradient."""
    with torch.no_grad():
        for hidden, teacher_hidden in zip(x.hidden.split(2048), x.teacher_hidden.split(2048), strict=True):
            linear(teacher_hidden, x.teacher_weight)
            logits = linear(hidden, x.weight)
            torch.mm(logits, x.weight)
            torch.mm(logits.t(), hidden)
    return 0.0 * x.hidden.sum()


def unfused_cross_entropy(x: Inputs) -> Tensor:
    return cross_entropy(linear(x.hidden, x.weight).float(), x.labels)


def chunked_cross_entropy(x: Inputs) -> Tensor:
    """Chunks of 256 positions, recomputed in the backward pass."""

    def part(hidden: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(linear(hidden, x.weight).float(), labels, reduction="sum")

    pairs = zip(x.hidden.split(256), x.labels.split(256), strict=True)
    return torch.stack([checkpoint(part, *pair, use_reentrant=False) for pair in pairs]).sum() / len(x.labels)


CONTENDERS: dict[str, Callable[[Inputs], Tensor]] = {
    "stillroom dense": stillroom_dense,
    "stillroom sparse": stillroom_sparse,
    "stillroom cross-entropy": stillroom_cross_entropy,
    "unfused dense": unfused_dense,
    "TRL dense": trl_dense,
    "Liger dense": liger_dense,
    "four products": four_products,
    "unfused cross-entropy": unfused_cross_entropy,
    "chunked cross-entropy": chunked_cross_entropy,
}
ON_CUDA_ONLY = ("Liger dense", "four products")
SAME_LOSS = [
    ("stillroom dense", "unfused dense", "TRL dense"),
    ("stillroom cross-entropy", "unfused cross-entropy", "chunked cross-entropy"),
]
TARGETS = {
    "cpu": [
        ("time", "stillroom dense", ("TRL dense",), 0.45),
        ("memory", "stillroom dense", ("TRL dense",), 0.2),
        ("time", "stillroom sparse", ("unfused cross-entropy", "chunked cross-entropy", "stillroom cross-entropy"), 1.05),
    ],
    "cuda": [  # without others: seconds and bytes, on an H200
        ("time", "stillroom dense", (), 0.045),
        ("memory", "stillroom dense", (), 4e9),
        ("time", "stillroom dense", ("TRL dense", "Liger dense"), 1.0),
        ("memory", "stillroom dense", ("TRL dense", "Liger dense"), 1.0),
        ("time", "stillroom sparse", ("unfused cross-entropy", "chunked cross-entropy", "stillroom cross-entropy"), 1.05),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="contenders to measure; default: all")
    parser.add_argument("--memory-of", choices=CONTENDERS, help=argparse.SUPPRESS)
    for name, default in asdict(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), choices=tuple(TARGETS) if name == "device" else None)
    options = parser.parse_args()
    given = {name: value for name in asdict(Sizes()) if (value := getattr(options, name)) is not None}
    device = given.get("device", Sizes.device)
    sizes = Sizes(**{**asdict(QUICK if options.quick else CUDA if device == "cuda" else Sizes()), **given})
    torch.set_num_threads(sizes.threads)
    if options.memory_of:
        print(json.dumps(extra_memory(CONTENDERS[options.memory_of], sizes)))
        return
    names = present(options.only or [name for name in CONTENDERS if device == "cuda" or name not in ON_CUDA_ONLY])
    results = measure(names, sizes, 3 if options.quick else options.repeats, options.json)
    text = page(results)
    print(text)
    if not options.quick and not options.only:
        (ROOT / "benchmarks" / ("kd_loss_cuda.md" if device == "cuda" else "kd_loss.md")).write_text(text)


def present(names: list[str]) -> list[str]:
    """The contenders that can run here; says which cannot."""
    absent = []
    for name, (package, version) in VERSIONS.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found != version and name in names:
            print(f"{name}: {package} {found}, measured is {version}; pip install {package}=={version}", file=sys.stderr)
            absent.append(name)
    return [name for name in names if name not in absent]


def environment_of(names: list[str], sizes: Sizes) -> dict[str, str]:
    """The machine and the versions behind the figures."""
    of_others = dict(VERSIONS[name] for name in names if name in VERSIONS)
    if sizes.device != "cuda":
        return environment() | of_others
    return environment() | {"device": torch.cuda.get_device_name(), "triton": importlib.metadata.version("triton")} | of_others


def measure(names: list[str], sizes: Sizes, repeats: int, file: Path | None) -> dict[str, Any]:
    """Memory of each contender, then rounds of time; written down after each step where there is a file."""
    results: dict[str, Any] = {"sizes": asdict(sizes), "contenders": names, "memory": {}, "rounds": [], "losses": {}}
    if file and file.is_file() and (found := json.loads(file.read_text()))["sizes"] == asdict(sizes) and found["contenders"] == names:
        results = found
    results["environment"] = environment_of(names, sizes)

    def save() -> None:
        if file:
            file.write_text(json.dumps(results, indent=2) + "\n")

    for name in names:
        if name not in results["memory"]:
            results["memory"][name] = memory_in_fresh_process(name, sizes)
            save()
    inputs = Inputs.draw(sizes)
    for name in names:  # warm up (compilers, too), and see that the contenders compute the same
        results["losses"][name] = step(CONTENDERS[name], inputs)[0]
    for group in SAME_LOSS:
        values = [results["losses"][name] for name in group if name in names]
        if values and max(values) - min(values) > 5e-3 * abs(values[0]):
            raise SystemExit(f"these should be equal: {dict(zip(group, values, strict=False))}")
    while len(results["rounds"]) < repeats:
        turn = len(results["rounds"]) % len(names)
        results["rounds"].append({name: step(CONTENDERS[name], inputs)[1] for name in names[turn:] + names[:turn]})
        save()
    return results


def step(contender: Callable[[Inputs], Tensor], inputs: Inputs) -> tuple[float, float]:
    """The loss and the seconds of one forward and backward pass."""
    inputs.hidden.grad = inputs.weight.grad = None
    wait_for_device()
    start = time.perf_counter()
    loss = contender(inputs)
    loss.backward()
    wait_for_device()
    return loss.item(), time.perf_counter() - start


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory_in_fresh_process(name: str, sizes: Sizes) -> int:
    settings = [text for key, value in asdict(sizes).items() for text in (f"--{key.replace('_', '-')}", str(value))]
    worker = subprocess.run([sys.executable, __file__, "--memory-of", name, *settings], check=True, capture_output=True, text=True)
    return int(json.loads(worker.stdout.splitlines()[-1]))


def extra_memory(contender: Callable[[Inputs], Tensor], sizes: Sizes) -> int:
    """Bytes that one pass adds at its peak, on the device or resident, after a small one has loaded the libraries."""
    step(contender, Inputs.draw(replace(sizes, rows=8, hidden=8, teacher_hidden=8, vocabulary=64)))
    inputs = Inputs.draw(sizes)
    if sizes.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        step(contender, inputs)
        return int(torch.cuda.max_memory_allocated() - allocated)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
        step(contender, inputs)
        return resident("VmHWM") - before
    except OSError:  # no such system: the peak since the start of the process
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        step(contender, inputs)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def page(results: dict[str, Any]) -> str:
    """kd_loss.md."""
    names, rounds = results["contenders"], results["rounds"]
    reference = "TRL dense" if "TRL dense" in names else names[0]
    settings = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in results["sizes"].items())
    lines = [
        "# Distillation losses on top of the output projection", "",
        f"Written by `python benchmarks/kd_loss.py {settings} --repeats {len(rounds)}`.",
        "Forward and backward pass. Seconds: median of interleaved repeats; ratios: median over rounds.",
        "MB: peak extra memory in a fresh process.",
        "", "| machine and versions | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in results["environment"].items()), "",
        f"| contender | loss | seconds | time / {reference} | extra MB | memory / {reference} |", "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name in names:
        seconds, ratio = statistics.median(r[name] for r in rounds), statistics.median(r[name] / r[reference] for r in rounds)
        memory = results["memory"][name]
        cells = (
            f"{results['losses'][name]:.4f}",
            f"{seconds:.3f}",
            f"{ratio:.3f}",
            f"{memory / 1e6:.0f}",
            f"{memory / results['memory'][reference]:.3f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| target | limit | measured |", "| --- | --- | --- |"]
    for what, ours, theirs, limit in TARGETS[results["sizes"]["device"]]:
        others = [name for name in theirs if name in names]
        if ours in names and (others or not theirs):
            compared = f" / least of {', '.join(others)}" if others else ""
            lines.append(f"| {what} of {ours}{compared} | {limit:g} | {against(results, what, ours, others):.3g} |")
    return "\n".join(lines) + "\n"


def against(results: dict[str, Any], what: str, ours: str, others: list[str]) -> float:
    """The figure of ours over the least of the others'; without others, in seconds or bytes."""
    if what == "memory":
        return float(results["memory"][ours] / min((results["memory"][name] for name in others), default=1))
    return statistics.median(r[ours] / min((r[name] for name in others), default=1) for r in results["rounds"])


if __name__ == "__main__":
    main()
