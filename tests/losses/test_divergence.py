import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from stillroom.losses.divergence import (
    LOG_FLOOR,
    cross_entropy,
    forward_kl,
    jensen_shannon,
    masked_mean,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    total_variation,
)


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=source)


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
def test_kl_equals_the_textbook_sum(t: float) -> None:
    s, u = logits(5), logits(5, seed=1)  # below: plain Python, no code shared with the library
    q, p = ([math.exp(z / t) for z in side.tolist()] for side in (s, u))
    want = sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    assert forward_kl(s, u, temperature=t).item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_log_probabilities_serve_as_teacher_logits(t: float) -> None:
    s, u = logits(4, 6), logits(4, 6, seed=1)
    torch.testing.assert_close(forward_kl(s, u.log_softmax(-1), temperature=t), forward_kl(s, u, temperature=t), rtol=1e-12, atol=1e-15)


def test_kl_gradient_is_the_numerical_one_and_keeps_its_scale() -> None:
    s, u = logits(3, 5).requires_grad_(), logits(3, 5, seed=1)
    assert torch.autograd.gradcheck(lambda x: forward_kl(x, u, temperature=2.0), (s,))
    # Hinton et al. 2015, eq. 4: T**2 * dKL/dz tends to (z_s - z_t) / V for centred logits.
    s, u = (x.detach() - x.detach().mean(-1, keepdim=True) for x in (s, u))
    loss = 1e4**2 * forward_kl(s.requires_grad_(), u, temperature=1e4).sum()
    torch.testing.assert_close(*torch.autograd.grad(loss, s), (s - u) / 5, rtol=0, atol=1e-4)


def test_kl_is_a_divergence_and_ignores_what_it_must() -> None:
    s, u = logits(50, 7), logits(50, 7, seed=1)
    kl = forward_kl(s, u)
    assert (kl > 0).all()
    assert forward_kl(u, u).abs().max() < 1e-15
    torch.testing.assert_close(forward_kl(s + 3.0, u - 5.0), kl)  # a constant on all logits
    torch.testing.assert_close(forward_kl(s.flip(-1), u.flip(-1)), kl)  # renamed classes
    parts = torch.cat([forward_kl(a, b) for a, b in zip(s.split(7), u.split(7), strict=True)])
    assert torch.equal(parts, kl)  # in chunks


def test_a_forbidden_class_costs_nothing_in_value_and_gradient() -> None:
    s = logits(3).requires_grad_()
    two = torch.tensor([0, 2])
    loss = forward_kl(s, torch.tensor([0.3, -math.inf, 1.0], dtype=torch.float64))
    # The rest of the sum, by hand: p = softmax of the two allowed, q = softmax of all three.
    p, log_q = torch.tensor([0.3, 1.0], dtype=torch.float64).softmax(0), s.log_softmax(0)[two]
    torch.testing.assert_close(loss, (p * (p.log() - log_q)).sum())
    (gradient,) = torch.autograd.grad(loss, s)
    want = s.detach().softmax(0).index_add(0, two, -p)
    torch.testing.assert_close(gradient, want)


def test_half_precision_is_accumulated_in_float32() -> None:
    s, u = logits(4, 1000).bfloat16(), logits(4, 1000, seed=1).bfloat16()
    assert forward_kl(s, u).dtype == torch.float32
    assert cross_entropy(s, torch.arange(4)).dtype == torch.float32
    torch.testing.assert_close(forward_kl(s, u).double(), forward_kl(s.double(), u.double()), rtol=1e-4, atol=0)


ALL = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": partial(jensen_shannon, beta=0.3),
    "skewed_forward_kl": partial(skewed_forward_kl, alpha=0.2),
    "skewed_reverse_kl": partial(skewed_reverse_kl, alpha=0.2),
    "total_variation": total_variation,
}


def textbook(name: str, p: list[float], q: list[float]) -> float:
    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    def mix(of_p: float) -> list[float]:
        return [of_p * x + (1 - of_p) * y for x, y in zip(p, q, strict=True)]

    match name:
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "jensen_shannon":
            return 0.3 * kl(p, mix(0.3)) + 0.7 * kl(q, mix(0.3))
        case "skewed_forward_kl":
            return kl(p, mix(0.2))
        case "skewed_reverse_kl":
            return kl(q, mix(0.8))
    return 0.5 * sum(abs(x - y) for x, y in zip(p, q, strict=True))


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("name", ALL)
def test_every_divergence_is_the_textbook_one_with_the_numerical_gradient(name: str, t: float) -> None:
    s, u = logits(6), logits(6, seed=1)
    q, p = ([x / sum(side) for x in side] for side in ([math.exp(z / t) for z in x.tolist()] for x in (s, u)))
    assert ALL[name](s, u, temperature=t).item() == pytest.approx(textbook(name, p, q), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: ALL[name](x, u, temperature=t), (s.requires_grad_(),))


@pytest.mark.parametrize("name", ALL)
def test_every_divergence_is_zero_only_at_the_teacher(name: str) -> None:
    s, u = logits(50, 7).requires_grad_(), logits(50, 7, seed=1)
    assert (ALL[name](s, u) > 1e-3).all()
    torch.testing.assert_close(ALL[name](s + 3.0, u - 5.0), ALL[name](s, u))
    same = ALL[name](s, s.detach() - 5.0)
    assert same.abs().max() < 1e-14
    assert name == "total_variation" or torch.autograd.grad(same.sum(), s)[0].abs().max() < 1e-14
    assert not ALL[name](s.detach(), u.requires_grad_()).requires_grad  # the teacher is a constant


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("both", [False, True])
def test_forbidden_tokens_stay_finite_in_every_divergence(name: str, both: bool) -> None:
    s, u = logits(4, 6), logits(4, 6, seed=1).index_fill(-1, torch.tensor([2]), -math.inf)
    s = (s.index_fill(-1, torch.tensor([2]), -math.inf) if both else s).requires_grad_()
    value = ALL[name](s, u)
    q, p = s.detach().softmax(-1), u.softmax(-1)
    if name == "reverse_kl":  # by hand: the forbidden token has the probability of the floor
        p = p.index_fill(-1, torch.tensor([2]), math.exp(LOG_FLOOR))
    want = [textbook(name, a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    torch.testing.assert_close(value, torch.tensor(want, dtype=torch.float64), rtol=1e-9, atol=0)
    assert torch.autograd.grad(value.sum(), s)[0].isfinite().all()


def test_the_limits_of_jensen_shannon_are_the_two_kls() -> None:
    s, u = logits(20, 7), logits(20, 7, seed=1)
    tiny = 1e-7
    torch.testing.assert_close(jensen_shannon(s, u, beta=tiny) / tiny, forward_kl(s, u), rtol=1e-5, atol=0)
    torch.testing.assert_close(jensen_shannon(s, u, beta=1 - tiny) / tiny, reverse_kl(s, u), rtol=1e-5, atol=0)
    bound = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    assert (jensen_shannon(100 * s, 100 * u, beta=0.3) <= bound + 1e-12).all()
    torch.testing.assert_close(jensen_shannon(s, u, beta=0.3), jensen_shannon(u, s, beta=0.7))  # beta is the teacher's weight
    for beta in (0.0, 1.0, -0.1, 1.1):
        with pytest.raises(ValueError, match=rf"beta = {beta} is outside.*forward_kl.*reverse_kl"):
            jensen_shannon(s, u, beta=beta)


def test_the_limits_of_the_skewed_kls() -> None:
    s, u = logits(20, 7), logits(20, 7, seed=1)
    torch.testing.assert_close(skewed_forward_kl(s, u, alpha=0.0), forward_kl(s, u))
    torch.testing.assert_close(skewed_reverse_kl(s, u, alpha=0.0), reverse_kl(s, u))
    torch.testing.assert_close(skewed_forward_kl(s, u, alpha=1e-9), forward_kl(s, u))
    torch.testing.assert_close(skewed_reverse_kl(s, u, alpha=0.2), skewed_forward_kl(u, s, alpha=0.2))  # the roles swapped
    assert (skewed_forward_kl(100 * s, 100 * u, alpha=0.1) <= -math.log(0.1) + 1e-12).all()
    for alpha in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"alpha = {alpha} is outside"):
            skewed_forward_kl(s, u, alpha=alpha)


def test_total_variation_is_at_most_one_and_bounded_by_pinsker() -> None:
    s, u = logits(20, 7), logits(20, 7, seed=1)
    assert (total_variation(s, u) <= (forward_kl(s, u) / 2).sqrt()).all()
    assert (total_variation(1000 * s, 1000 * u) <= 1 + 1e-12).all()


def test_shapes_that_differ_are_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        forward_kl(logits(2, 3), logits(2, 4))


def test_cross_entropy_is_the_textbook_one_and_skips_unlabelled_rows() -> None:
    s, codes = logits(6, 4), torch.tensor([0, 3, -1, 1, -1, 2])
    want = [0.0 if c < 0 else math.log(sum(math.exp(z) for z in row)) - row[c] for row, c in zip(s.tolist(), codes.tolist(), strict=True)]
    torch.testing.assert_close(cross_entropy(s, codes), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(cross_entropy(s, codes.clamp(min=0)), F.cross_entropy(s, codes.clamp(min=0), reduction="none"))
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, codes), (s.requires_grad_(),))


def test_masked_positions_cannot_matter_and_parts_add_up() -> None:
    v, keep = logits(10), torch.arange(10) % 3 != 0
    torch.testing.assert_close(masked_mean(v, keep), v[keep].mean())
    torch.testing.assert_close(masked_mean(v.where(keep, torch.inf), keep), masked_mean(v, keep))
    assert masked_mean(v, torch.zeros(10, dtype=torch.bool)).item() == 0.0
    parts = [masked_mean(a, b, num_kept=keep.sum()) for a, b in zip(v.split(4), keep.split(4), strict=True)]
    torch.testing.assert_close(torch.stack(parts).sum(), masked_mean(v, keep))


def test_the_losses_are_there_for_anyones_training_loop() -> None:
    import stillroom.losses

    assert len(stillroom.losses.__all__) > 15
    for name in stillroom.losses.__all__:
        assert getattr(stillroom.losses, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'forward_lk'"):
        _ = stillroom.losses.forward_lk
