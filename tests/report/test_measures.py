"""Values are written as people read them, and never say another number."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.report.measures import MINUS, NARROW_SPACE, STYLES, difference_words, parts, ratio, shown, shown_difference, shown_range

UNITS = {
    "\u00b5s": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "tokens/s": 1.0,
    "k tokens/s": 1e3,
    "M tokens/s": 1e6,
    "rows/s": 1.0,
    "k rows/s": 1e3,
    "M rows/s": 1e6,
}


def plain(text: str) -> str:
    return text.replace(NARROW_SPACE, " ").replace(MINUS, "-")


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [
        ("accuracy", 0.9424, "94.2 %"),
        ("accuracy", 1.0, "100.0 %"),
        ("gap_closed", -0.0701, "-7.0 %"),
        ("r2", -0.0314, "-0.031"),
        ("r2", -0.0001, "0.000"),
        ("log_loss", 0.1314, "0.131"),
        ("rmse", 54.3219, "54.32"),
        ("rmse", 48123.7, "48 124"),
        ("mae", 0.0, "0"),
        ("latency_p50_seconds", 0.0000423, "42.3 µs"),
        ("latency_p50_seconds", 0.00099960, "1.00 ms"),
        ("latency_p50_seconds", 3e-8, "0.0300 µs"),
        ("latency_p99_seconds", 12.34, "12.3 s"),
        ("size_bytes", 999, "999 B"),
        ("size_bytes", 999_700, "1.00 MB"),
        ("peak_memory_bytes", 3.1e9, "3.10 GB"),
        ("throughput_32_rows_per_second", 24_700, "24.7 k rows/s"),
        ("parameters", 1_203_441, "1 203 441"),
        ("parameters", 61, "61"),
        ("parity_largest_difference", 2.4e-7, "2.4 × 10⁻⁷"),
        ("parity_largest_difference", 0.0, "0"),
        ("my_own_measure", 0.5, "0.5000"),
        ("rmse", float("inf"), "inf"),
    ],
)
def test_as_people_write_it(measure: str, value: float, text: str) -> None:
    assert plain(shown(measure, value)) == text


@given(st.sampled_from(sorted(STYLES)), st.floats(1e-6, 1e8))
def test_the_text_is_the_value(measure: str, value: float) -> None:
    number, unit = parts(measure, value)
    read = plain(number).replace(" ", "")
    if (power := re.fullmatch(r"(.+)×10(.+)", read)) is not None:
        superscripts = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
        read = f"{power[1]}e{power[2].translate(superscripts)}"
    factor = 0.01 if unit == "%" else UNITS.get(unit, 1.0)
    rounding = {"share": 0.0005, "score": 0.0005, "count": 0.5, "tiny": 0.05 * value}.get(STYLES[measure].kind, 0.005 * value)
    assert float(read) * factor == pytest.approx(value, abs=1.01 * rounding, rel=1e-9)


def test_bounds_share_the_unit_of_the_value() -> None:
    assert plain(shown_range("latency_p50_seconds", 0.0009, 0.0013, like=0.0011)) == "0.900 to 1.30 ms"
    assert plain(shown_range("size_bytes", 900, 1300)) == "0.900 to 1.30 kB"
    assert plain(shown_range("r2", -0.2, 0.1)) == "-0.200 to 0.100"


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [
        ("accuracy", 0.0281, "+2.8"),
        ("accuracy", -0.0281, "-2.8"),
        ("accuracy", 0.00001, "0.0"),
        ("accuracy", -0.00001, "0.0"),
        ("r2", 0.117, "+0.117"),
    ],
)
def test_differences_carry_their_sign(measure: str, value: float, text: str) -> None:
    assert plain(shown_difference(measure, value)) == text


def test_ratios() -> None:
    assert [ratio(value) for value in (0.982, 1.26, 9.94, 26.3, 790.2)] == ["0.98×", "1.3×", "9.9×", "26×", "790×"]
    assert plain(ratio(12_345)) == "12 000×"


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ("accuracy", "13.0 percentage points of accuracy"),
        ("top5_overlap@plays", "13.0 percentage points of overlap of the top 5"),
        ("log_loss@plays", "0.130 nats of log loss"),
        ("forward_kl", "0.130 nats of divergence from the teacher"),
        ("bits_per_byte", "0.130 bits per byte"),
        ("roc_auc", "0.130 in ROC AUC"),
        ("mae", "0.1300 in MAE"),
        ("macro_f1", "0.130 in macro F1"),
    ],
)
def test_a_difference_in_words_says_its_unit(measure: str, words: str) -> None:
    assert difference_words(measure, -0.13) == words
