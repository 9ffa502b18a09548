"""The fused losses against an unfused float64 oracle: textbook sums over all logits at once, gradients by autograd."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stillroom.losses import fused
from stillroom.losses import rows as rows_module
from stillroom.losses.closed_form import DIVERGENCES, Divergence, JensenShannon, SkewedForwardKL, SkewedReverseKL
from stillroom.losses.fused import FusedLoss, fused_divergence, next_token_rows
from stillroom.losses.head import Head
from stillroom.losses.teacher import DenseTeacher, SparseTeacher

N, H, HT, V, K = 23, 5, 7, 17, 4
ALL: dict[str, Divergence] = {
    **{name: make() for name, make in DIVERGENCES.items()},
    "jensen_shannon": JensenShannon(0.3), "skewed_forward_kl": SkewedForwardKL(0.2), "skewed_reverse_kl": SkewedReverseKL(0.2),
}  # fmt: skip


def kl(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a > 0, a * (torch.where(a > 0, a, 1.0).log() - b.log()), 0.0).sum(-1)


ORACLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward_kl": lambda p, q: kl(p, q),
    "reverse_kl": lambda p, q: kl(q, p),
    "jensen_shannon": lambda p, q: 0.3 * kl(p, 0.3 * p + 0.7 * q) + 0.7 * kl(q, 0.3 * p + 0.7 * q),
    "skewed_forward_kl": lambda p, q: kl(p, 0.2 * p + 0.8 * q),
    "skewed_reverse_kl": lambda p, q: kl(q, 0.8 * p + 0.2 * q),
    "total_variation": lambda p, q: 0.5 * (p - q).abs().sum(-1),
}


def softmax(logits: Tensor) -> Tensor:
    powers = (logits - logits.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def head_logits(hidden: Tensor, head: Head) -> Tensor:
    logits = hidden.double() @ head.weight.double().t()
    logits = head.scale * (logits if head.bias is None else logits + head.bias.double())
    return logits if head.soft_cap is None else head.soft_cap * torch.tanh(logits / head.soft_cap)


def oracle(
    hidden: Tensor, head: Head, teacher: Any, labels: Tensor, *,
    divergence: str = "forward_kl", temperature: float = 1.0, soft_weight: float = 1.0, hard_weight: float = 0.0,
) -> Tensor:  # fmt: skip
    keep = labels != -100
    logits = head_logits(hidden, head)[keep]
    q = softmax(logits / temperature)
    if isinstance(teacher, DenseTeacher):
        soft = ORACLE[divergence](softmax(head_logits(teacher.hidden, teacher.head)[keep] / temperature), q)
    else:
        ids, probs = teacher.ids[keep], teacher.probs[keep].double()
        if teacher.tail is None:
            soft = -(torch.zeros_like(q).scatter_add(-1, ids * (probs > 0), probs) * q.log()).sum(-1)
            soft = soft if teacher.entropy is None else soft - teacher.entropy[keep]
        else:
            soft = torch.stack([buckets(*row, divergence) for row in zip(ids, probs, teacher.tail[keep].double(), q, strict=True)])
    hard = -softmax(logits).gather(-1, labels[keep].unsqueeze(-1)).log().squeeze(-1)
    return (soft_weight * soft + hard_weight * hard).mean()


def buckets(ids: Tensor, probs: Tensor, tail: Tensor, q: Tensor, divergence: str) -> Tensor:
    real = probs > 0
    listed = q[ids[real]]
    return ORACLE[divergence](torch.cat([probs[real], tail[None]]), torch.cat([listed, (q.sum() - listed.sum())[None]]))


def draw(seed: int = 0, dtype: torch.dtype = torch.float64, spread: float = 1.0, plain: bool = False) -> dict[str, Any]:
    """Arguments of a call: heads of two widths, each with bias, scale and soft-cap; every fifth position is ignored."""
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return (torch.randn(*shape, dtype=torch.float64, generator=source) * spread).to(dtype)

    labels = torch.randint(0, V, (N,), generator=source)
    labels[::5] = -100

    def extras(scale: float, cap: float) -> dict[str, Any]:
        return {} if plain else {"bias": normal(V), "scale": scale, "soft_cap": cap}

    head = Head(normal(V, H).requires_grad_(), **extras(1.3, 4.0))
    if head.bias is not None:
        head.bias.requires_grad_()
    return {
        "hidden": normal(N, H).requires_grad_(),
        "head": head,
        "teacher": DenseTeacher(normal(N, HT), Head(normal(V, HT), **extras(0.7, 3.0))),
        "labels": labels,
    }


def topk(dense: DenseTeacher, temperature: float = 1.0, padding: bool = True) -> SparseTeacher:
    """The K likeliest of a dense teacher, the last entry of every third row a padding one with an id that is taken."""
    probs, ids = softmax(head_logits(dense.hidden, dense.head) / temperature).topk(K)
    if padding:
        probs[::3, -1], ids[::3, -1] = 0.0, ids[::3, 0]
    return SparseTeacher(ids, probs, tail=1 - probs.sum(-1))


def sampled(seed: int = 0) -> SparseTeacher:
    source = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(V, generator=source)[:K] for _ in range(N)])
    probs = torch.rand(N, K, dtype=torch.float64, generator=source)
    probs[::3, -1], ids[::3, -1] = 0.0, -1
    return SparseTeacher(ids, probs / probs.sum(-1, keepdim=True) * 1.1, entropy=torch.rand(N, dtype=torch.float64, generator=source))


def tensors(call: dict[str, Any]) -> list[Tensor]:
    return [x for x in (call["hidden"], call["head"].weight, call["head"].bias) if x is not None]


def gradients(loss: Tensor, call: dict[str, Any]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, tensors(call))


def assert_equal_to_oracle(call: dict[str, Any], name: str, **options: Any) -> None:
    loss = fused_divergence(**call, divergence=ALL[name], chunk_rows=4, **options).loss
    want = oracle(**call, divergence=name, **options)
    torch.testing.assert_close(loss, want, rtol=1e-9, atol=1e-12)
    for got, expected in zip(gradients(loss, call), gradients(want, call), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-11)


MIXES = [
    {"temperature": 1.0, "soft_weight": 1.0, "hard_weight": 0.0},
    {"temperature": 1.0, "soft_weight": 0.6, "hard_weight": 0.3},
    {"temperature": 1.7, "soft_weight": 2.0, "hard_weight": 0.3},
]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", ALL)
def test_dense_teacher_equals_the_oracle_in_value_and_gradients(name: str, mix: dict[str, float]) -> None:
    assert_equal_to_oracle(draw(), name, **mix)
    assert_equal_to_oracle(draw(1, plain=True), name, **mix)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", ALL)
def test_topk_teacher_with_a_tail_equals_the_oracle(name: str, mix: dict[str, float]) -> None:
    call = draw()
    assert_equal_to_oracle({**call, "teacher": topk(call["teacher"], mix["temperature"])}, name, **mix)


@pytest.mark.parametrize("mix", MIXES)
def test_sampled_teacher_equals_the_oracle(mix: dict[str, float]) -> None:
    assert_equal_to_oracle({**draw(), "teacher": sampled()}, "forward_kl", **mix)
    assert_equal_to_oracle({**draw(), "teacher": replace(sampled(), entropy=None)}, "forward_kl", **mix)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_gradient_is_the_numerical_one(name: str, kind: str) -> None:
    call = draw()
    if kind == "topk":
        call["teacher"] = topk(call["teacher"])

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        head = replace(call["head"], weight=weight, bias=bias)
        mix = {"temperature": 1.6, "soft_weight": 1.5, "hard_weight": 0.4}
        return fused_divergence(hidden, head, call["teacher"], call["labels"], divergence=ALL[name], chunk_rows=6, **mix).loss

    assert torch.autograd.gradcheck(loss, tensors(call))


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_inputs_stay_close_to_the_oracle_of_the_same_inputs(name: str) -> None:
    call = draw(dtype=torch.bfloat16, plain=True)
    want = oracle(**call, divergence=name, hard_weight=0.3)
    exact = fused_divergence(**call, divergence=ALL[name], hard_weight=0.3, matmul_dtype=torch.float32).loss
    fast = fused_divergence(**call, divergence=ALL[name], hard_weight=0.3).loss
    assert exact.dtype == fast.dtype == torch.float32
    assert exact.item() == pytest.approx(want.item(), rel=1e-5)
    assert fast.item() == pytest.approx(want.item(), rel=2e-3)
    for expected, close, rounded in zip(gradients(want, call), gradients(exact, call), gradients(fast, call), strict=True):
        assert close.dtype == rounded.dtype == torch.bfloat16
        assert relative(close, expected) < 2e-3  # the rounding of the gradient itself
        assert relative(rounded, expected) < 2e-2  # and of every logit


def relative(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_is_zero_with_zero_gradient_at_the_teacher(name: str, kind: str) -> None:
    call = draw()
    student = Head(call["head"].weight.detach().requires_grad_(), call["head"].bias.detach().requires_grad_(), 1.3, 4.0)
    dense = DenseTeacher(call["hidden"].detach(), replace(student, weight=student.weight.detach(), bias=call["head"].bias.detach()))
    call |= {"head": student, "teacher": dense if kind == "dense" else topk(dense, 2.0)}
    loss = fused_divergence(**call, divergence=ALL[name], temperature=2.0).loss
    assert abs(loss.item()) < 1e-14
    assert all(g.abs().max() < 1e-14 or name == "total_variation" for g in gradients(loss, call))  # |x| has no gradient at 0


def part(call: dict[str, Any], rows: slice) -> dict[str, Any]:
    teacher = call["teacher"]
    names = ("hidden",) if isinstance(teacher, DenseTeacher) else ("ids", "probs", "tail")
    cut = replace(teacher, **{name: getattr(teacher, name)[rows] for name in names})
    return {**call, "hidden": call["hidden"][rows], "labels": call["labels"][rows], "teacher": cut}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["dense", "topk"])
@pytest.mark.parametrize("sizes", [(1, 1, 21), (5, 13, 5), (12, 11)])
def test_micro_batches_and_ranks_add_up_to_the_batch(name: str, kind: str, sizes: tuple[int, ...]) -> None:
    call = draw()
    call["teacher"] = call["teacher"] if kind == "dense" else topk(call["teacher"])
    options = {"divergence": ALL[name], "hard_weight": 0.3, "temperature": 1.5}
    whole = fused_divergence(**call, **options)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    slices = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]  # the first holds an ignored position alone
    parts = [fused_divergence(**part(call, rows), **options, num_tokens=whole.num_tokens) for rows in slices]
    assert sum(x.num_tokens for x in parts) == whole.num_tokens == (call["labels"] != -100).sum()
    total = torch.stack([x.loss for x in parts]).sum()
    torch.testing.assert_close(total, whole.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack([x.soft for x in parts]).sum(), whole.soft, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack([x.hard for x in parts]).sum(), whole.hard, rtol=1e-12, atol=0)
    for got, want in zip(gradients(total, call), gradients(whole.loss, call), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_chunks_and_blocks_cannot_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = draw()
    losses = [fused_divergence(**call, divergence=ALL[name], hard_weight=0.2, chunk_rows=rows).loss for rows in (1, 3, 18, 1000)]
    for block_bytes in (1, V * 8 * 2):
        monkeypatch.setattr(rows_module, "BLOCK_BYTES", block_bytes)
        losses.append(fused_divergence(**call, divergence=ALL[name], hard_weight=0.2).loss)
    first = gradients(losses[0], call)
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-12, atol=0)
        for got, want in zip(gradients(loss, call), first, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("wild", [math.nan, math.inf, 1e300])
def test_padding_cannot_matter_whatever_it_holds(wild: float) -> None:
    call = draw()
    loss = fused_divergence(**call, hard_weight=0.5).loss
    more = {**call, "labels": torch.cat([call["labels"], torch.full((3,), -100)])}
    more["hidden"] = torch.cat([call["hidden"], torch.full((3, H), wild, dtype=torch.float64)])
    more["teacher"] = replace(call["teacher"], hidden=torch.cat([call["teacher"].hidden, torch.full((3, HT), wild, dtype=torch.float64)]))
    padded = fused_divergence(**more, hard_weight=0.5).loss
    assert torch.equal(padded, loss)
    (by_more,) = torch.autograd.grad(padded, more["hidden"], retain_graph=True)
    assert (by_more[more["labels"] == -100] == 0).all()
    for got, want in zip(gradients(padded, call), gradients(loss, call), strict=True):
        assert torch.equal(got, want)


def test_all_positions_masked_gives_zero_loss_and_gradient() -> None:
    call = {**draw(), "labels": torch.full((N,), -100)}
    for teacher in (call["teacher"], topk(call["teacher"]), sampled()):
        result = fused_divergence(**{**call, "teacher": teacher}, hard_weight=0.5)
        assert result.loss.item() == result.soft.item() == result.hard.item() == result.num_tokens == 0
        assert all(g.shape == x.shape and (g == 0).all() for g, x in zip(gradients(result.loss, call), tensors(call), strict=True))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forbidden_tokens_leave_value_and_gradient_finite(name: str, both: bool, dtype: torch.dtype) -> None:
    call = draw(plain=True, dtype=dtype)
    forbidden = torch.zeros(V, dtype=dtype).index_fill(0, torch.tensor([0, 3]), -math.inf)
    call["labels"][call["labels"] == 0] = 1
    call["labels"][call["labels"] == 3] = 1
    call["teacher"] = replace(call["teacher"], head=replace(call["teacher"].head, bias=forbidden))
    if both:
        call["head"] = replace(call["head"], bias=forbidden.clone().requires_grad_())
    loss = fused_divergence(**call, divergence=ALL[name], hard_weight=0.1).loss
    assert loss < 100  # where reverse_kl would be infinite, the floor keeps it of a size to train with
    assert all(g.isfinite().all() for g in gradients(loss, call))
    if not both and name in ("forward_kl", "jensen_shannon", "skewed_forward_kl", "skewed_reverse_kl"):
        torch.testing.assert_close(loss.double(), oracle(**call, divergence=name, hard_weight=0.1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_logits_far_apart_leave_value_and_gradient_finite(name: str) -> None:
    call = draw(plain=True, dtype=torch.float32, spread=20.0)
    for teacher in (call["teacher"], topk(call["teacher"])):
        loss = fused_divergence(**{**call, "teacher": teacher}, divergence=ALL[name], hard_weight=0.1).loss
        assert loss.isfinite()
        assert all(g.isfinite().all() for g in gradients(loss, call))


def test_a_broken_teacher_is_not_hidden() -> None:
    call = draw()
    hidden = call["teacher"].hidden.clone()
    hidden[1] = math.nan
    assert fused_divergence(**{**call, "teacher": replace(call["teacher"], hidden=hidden)}).loss.isnan()


def test_one_draw_is_unbiased_in_value_and_gradient() -> None:
    # One token drawn from p: the expectation over all V draws, written out, is the dense divergence up to the teacher's entropy.
    call = draw()
    p = softmax(head_logits(call["teacher"].hidden, call["teacher"].head) / 1.5)
    keep = call["labels"] != -100
    losses = []
    for token in range(V):
        weight = p[:, token] * V  # importance, so that the plain mean over tokens is the expectation
        losses.append(
            fused_divergence(**{**call, "teacher": SparseTeacher(torch.full((N, 1), token), weight[:, None])}, temperature=1.5).loss
        )
    expected = torch.stack(losses).mean()
    dense = fused_divergence(**call, temperature=1.5).loss
    entropy = -(p * p.log()).sum(-1)[keep].mean()
    torch.testing.assert_close(expected - entropy, dense, rtol=1e-10, atol=0)
    for got, want in zip(gradients(expected, call), gradients(dense, call), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)


class Watch(TorchDispatchMode):
    """Sums the multiplications of matrix products, and keeps the largest tensor that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.products, self.multiplications, self.largest = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "mm" in func.__name__:
            left, right = args[-2:]
            self.products += 1
            self.multiplications += left.shape[0] * left.shape[1] * right.shape[1]
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize(("kind", "widths"), [("dense", 3 * H + HT), ("topk", 3 * H), ("sampled", 3 * H), ("none", 3 * H)])
def test_matrix_products_are_the_floor_and_see_no_ignored_position(kind: str, widths: int) -> None:
    call = draw()
    teachers = {"dense": call["teacher"], "topk": topk(call["teacher"]), "sampled": sampled(), "none": None}
    with Watch() as seen:
        result = fused_divergence(
            **{**call, "teacher": teachers[kind]}, hard_weight=0.5, soft_weight=float(kind != "none"), temperature=2.0, chunk_rows=2
        )
        result.loss.backward()
    assert seen.multiplications == result.num_tokens * V * widths
    assert seen.products == math.ceil(result.num_tokens / 2) * (4 if kind == "dense" else 3)
    assert seen.largest <= max(N * HT, V * HT)  # never N * V


class Waits(TorchDispatchMode):
    """Operations whose result the host has to know: on a CUDA device each would hold up all that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places = args[1] if "index" in func.__name__ and isinstance(args[1], list | tuple) else ()
        if any(word in func.__name__ for word in ("nonzero", "_local_scalar", "masked_select", "unique", "equal.")) or any(
            place is not None and place.dtype == torch.bool for place in places
        ):
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["dense", "topk", "sampled"])
def test_the_host_asks_the_device_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = draw()
    call["teacher"] = {"dense": call["teacher"], "topk": topk(call["teacher"]), "sampled": sampled()}[kind]
    asked = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: asked.append(tensor) or tolist(tensor))
    with Waits() as waits:
        fused_divergence(**call, hard_weight=0.5, chunk_rows=2).loss.backward()
    assert waits.seen == []
    assert len(asked) == 1


def test_chunks_on_cuda_are_whole_tiles_within_the_memory_reckoned() -> None:
    cuda, row_bytes = torch.device("cuda"), 128256 * 2
    assert fused._rows_at_once(cuda, row_bytes) == 2048
    for size in (50257, 151936, 2**20):
        assert fused._rows_at_once(cuda, size * 4) % 128 == 0
    gradients, chunks = 4 * (128256 * 2048 + 8192 * 2048), 2 * 2048 * row_bytes
    assert gradients + chunks < 2.3e9
    assert fused._rows_at_once(torch.device("cpu"), row_bytes) == fused.CHUNK_BYTES // row_bytes


def test_a_device_that_can_adds_products_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fused._adds_to_float32(torch.device("cpu"), torch.bfloat16)

    def addmm(total: Tensor, left: Tensor, right: Tensor, *, out_dtype: torch.dtype, out: Tensor) -> Tensor:
        assert out is total
        assert left.dtype == right.dtype == torch.bfloat16
        return out.copy_(total + torch.mm(left.to(out_dtype), right.to(out_dtype)))

    call = draw(dtype=torch.bfloat16, plain=True)
    want = gradients(fused_divergence(**call, matmul_dtype=torch.float32).loss, call)[1]
    plain = gradients(fused_divergence(**call, chunk_rows=1).loss, call)[1]
    monkeypatch.setattr(torch, "addmm", addmm)
    fused._adds_to_float32.cache_clear()
    try:
        better = gradients(fused_divergence(**call, chunk_rows=1).loss, call)[1]
    finally:
        fused._adds_to_float32.cache_clear()
    assert not torch.equal(better, plain)
    assert relative(better, want) < 2e-2


def test_only_the_gradients_that_are_wanted_are_computed() -> None:
    call = draw()
    frozen = {**call, "head": replace(call["head"], weight=call["head"].weight.detach(), bias=call["head"].bias.detach())}
    with Watch() as seen:
        loss = fused_divergence(**frozen, chunk_rows=100).loss
    assert seen.products == 3
    assert torch.equal(torch.autograd.grad(loss, call["hidden"])[0], torch.autograd.grad(fused_divergence(**call).loss, call["hidden"])[0])
    with torch.no_grad(), Watch() as seen:
        evaluated = fused_divergence(**call, chunk_rows=100).loss
    assert seen.products == 2
    assert torch.equal(evaluated, loss)
    assert not evaluated.requires_grad


def test_backward_scales_and_can_be_repeated() -> None:
    call = draw()
    loss = fused_divergence(**call).loss
    once = gradients(fused_divergence(**call).loss, call)
    for _ in range(2):
        (3 * loss).backward(retain_graph=True)
    for x, want in zip(tensors(call), once, strict=True):
        torch.testing.assert_close(x.grad, 6 * want, rtol=1e-12, atol=0)


def test_autocast_decides_the_type_of_the_products() -> None:
    call = draw(dtype=torch.float32, plain=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fused_divergence(**call).loss
    assert torch.equal(inside, fused_divergence(**call, matmul_dtype=torch.bfloat16).loss)
    assert not torch.equal(inside, fused_divergence(**call).loss)
    assert all(g.dtype == torch.float32 for g in gradients(inside, call))


def test_without_soft_weight_the_teacher_is_not_looked_at() -> None:
    call = draw()
    control = fused_divergence(**{**call, "teacher": None}, soft_weight=0.0, hard_weight=0.7)
    broken = replace(call["teacher"], hidden=torch.full((N, HT), math.nan, dtype=torch.float64))
    same = fused_divergence(**{**call, "teacher": broken}, soft_weight=0.0, hard_weight=0.7, temperature=3.0)
    assert torch.equal(control.loss, same.loss)
    keep = call["labels"] != -100
    want = torch.nn.functional.cross_entropy(head_logits(call["hidden"], call["head"])[keep], call["labels"][keep])
    torch.testing.assert_close(control.loss, 0.7 * want, rtol=1e-12, atol=0)
    torch.testing.assert_close(control.hard, want * control.num_tokens, rtol=1e-12, atol=0)
    assert control.soft == 0


def test_nothing_is_multiplied_by_t_squared() -> None:
    call = draw()
    cool, warm = (fused_divergence(**call, temperature=t).loss.item() * t**2 for t in (50.0, 100.0))
    assert cool == pytest.approx(warm, rel=0.05)  # Hinton et al. 2015: T**2 * KL tends to a constant


def test_next_token_rows_pair_each_position_with_its_follower() -> None:
    hidden = torch.arange(2 * 4 * 3.0).view(2, 4, 3)
    labels = torch.tensor([[10, 11, 12, 13], [20, 21, -100, 23]])
    rows, after = next_token_rows(hidden, labels)
    assert after.tolist() == [11, 12, 13, -100, 21, -100, 23, -100]
    assert torch.equal(rows[4], hidden[1, 0])
    assert rows.data_ptr() == hidden.data_ptr()
    with pytest.raises(ValueError, match=r"\(2, 4, 3\).*\(2, 3\)"):
        next_token_rows(hidden, labels[:, :3])


def test_a_padded_vocabulary_is_cut_on_request_and_gradients_reach_the_whole_weight() -> None:
    call = draw()
    wide = {
        **call,
        "head": Head(torch.randn(V + 3, H, dtype=torch.float64).requires_grad_(), torch.randn(V + 3, dtype=torch.float64).requires_grad_()),
    }
    with pytest.raises(ValueError, match=rf"{V + 3} tokens, the teacher's {V}.*student's further rows.*head.cut\({V}\)"):
        fused_divergence(**wide)
    loss = fused_divergence(**{**wide, "head": wide["head"].cut(V)}).loss
    by_weight = torch.autograd.grad(loss, wide["head"].weight)[0]
    assert by_weight.shape == (V + 3, H)
    assert (by_weight[V:] == 0).all()
    assert (by_weight[:V] != 0).any()
    torch.testing.assert_close(loss, oracle(**{**wide, "head": Head(wide["head"].weight[:V], wide["head"].bias[:V])}))
    with pytest.raises(ValueError, match=rf"{V} rows.*never made up"):
        call["head"].cut(V + 3)


def changed(**changes: Any) -> Callable[[], FusedLoss]:
    return lambda: fused_divergence(**{**draw(), **changes})


TOO_WIDE = DenseTeacher(torch.zeros(N, HT), Head(torch.zeros(152064, HT)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (changed(teacher=TOO_WIDE), r"17 tokens, the teacher's 152064.*teacher's further rows are padding.*cut\(17\)"),
        (changed(teacher=replace(sampled(), vocabulary_size=20)), r"17 tokens, the teacher's 20"),
        (changed(teacher=replace(sampled(), ids=sampled().ids + 9)), r"17 tokens, the teacher's \d+"),
        (changed(teacher=replace(sampled(), tail=None), divergence="reverse_kl"), r"unbiased estimate of forward_kl only"),
        (changed(teacher=None), r"soft_weight = 1.0, but there is no teacher"),
        (changed(teacher=DenseTeacher(torch.zeros(N - 1, HT), Head(torch.zeros(V, HT)))), r"22 rows, the student 23"),
        (changed(teacher=DenseTeacher(torch.zeros(N, 3), Head(torch.zeros(V, HT)))), r"\(23, 3\).*\(17, 7\).*widths differ"),
        (changed(labels=torch.full((N,), V)), r"labels go from 17 to 17, the vocabulary has 17"),
        (changed(labels=torch.full((N,), -1)), r"labels go from -1.*ignore_index = -100"),
        (changed(labels=torch.zeros(N + 1, dtype=torch.long)), r"\(24,\).*next_token_rows"),
        (changed(temperature=0.0), r"temperature = 0.0 must be above 0"),
        (changed(num_tokens=3), r"num_tokens = 3, but 18 positions"),
        (changed(divergence="forwrd_kl"), r"'forwrd_kl' is not one of.*did you mean 'forward_kl'"),
        (lambda: Head(torch.zeros(3, 2), torch.zeros(2)), r"head.bias is \(2,\), head.weight \(3, 2\)"),
        (lambda: Head(torch.zeros(3)), r"head.weight is \(3,\)"),
        (lambda: Head(torch.zeros(3, 2), scale=0.0), r"head.scale = 0.0 must be above 0"),
        (lambda: Head(torch.zeros(3, 2), soft_cap=-1.0), r"head.soft_cap = -1.0 must be above 0"),
        (lambda: SparseTeacher(torch.zeros(3, 2), torch.zeros(3, 1)), r"\(3, 2\), teacher.probs \(3, 1\)"),
        (lambda: SparseTeacher(torch.zeros(3, 2), torch.zeros(3, 2), tail=torch.zeros(2)), r"teacher.tail is \(2,\)"),
        (lambda: JensenShannon(0.0), r"beta = 0.0 is outside \(0, 1\).*forward_kl"),
        (lambda: SkewedForwardKL(1.0), r"alpha = 1.0 is outside \[0, 1\)"),
        (lambda: SkewedReverseKL(-0.1), r"alpha = -0.1 is outside"),
    ],
)
def test_what_cannot_be_right_is_refused_in_words(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
