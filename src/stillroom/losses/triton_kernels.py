"""Triton kernels on rows of logits: what `losses.rows` does in some twenty passes over the memory, in three or four.

One program takes one row, block by block; everything is computed in float32 and written in the type of `raw`. Launched by
`losses.triton_rows`, which says what has been checked and what has not.

Shapes: R rows, V = num_columns; raw (R, V) contiguous, the products of a head without bias, scale and soft-cap. A product of -inf
is a token set aside: it has no probability. `bias` (V,) and `soft_cap` may be None, as in `losses.head.Head`.
"""

import triton
import triton.language as tl

LOG_ZERO = tl.constexpr(-1e30)  # as losses.divergence has them; a kernel sees no other globals
LOG_FLOOR = tl.constexpr(-87.33654475)
TINY = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def log_normalisers(raw, bias, log_z, log_z_plain, num_columns, scale, soft_cap, inverse_temperature, BLOCK: tl.constexpr):
    """log_z (R,) = log sum exp(logits / T) of each row, and log_z_plain (R,), unless None, the same at T = 1. One read."""
    row = tl.program_id(0).to(tl.int64)
    raw += row * num_columns
    top = tl.max(tl.full([BLOCK], LOG_ZERO, tl.float32))
    total = tl.zeros([BLOCK], tl.float32)
    total_plain = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        logits, _ = head_logits(raw, bias, columns, num_columns, scale, soft_cap)
        higher = tl.maximum(top, tl.max(logits))
        total = total * tl.exp((top - higher) * inverse_temperature) + tl.exp((logits - higher) * inverse_temperature)
        if log_z_plain is not None:
            total_plain = total_plain * tl.exp(top - higher) + tl.exp(logits - higher)
        top = higher
    tl.store(log_z + row, top * inverse_temperature + tl.log(tl.sum(total)))
    if log_z_plain is not None:
        tl.store(log_z_plain + row, top + tl.log(tl.sum(total_plain)))


@triton.jit
def dense_loss_and_gradient(
    raw, bias, log_z, log_z_plain, labels, teacher_raw, teacher_bias, teacher_log_z, values, num_columns,
    scale, soft_cap, teacher_scale, teacher_soft_cap, inverse_temperature, soft_weight, hard_weight, parameter,
    DIVERGENCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """values (R,) = D(p, q); raw becomes the gradient of soft_weight * D + hard_weight * cross-entropy. labels None: no such term.

    One read of both sides and one write for forward KL, whose gradient needs no sum over the row; a read more for all others.
    """
    row = tl.program_id(0).to(tl.int64)
    raw += row * num_columns
    teacher_raw += row * num_columns
    z, teacher_z = tl.load(log_z + row), tl.load(teacher_log_z + row)
    value = tl.zeros([BLOCK], tl.float32)
    if DIVERGENCE != "forward_kl":
        weighted = tl.zeros([BLOCK], tl.float32)
        for start in range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            logits, _ = head_logits(raw, bias, columns, num_columns, scale, soft_cap)
            teacher_logits, _ = head_logits(teacher_raw, teacher_bias, columns, num_columns, teacher_scale, teacher_soft_cap)
            q, log_q = distribution(logits * inverse_temperature, z)
            p, log_p = distribution(teacher_logits * inverse_temperature, teacher_z)
            share, w = share_and_derivative(p, log_p, q, log_q, parameter, DIVERGENCE)
            value += share
            weighted += q * w
        mean = tl.sum(weighted)
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        logits, slope = head_logits(raw, bias, columns, num_columns, scale, soft_cap)
        teacher_logits, _ = head_logits(teacher_raw, teacher_bias, columns, num_columns, teacher_scale, teacher_soft_cap)
        q, log_q = distribution(logits * inverse_temperature, z)
        p, log_p = distribution(teacher_logits * inverse_temperature, teacher_z)
        if DIVERGENCE == "forward_kl":
            value += p * (log_p - log_q)
            gradient = q - p
        else:
            _, w = share_and_derivative(p, log_p, q, log_q, parameter, DIVERGENCE)
            gradient = q * (w - mean)
        gradient *= soft_weight * inverse_temperature
        if labels is not None:
            gradient += hard_weight * cross_entropy_gradient(logits, tl.load(log_z_plain + row), columns, tl.load(labels + row))
        tl.store(raw + columns, gradient * slope, mask=columns < num_columns)
    tl.store(values + row, tl.sum(value))


@triton.jit
def softmax_gradient(
    raw, bias, log_z, log_z_plain, labels, shares, num_columns, scale, soft_cap, inverse_temperature, hard_weight, BLOCK: tl.constexpr
):  # fmt: skip
    """raw becomes shares (R,) * exp(logits / T - log_z) + hard_weight * d cross-entropy, by the products. One read, one write.

    Either term is left out where its `shares` or `labels` is None.
    """
    row = tl.program_id(0).to(tl.int64)
    raw += row * num_columns
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        logits, slope = head_logits(raw, bias, columns, num_columns, scale, soft_cap)
        gradient = tl.zeros([BLOCK], tl.float32)
        if shares is not None:
            # Where all tokens are set aside log_z is -inf too, and their difference NaN.
            q = tl.where(logits == float("-inf"), 0.0, tl.exp(logits * inverse_temperature - tl.load(log_z + row)))
            gradient += tl.load(shares + row) * q
        if labels is not None:
            gradient += hard_weight * cross_entropy_gradient(logits, tl.load(log_z_plain + row), columns, tl.load(labels + row))
        tl.store(raw + columns, gradient * slope, mask=columns < num_columns)


@triton.jit
def put(raw, ids, values, keep, num_columns, num_entries, BLOCK: tl.constexpr):
    """raw[row, ids[row, k]] = values[row, k] where keep[row, k]; ids, values, keep (R, num_entries), BLOCK at least num_entries."""
    row = tl.program_id(0).to(tl.int64)
    entries = tl.arange(0, BLOCK)
    at = row * num_entries + entries
    inside = entries < num_entries
    kept = tl.load(keep + at, mask=inside, other=0) != 0
    places = tl.load(ids + at, mask=kept, other=0)
    tl.store(raw + row * num_columns + places, tl.load(values + at, mask=kept, other=0.0), mask=kept)


@triton.jit
def head_logits(raw, bias, columns, num_columns, scale, soft_cap):
    """A block of logits, -inf beyond the row's end and where a token is set aside, and d logits / d raw."""
    inside = columns < num_columns
    products = tl.load(raw + columns, mask=inside, other=float("-inf")).to(tl.float32)
    logits = products
    if bias is not None:
        logits += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    logits *= scale
    slope = scale
    if soft_cap is not None:
        bounded = 2 * tl.sigmoid(2 * logits / soft_cap) - 1  # tanh
        logits = soft_cap * bounded
        slope = scale * (1 - bounded * bounded)
    return tl.where(products == float("-inf"), float("-inf"), logits), slope


@triton.jit
def distribution(tempered_logits, log_z):
    """Probabilities and their logarithms, LOG_ZERO at the least."""
    log_probs = at_least(tempered_logits - log_z, LOG_ZERO)
    return tl.exp(log_probs), log_probs


@triton.jit
def at_least(values, floor):
    """Not tl.maximum, which takes the floor for a NaN: a broken teacher is not hidden."""
    return tl.where(values < floor, floor, values)


@triton.jit
def cross_entropy_gradient(logits, log_z, columns, label):
    """softmax - one-hot; one subtraction in float32, since both may be close to 1."""
    q = tl.where(logits == float("-inf"), 0.0, tl.exp(logits - log_z))
    return q - tl.where(columns == label, 1.0, 0.0)


@triton.jit
def share_and_derivative(p, log_p, q, log_q, parameter, DIVERGENCE: tl.constexpr):
    """What each token adds to D(p, q), and w = dD/dq: the gradient by the logits of q is q * (w - sum q w).

    The formulas of `losses.closed_form`, with `parameter` for beta or alpha; any constant may be left out of w.
    """
    if DIVERGENCE == "reverse_kl":
        w = log_q - at_least(log_p, LOG_FLOOR)
        share = q * w
    elif DIVERGENCE == "jensen_shannon":
        log_m = tl.log(at_least(parameter * p + (1 - parameter) * q, TINY))
        w = (1 - parameter) * (log_q - log_m)
        share = parameter * p * (log_p - log_m) + q * w
    elif DIVERGENCE == "skewed_forward_kl":
        m = at_least(parameter * p + (1 - parameter) * q, TINY)
        w = (parameter - 1) * (p / m)
        share = p * (log_p - tl.log(m))
    elif DIVERGENCE == "skewed_reverse_kl":
        m = at_least((1 - parameter) * p + parameter * q, TINY)
        log_ratio = log_q - tl.log(m)
        w = log_ratio - parameter * (q / m)
        share = q * log_ratio
    else:
        tl.static_assert(DIVERGENCE == "total_variation")
        share = tl.abs(q - p) / 2
        w = tl.where(q > p, 0.5, tl.where(q < p, -0.5, q - p))  # q - p: 0, or NaN
    return share, w
