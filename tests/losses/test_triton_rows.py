"""The Triton kernels against an unfused float64 oracle with gradients by autograd, and against the torch path.

In Triton's interpreter, see conftest.py; with TRITON_INTERPRET=0, compiled and on the GPU. Two rows, V no multiple of the block.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the compiled kernels need triton, which is there for Linux")

from stillroom.losses import divergence as plain
from stillroom.losses import fused, rows, triton_checked, triton_kernels, triton_rows
from stillroom.losses.closed_form import DIVERGENCES, Distribution, Divergence, JensenShannon, SkewedForwardKL, SkewedReverseKL
from stillroom.losses.head import Head
from stillroom.losses.rows import Answer, BucketAnswer, DenseAnswer, Mix, SampledAnswer
from stillroom.losses.teacher import DenseTeacher, SparseTeacher

DEVICE = "cuda" if os.environ["TRITON_INTERPRET"] == "0" else "cpu"
R, V, K = 2, 37, 5
ALL: dict[str, Divergence] = {
    **{name: make() for name, make in DIVERGENCES.items()},
    "jensen_shannon": JensenShannon(0.3), "skewed_forward_kl": SkewedForwardKL(0.2), "skewed_reverse_kl": SkewedReverseKL(0.2),
}  # fmt: skip
ORACLE = {
    **{name: getattr(plain, name) for name in DIVERGENCES},
    "jensen_shannon": partial(plain.jensen_shannon, beta=0.3),
    "skewed_forward_kl": partial(plain.skewed_forward_kl, alpha=0.2),
    "skewed_reverse_kl": partial(plain.skewed_reverse_kl, alpha=0.2),
}
SETTINGS = [
    *itertools.product([None, 3.0], [1.0, 1.7], [0.0, 0.4], [torch.float32]),
    (None, 1.0, 0.0, torch.bfloat16),
    (3.0, 1.7, 0.4, torch.bfloat16),
]
settings = pytest.mark.parametrize(("soft_cap", "temperature", "hard_weight", "dtype"), SETTINGS)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_rows, "BLOCK", 32)


@dataclass
class Case:
    """A chunk: the student's products, its head, the teacher's answer, labels."""

    raw: Tensor
    head: Head
    answer: Answer | None
    labels: Tensor

    def copy(self, dtype: torch.dtype | None = None) -> "Case":
        answer = self.answer
        if isinstance(answer, DenseAnswer):
            answer = replace(answer, raw=answer.raw.to(dtype or answer.raw.dtype, copy=True))
        return replace(self, raw=self.raw.to(dtype or self.raw.dtype, copy=True), answer=answer)

    def run(self, path: Any, mix: Mix) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient, soft and hard values."""
        soft, hard = path.loss_and_gradient_(self.raw, self.head, self.answer, self.labels, mix)
        return self.raw, soft, hard


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def head_of(seed: int, scale: float, soft_cap: float | None) -> Head:
    return Head(torch.zeros(V, 1, device=DEVICE), normal(V, seed=seed), scale, soft_cap)


def draw(kind: str, soft_cap: float | None = None, dtype: torch.dtype = torch.float32) -> Case:
    """The label of one row is among the listed tokens, that of the other is not; the last entry of the second row is padding."""
    raw, teacher = (2 * normal(R, V, seed=seed).to(dtype) for seed in (0, 1))
    ids = torch.stack([torch.randperm(V, generator=torch.Generator().manual_seed(seed))[: K + 1] for seed in range(R)]).to(DEVICE)
    probs = normal(R, K, seed=4).softmax(-1) * 0.9
    labels = torch.stack([ids[0, 1], ids[1, K]])
    ids = ids[:, :K].clone()
    ids[1, -1], probs[1, -1] = -1, 0.0
    answers: dict[str, Answer | None] = {
        "dense": DenseAnswer(teacher, head_of(2, 0.7, soft_cap)),
        "topk": BucketAnswer(ids, probs, 1 - probs.sum(-1)),
        "sampled": SampledAnswer(torch.where(ids == ids[0, 3], ids[0, 2], ids), probs * 1.2, normal(R, seed=5).abs()),  # a token twice
        "none": None,
    }
    return Case(raw, head_of(3, 1.3, soft_cap), answers[kind], labels)


def oracle(case: Case, name: str, mix: Mix) -> tuple[Tensor, Tensor, Tensor]:
    raw = case.raw.double().requires_grad_()
    logits = oracle_logits(raw, case.head)
    log_q = (logits / mix.temperature).log_softmax(-1)
    soft = torch.zeros(len(raw), dtype=torch.float64, device=DEVICE)
    if isinstance(case.answer, DenseAnswer):
        soft = ORACLE[name](logits, oracle_logits(case.answer.raw.double(), case.answer.head), temperature=mix.temperature)
    elif isinstance(case.answer, SampledAnswer):
        soft = -(dense_probs(case.answer) * log_q).sum(-1) - case.answer.entropy
    elif isinstance(case.answer, BucketAnswer):
        soft = torch.stack([oracle_buckets(row, case.answer, log_q[row].exp(), name) for row in range(len(raw))])
    hard = plain.cross_entropy(logits, case.labels) if mix.hard_weight else torch.zeros_like(soft)
    (gradient,) = torch.autograd.grad((mix.soft_weight * soft + mix.hard_weight * hard).sum() + 0.0 * raw.sum(), raw)
    return gradient, soft.detach(), hard.detach()


def oracle_logits(raw: Tensor, head: Head) -> Tensor:
    logits = head.scale * (raw + head.bias)
    return logits if head.soft_cap is None else head.soft_cap * torch.tanh(logits / head.soft_cap)


def dense_probs(answer: SampledAnswer) -> Tensor:
    return torch.zeros(R, V, dtype=torch.float64, device=DEVICE).scatter_add(-1, answer.ids * (answer.probs > 0), answer.probs.double())


def oracle_buckets(row: int, answer: BucketAnswer, q: Tensor, name: str) -> Tensor:
    listed = answer.probs[row] > 0
    ids = answer.ids[row][listed]
    others = torch.ones(V, dtype=torch.bool, device=DEVICE).index_fill(0, ids, False)
    p = torch.cat([answer.probs[row][listed].double(), answer.tail[row : row + 1].double()])
    return ORACLE[name](torch.cat([q[ids], q[others].sum()[None]]).log(), p.log())


def assert_close(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    """The gradient within one rounding of its type (the interpreter cuts bits off), values within float32."""
    rounding = 2**-7 if got[0].dtype == torch.bfloat16 else 2e-5
    torch.testing.assert_close(got[0].double(), want[0].double(), rtol=rounding, atol=2e-6)
    for values, expected in zip(got[1:], want[1:], strict=True):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), expected.double(), rtol=2e-5, atol=2e-6)


@settings
@pytest.mark.parametrize("kind", ["dense", "topk"])
@pytest.mark.parametrize("name", ALL)
def test_every_divergence_equals_the_oracle(
    name: str, kind: str, soft_cap: float | None, temperature: float, hard_weight: float, dtype: torch.dtype
) -> None:
    case, mix = draw(kind, soft_cap, dtype), Mix(ALL[name], temperature, 0.6, hard_weight)
    assert_close(case.copy().run(triton_rows, mix), oracle(case, name, mix))


@settings
@pytest.mark.parametrize("kind", ["sampled", "none"])
def test_a_sample_and_plain_cross_entropy_equal_the_oracle(
    kind: str, soft_cap: float | None, temperature: float, hard_weight: float, dtype: torch.dtype
) -> None:
    case = draw(kind, soft_cap, dtype)
    mix = Mix(ALL["forward_kl"], temperature, 0.6 * (kind == "sampled"), hard_weight)
    assert_close(case.copy().run(triton_rows, mix), oracle(case, "forward_kl", mix))


@pytest.mark.parametrize("kind", ["dense", "topk", "sampled", "none"])
@pytest.mark.parametrize("name", ALL)
def test_forbidden_tokens_are_as_in_torch(name: str, kind: str) -> None:
    if kind in ("sampled", "none") and name != "forward_kl":
        return
    case = draw(kind)
    case.raw[0, [4, 35]] = -torch.inf
    assert not {4, 35, 20} & {*case.labels.tolist(), *(case.answer.ids.flatten().tolist() if hasattr(case.answer, "ids") else ())}
    if isinstance(case.answer, DenseAnswer):
        case.answer.raw[:, [4, 36]] = -torch.inf
    case = replace(case, head=replace(case.head, bias=case.head.bias.index_fill(0, torch.tensor([20], device=DEVICE), -torch.inf)))
    mix = Mix(ALL[name], 1.7, float(kind != "none"), 0.4)
    got, want = case.copy().run(triton_rows, mix), case.copy(torch.float64).run(rows, mix)
    assert all(x.isfinite().all() for x in got)
    assert_close(got, want)


def test_a_token_is_forbidden_by_its_bias_only_up_to_the_soft_cap() -> None:
    case = draw("dense", soft_cap=3.0)
    head = replace(case.head, bias=case.head.bias.index_fill(0, torch.tensor([20], device=DEVICE), -torch.inf))
    case, mix = replace(case, head=head), Mix(ALL["jensen_shannon"], 1.0, 1.0, 0.4)
    assert_close(case.copy().run(triton_rows, mix), case.copy(torch.float64).run(rows, mix))


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered")  # by the interpreter, where nothing is left of a row
@pytest.mark.parametrize("listed", ["nothing", "all", "all that is allowed"])
def test_a_list_may_be_empty_or_hold_every_token(listed: str) -> None:
    case, forbidden = draw("none"), torch.tensor([20], device=DEVICE)
    ids = torch.arange(V, device=DEVICE).expand(R, V).contiguous()
    probs = normal(R, V, seed=6).softmax(-1) * (listed != "nothing")
    if listed == "all that is allowed":
        probs = probs.index_fill(1, forbidden, 0.0)
        case = replace(case, head=replace(case.head, bias=case.head.bias.index_fill(0, forbidden, -torch.inf)))
    tail = torch.full((R,), float(listed == "nothing"), device=DEVICE)
    case, mix = replace(case, answer=BucketAnswer(ids, probs, tail)), Mix(ALL["forward_kl"], 1.7, 1.0, 0.4)
    got = case.copy().run(triton_rows, mix)
    assert all(x.isfinite().all() for x in got)
    assert_close(got, case.copy(torch.float64).run(rows, mix))


def test_a_tail_of_almost_nothing_keeps_its_gradient() -> None:
    case = draw("topk")
    case.raw[0, case.answer.ids[0, 0]] = 40.0  # the others share exp(-46) of the student's mass
    mix = Mix(ALL["forward_kl"], 1.0, 1.0, 0.0)
    got, want = case.copy().run(triton_rows, mix), oracle(case, "forward_kl", mix)
    torch.testing.assert_close(got[1].double(), want[1], rtol=2e-5, atol=0)
    torch.testing.assert_close(got[0].double(), want[0], rtol=5e-5, atol=0)


@pytest.mark.parametrize("kind", ["dense", "topk", "sampled", "none"])
def test_a_gradient_close_to_zero_is_rounded_once(kind: str) -> None:
    # q and p are 0.998 at the label: each rounds to 1 in bfloat16, and a sum of parts that were rounded alone would be 0.
    case = draw(kind, dtype=torch.bfloat16)
    for row, label in enumerate(case.labels):
        case.raw[row, label] = 8.0
        if isinstance(case.answer, DenseAnswer):
            case.answer.raw[row, label] = 15.0
        elif isinstance(case.answer, BucketAnswer | SampledAnswer):
            entry = 1 - row  # where `draw` has the label of the first row
            case.answer.probs[row] *= 1e-4
            case.answer.ids[row, entry] = label
            case.answer.probs[row, entry] = 0.9995 if isinstance(case.answer, SampledAnswer) else 0.999
    if isinstance(case.answer, BucketAnswer):
        case.answer.tail.copy_(1 - case.answer.probs.sum(-1))
    mix = Mix(ALL["forward_kl"], 1.0, float(kind != "none"), 0.4)
    got, want = case.copy().run(triton_rows, mix)[0].double(), oracle(case, "forward_kl", mix)[0]
    at_label = (torch.arange(R, device=DEVICE), case.labels)
    assert (want[at_label].abs() > 1e-5).all()
    torch.testing.assert_close(got[at_label], want[at_label], rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_broken_teacher_or_student_is_not_hidden(name: str) -> None:
    mix = Mix(ALL[name], 1.0, 1.0, 0.0)
    for side in ("student", "teacher"):
        case = draw("dense")
        (case.raw if side == "student" else case.answer.raw)[0, 7] = torch.nan
        gradient, soft, _ = case.run(triton_rows, mix)
        assert soft[0].isnan()
        assert gradient[0].isnan().any()
        assert soft[1].isfinite()
        assert gradient[1].isfinite().all()


def strided(values: Tensor) -> Tensor:
    """The same values, further apart in memory."""
    return torch.stack([values, values + 1], dim=-1)[..., 0]


@pytest.mark.parametrize("kind", ["dense", "topk", "sampled", "none"])
def test_what_lies_strided_in_memory_is_read_as_it_stands(kind: str) -> None:
    case, mix = draw(kind), Mix(ALL["forward_kl"], 1.7, float(kind != "none"), 0.4)
    want = case.copy().run(triton_rows, mix)
    case = replace(case, head=replace(case.head, bias=strided(case.head.bias)), labels=strided(case.labels))
    if isinstance(case.answer, DenseAnswer):
        case.answer = replace(case.answer, head=replace(case.answer.head, bias=strided(case.answer.head.bias)))
    elif case.answer is not None:
        case.answer = replace(case.answer, ids=strided(case.answer.ids), probs=strided(case.answer.probs))
    for got, expected in zip(case.run(triton_rows, mix), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_no_two_threads_hold_the_same_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for size in (1, 5, 37, 200, 5000, 128256):
        tiling = triton_rows._tiling(torch.empty(0, size))
        assert 32 * tiling["num_warps"] <= tiling["BLOCK"] <= triton_rows.BLOCK


class Squares:
    """A user's own divergence: half the sum of (p - q)**2, without the gradient, which no one looks at here."""

    def __call__(self, p: Distribution, q: Distribution) -> tuple[Tensor, Tensor]:
        return (p.probs - q.probs).square().sum(-1) / 2, torch.zeros_like(q.probs)


class OwnForwardKL(type(ALL["forward_kl"])):
    """A subclass may compute anything."""


def test_what_the_kernels_do_not_know_is_left_to_torch() -> None:
    def mix(divergence: Divergence) -> Mix:
        return Mix(divergence, 1.0, 1.0, 0.0)

    assert all(triton_rows.handles(torch.bfloat16, True, mix(make())) for make in DIVERGENCES.values())
    assert not triton_rows.handles(torch.float64, True, mix(ALL["forward_kl"]))
    assert not any(triton_rows.handles(torch.bfloat16, True, mix(own)) for own in (Squares(), OwnForwardKL()))
    assert triton_rows.handles(torch.bfloat16, False, mix(Squares()))
    case = draw("topk")
    assert_close(case.copy().run(triton_rows, mix(Squares())), case.copy(torch.float64).run(rows, mix(Squares())))


def test_cuda_takes_the_kernels_where_triton_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, labels = SparseTeacher(torch.zeros(1, 1), torch.zeros(1, 1)), torch.zeros(1)
    plan = fused._Plan(head_of(0, 1.0, None), teacher, labels, labels, Mix(Squares(), 1.0, 1.0, 0.0), torch.bfloat16, 1)
    cuda = torch.device("cuda")
    assert fused._rows_function(cuda, plan) is triton_checked.loss_and_gradient_
    dense = replace(plan, teacher=DenseTeacher(torch.zeros(1, 1), head_of(0, 1.0, None)))
    for device, other in ((torch.device("cpu"), plan), (cuda, dense), (cuda, replace(plan, dtype=torch.float64))):
        assert fused._rows_function(device, other) is rows.loss_and_gradient_
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    assert fused._rows_function(cuda, plan) is rows.loss_and_gradient_


class Kernel:
    """Stands for a compiled kernel: `launch` gets what the kernel would."""

    def __init__(self, launch: Callable[..., None]) -> None:
        self.launch = launch

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.launch


@pytest.fixture
def first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_checked, "_agreed", {})
    monkeypatch.setattr(triton_checked, "_ROWS", 1)


@pytest.mark.usefixtures("first_use")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["dense", "topk", "sampled", "none"])
@pytest.mark.parametrize("name", ALL)
def test_kernels_that_agree_with_torch_are_taken(name: str, kind: str, dtype: torch.dtype) -> None:
    if kind in ("sampled", "none") and name != "forward_kl":
        return
    case, mix = draw(kind, 3.0, dtype), Mix(ALL[name], 1.7, float(kind != "none"), 0.4)
    want = case.copy().run(triton_rows, mix)
    for got, expected in zip(case.copy().run(triton_checked, mix), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert list(triton_checked._agreed.values()) == [True]


@pytest.mark.usefixtures("first_use")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["fails", "differs"])
@pytest.mark.parametrize("kind", ["dense", "topk", "sampled", "none"])
def test_kernels_that_fail_or_differ_are_left_out_with_a_warning(
    kind: str, fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "dense_loss_and_gradient" if kind == "dense" else "softmax_gradient"
    kernel = getattr(triton_kernels, name)

    def launch(raw: Tensor, *rest: Any, **settings: Any) -> None:
        if fault == "fails":
            raise RuntimeError("no kernel image is available")
        kernel[(len(raw),)](raw, *rest, **settings)
        raw[0, 7] += 0.02

    monkeypatch.setattr(triton_kernels, name, Kernel(launch))
    case, mix = draw(kind, dtype=dtype), Mix(ALL["forward_kl"], 1.7, float(kind != "none"), 0.4)
    want = case.copy().run(rows, mix)
    with pytest.warns(RuntimeWarning, match="fail" if fault == "fails" else "differ") as warned:
        got = case.copy().run(triton_checked, mix), case.copy().run(triton_checked, mix)
    assert len(warned) == 1
    for each in got:
        for ours, expected in zip(each, want, strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["dense", "topk", "sampled", "none"])
def test_the_fused_loss_is_the_same_through_the_kernels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([3, -100, 20, 7], device=DEVICE)
    ids = torch.stack([torch.arange(K) * 5 + row for row in range(4)]).to(DEVICE)
    probs = normal(4, K, seed=7).softmax(-1) * 0.9
    teachers = {
        "dense": DenseTeacher(normal(4, 6, seed=8), replace(head_of(9, 0.7, None), weight=normal(V, 6, seed=10))),
        "topk": SparseTeacher(ids, probs, tail=1 - probs.sum(-1)),
        "sampled": SparseTeacher(ids, probs),
        "none": None,
    }
    results = []
    for path, dtype in ((triton_rows, torch.float32), (rows, torch.float64)):
        monkeypatch.setattr(fused, "_rows_function", lambda device, plan, path=path: path.loss_and_gradient_)
        hidden, weight, bias = (normal(*shape, seed=s).to(dtype).requires_grad_() for s, shape in ((11, (4, 3)), (12, (V, 3)), (13, (V,))))
        result = fused.fused_divergence(
            hidden, Head(weight, bias, 1.3, 4.0), teachers[kind], labels, temperature=1.5, soft_weight=float(kind != "none"),
            hard_weight=0.3, chunk_rows=2, matmul_dtype=dtype,
        )  # fmt: skip
        results.append([result.loss, *torch.autograd.grad(result.loss, (hidden, weight, bias))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), want.double(), rtol=5e-5, atol=5e-6)


COMPILE = """
import itertools, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from stillroom.losses import triton_kernels as kernels

def compile(kernel, *none, **known):
    types = {**dict.fromkeys(("raw", "teacher_raw", "bias", "teacher_bias"), "*bf16"), "labels": "*i64", "ids": "*i64", "keep": "*i8"}
    vectors = {"log_z", "log_z_plain", "teacher_log_z", "values", "shares"}
    fixed = {**dict.fromkeys(none), **known}
    def type_of(name):
        if name in fixed:
            return "constexpr"
        return types.get(name, "*fp32" if name in vectors else "i32" if name.startswith("num_") else "fp32")
    signature = {name: type_of(name) for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind[0] == "*" or kind == "i32"}
    for target in (80, 90):
        built = triton.compile(ASTSource(kernel, signature, fixed, aligned), target=GPUTarget("cuda", target, 32), options={"num_warps": 8})
        assert "cubin" in built.asm and "ld.local" not in built.asm["ptx"]
        assert built.metadata.shared <= 1024  # for the sums over warps alone, which any multiprocessor has
    print(kernel.__name__, built.asm["ptx"].count("ld.global.v4"))

for name in sys.argv[1:]:
    compile(kernels.dense_loss_and_gradient, "bias", "teacher_bias", "soft_cap", "teacher_soft_cap", "labels", DIVERGENCE=name, BLOCK=2048)
compile(kernels.dense_loss_and_gradient, DIVERGENCE="jensen_shannon", BLOCK=2048)
compile(kernels.log_normalisers, "bias", "soft_cap", "log_z_plain", BLOCK=2048)
compile(kernels.log_normalisers, BLOCK=2048)
compile(kernels.softmax_gradient, BLOCK=2048)
compile(kernels.softmax_gradient, "shares", BLOCK=2048)
compile(kernels.put, BLOCK=16)
"""


def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    # The interpreter forgives what the compiler does not.
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    worker = subprocess.run([sys.executable, "-c", COMPILE, *DIVERGENCES], env=environment, capture_output=True, text=True)
    assert worker.returncode == 0, worker.stderr
    assert len(worker.stdout.splitlines()) == len(DIVERGENCES) + 6
