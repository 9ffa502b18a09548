import math

import pytest
import torch
import torch.nn.functional as F

from stillroom.losses.divergence import cross_entropy, forward_kl, masked_mean


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
