"""How measures are called and how their values are written. Names are those of evidence.json."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["share", "score", "amount", "seconds", "bytes", "rate", "tokens", "count", "tiny", "usd"]
Group = Literal["quality", "fidelity", "writing", "worth", "cost", "export"]

NARROW_SPACE = "\u202f"
MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


@dataclass(frozen=True)
class Style:
    """`better`: which direction is good; "" where neither is. `explanation`: what it is, in one clause."""

    label: str
    kind: Kind
    better: Literal["higher", "lower", ""]
    group: Group
    explanation: str = ""


STYLES: dict[str, Style] = {
    "accuracy": Style("Accuracy", "share", "higher", "quality", "share of test rows with the right top class"),
    "macro_f1": Style("Macro F1", "score", "higher", "quality", "mean of F1 over the classes"),
    "roc_auc": Style("ROC AUC", "score", "higher", "quality", "how well it ranks; 0.5 is chance"),
    "log_loss": Style("Log loss", "score", "lower", "quality", "mean of \u2212log of the probability given to the label, in nats"),
    "ece": Style("Calibration error", "score", "lower", "quality", "mean gap between confidence and accuracy"),
    "perplexity": Style("Perplexity", "amount", "lower", "quality", "e to the log loss: how many tokens it wavers between"),
    "bits_per_byte": Style("Bits per byte", "score", "lower", "quality", "of text, whatever the tokens"),
    "span_f1": Style("Span F1", "score", "higher", "quality", "of spans; place and label must both be right"),
    "span_precision": Style("Span precision", "share", "higher", "quality", "share of the spans found that are right"),
    "span_recall": Style("Span recall", "share", "higher", "quality", "share of the right spans that are found"),
    "token_accuracy": Style("Token accuracy", "share", "higher", "quality", "share of words with the right tag; most are in no span"),
    "r2": Style("R\u00b2", "score", "higher", "quality", "share of the target\u2019s variance explained"),
    "mae": Style("MAE", "amount", "lower", "quality", "mean absolute error, in units of the target"),
    "rmse": Style("RMSE", "amount", "lower", "quality", "root of the mean squared error, in units of the target"),
    "agreement": Style("Agreement with the teacher", "share", "higher", "fidelity", "share of rows with the teacher\u2019s top class"),
    "forward_kl": Style("Divergence from the teacher", "score", "lower", "fidelity", "mean KL(teacher\u2016student), in nats"),
    "span_agreement": Style("Span F1 to the teacher", "score", "higher", "fidelity", "the teacher\u2019s spans taken for the right ones"),
    "correlation_to_teacher": Style("Correlation to the teacher", "score", "higher", "fidelity", "Pearson\u2019s, of the predicted values"),
    "rmse_to_teacher": Style("RMSE to the teacher", "amount", "lower", "fidelity", "in units of the target"),
    "top5_overlap": Style("Overlap of the top 5", "share", "higher", "fidelity", "share of the teacher\u2019s 5 likeliest tokens"),
    "exact_match": Style("Exact match", "share", "higher", "quality", "share of prompts whose greedy answer is the right one"),
    "passed": Style(
        "Passed the check", "share", "higher", "quality", "share of prompts whose greedy answer the job\u2019s own code accepts"
    ),
    "distinct_1": Style("Different words", "share", "", "writing", "share of a text\u2019s words that differ from each other"),
    "distinct_2": Style("Different word pairs", "share", "", "writing", "within a text"),
    "distinct_3": Style("Different word triples", "share", "", "writing", "within a text"),
    "self_similarity": Style("Self-similarity", "share", "", "writing", "word pairs that two texts of an arm share"),
    "corpus_distinct_1": Style("Different words, all texts", "share", "", "writing", "in as many words as the smaller side has"),
    "corpus_distinct_2": Style("Different word pairs, all texts", "share", "", "writing", "over all texts of a side"),
    "corpus_distinct_3": Style("Different word triples, all texts", "share", "", "writing", "over all texts of a side"),
    "spread": Style("Spread", "score", "", "writing", "mean distance of two texts by their words; 1 is nothing in common"),
    "two_sample_auc": Style("Told apart from real texts", "score", "", "writing", "AUC of a model; 0.5 is chance, far below it are copies"),
    "label_balance": Style("Balance of the labels", "score", "higher", "writing", "1 is an equal share each"),
    "label_agreement": Style("Of the intended label", "share", "higher", "writing", "by the teacher, asked anew"),
    "narrowing": Style("Narrowing", "share", "lower", "writing", "self-similarity above the teacher\u2019s"),
    "retention": Style("Retention", "share", "higher", "worth", "the teacher\u2019s quality that is kept"),
    "gap_closed": Style("Gap closed", "share", "higher", "worth", f"0{NARROW_SPACE}% is the control, 100{NARROW_SPACE}% the teacher"),
    "latency_p50_seconds": Style("Latency, median", "seconds", "lower", "cost", "one row a call"),
    "latency_p99_seconds": Style("Latency, 99th percentile", "seconds", "lower", "cost", "one row a call"),
    "throughput_32_rows_per_second": Style("Throughput, 32 rows a call", "rate", "higher", "cost"),
    "throughput_1024_rows_per_second": Style("Throughput, 1024 rows a call", "rate", "higher", "cost"),
    "time_to_first_token_p50_seconds": Style("Time to first token, median", "seconds", "lower", "cost", "one prompt a call"),
    "time_to_first_token_p99_seconds": Style("Time to first token, 99th percentile", "seconds", "lower", "cost", "one prompt a call"),
    "generated_tokens_per_second": Style("Generation", "tokens", "higher", "cost", "one text at a time"),
    "scored_tokens_per_second": Style("Reading", "tokens", "higher", "cost", "texts in batches"),
    "tokens_per_row": Style("Tokens a row", "amount", "lower", "cost", "of prompt and answer, as the server counted them"),
    "usd_per_1000_rows": Style("Price of 1000 rows", "usd", "lower", "cost", "US dollars, at the job\u2019s prices"),
    "peak_memory_bytes": Style("Peak memory", "bytes", "lower", "cost", "of the whole process"),
    "size_bytes": Style("Size on disk", "bytes", "lower", "cost"),
    "parameters": Style("Parameters", "count", "lower", "cost"),
    "threads": Style("Threads", "count", "", "cost"),
    "parity_largest_difference": Style("Largest difference from the student", "tiny", "lower", "export"),
    "label_agreement_with_student": Style("Agreement with the student", "share", "higher", "export"),
}

_OF_TOKENS = {
    "accuracy": "share of tokens that it held for the likeliest",
    "log_loss": "mean of \u2212log of the probability given to the next token, in nats a token",
    "ece": "mean gap between confidence in the likeliest token and accuracy",
    "agreement": "share of tokens for which both hold the same one for the likeliest",
    "forward_kl": "mean KL(teacher\u2016student), in nats a token",
}
"""What explains a measure where its answers are next tokens."""

GROUP_TITLES: dict[Group, str] = {
    "quality": "Quality",
    "fidelity": "Fidelity",
    "writing": "Writing",
    "worth": "Worth",
    "cost": "Cost",
    "export": "Export",
}


def style(measure: str) -> Style:
    """The style of a measure, of "measure@domain" too; a plugin's own measure is shown as a plain number."""
    name, _, domain = measure.partition("@")
    found = STYLES.get(name) or Style(name.replace("_", " "), "amount", "", "quality")
    return replace(found, label=f"{found.label}, on {domain}") if domain else found


def explanation(measure: str, *, of_tokens: bool) -> str:
    """What a measure is, in one clause; `of_tokens`: of a language model."""
    found = style(measure).explanation
    return _OF_TOKENS.get(measure.partition("@")[0], found) if of_tokens else found


def shown(measure: str, value: float, *, plain: bool = False) -> str:
    """A value as people write it, with its unit: "94.2 %", "1.30 ms"; `plain` drops trailing zeros, for round numbers."""
    number, unit = parts(measure, value)
    if plain and "." in number:
        number = number.rstrip("0").rstrip(".")
    return f"{number}{NARROW_SPACE}{unit}" if unit else number


def shown_work(seconds: float) -> str:
    """How long a piece of work took: to a tenth of a second, for whoever adds it up."""
    return f"{_fixed(seconds, 1)}{NARROW_SPACE}s"


def shown_share(value: float) -> str:
    """A share: "3.1 %"."""
    return f"{_fixed(100 * value, 1)}{NARROW_SPACE}%"


def shown_usd(value: float) -> str:
    """An amount of money in US dollars."""
    return f"{_significant(value)}{NARROW_SPACE}USD"


def shown_range(measure: str, low: float, high: float, *, like: float | None = None) -> str:
    """Two bounds in one unit, the unit once."""
    unit_of = high if like is None else like
    first, _ = parts(measure, low, like=unit_of)
    second, unit = parts(measure, high, like=unit_of)
    return f"{first} to {second}{NARROW_SPACE}{unit}" if unit else f"{first} to {second}"


def shown_difference(measure: str, value: float, *, signed: bool = True) -> str:
    """A difference of two values; of shares in percentage points."""
    sign = MINUS if value < 0 else "+"
    size = abs(value)
    text = f"{100 * size:.1f}" if style(measure).kind == "share" else parts(measure, size)[0]
    return f"{sign}{text}" if signed and float(text.replace(NARROW_SPACE, "")) != 0 else text


def in_a_sentence(measure: str) -> str:
    """A measure's name within a sentence, without its domain: "log loss", "ROC AUC"."""
    label = style(measure.partition("@")[0]).label
    return label if label.split()[0].isupper() else label[0].lower() + label[1:]


def difference_words(measure: str, difference: float) -> str:
    """How large a difference is: "2.8 percentage points of accuracy", "0.130 nats of log loss", "0.020 in macro F1"."""
    size, name, plain = shown_difference(measure, abs(difference), signed=False), in_a_sentence(measure), measure.partition("@")[0]
    if style(plain).kind == "share":
        return f"{size} percentage points of {name}"
    if plain in ("log_loss", "forward_kl"):
        return f"{size} nats of {name}"
    return f"{size} {name}" if plain == "bits_per_byte" else f"{size} in {name}"


def parts(measure: str, value: float, *, like: float | None = None) -> tuple[str, str]:
    """(number, unit) of a value, in the unit that suits `like` (default: the value itself)."""
    if not math.isfinite(value):
        return str(value), ""
    unit_of = abs(value if like is None else like)
    match style(measure).kind:
        case "share":
            return _fixed(100 * value, 1), "%"
        case "score":
            return _fixed(value, 3), ""
        case "seconds":
            factor, unit = _unit(unit_of, [(1e-6, "\u00b5s"), (1e-3, "ms"), (1.0, "s")])
            return _significant(value / factor), unit
        case "bytes":
            factor, unit = _unit(unit_of, [(1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB")])
            return _significant(value / factor), unit
        case "rate":
            factor, unit = _unit(unit_of, [(1.0, "rows/s"), (1e3, "k rows/s"), (1e6, "M rows/s")])
            return _significant(value / factor), unit
        case "tokens":
            factor, unit = _unit(unit_of, [(1.0, "tokens/s"), (1e3, "k tokens/s"), (1e6, "M tokens/s")])
            return _significant(value / factor), unit
        case "count":
            return grouped(round(value)), ""
        case "usd":
            return _significant(value), "USD"
        case "tiny":
            return _power_of_ten(value), ""
        case "amount":
            return _significant(value, 4, whole=True), ""


def percent(level: float) -> str:
    """A level such as 0.95: "95 %"."""
    return f"{100 * level:g}{NARROW_SPACE}%"


def ratio(value: float) -> str:
    """A factor: "12\u00d7", "1.3\u00d7", "0.98\u00d7"."""
    return f"{_significant(value, 2)}\u00d7"


def _unit(size: float, units: list[tuple[float, str]]) -> tuple[float, str]:
    # 0.9995 of a unit would be rounded up to 1000 of the smaller one.
    return next((pair for pair in reversed(units) if size >= 0.9995 * pair[0]), units[0])


def _fixed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) != 0 else text


def _significant(value: float, digits: int = 3, *, whole: bool = False) -> str:
    """`value` to so many significant digits; `whole` never rounds before the decimal point."""
    if value == 0:
        return "0"
    least = 0 if whole else -400
    places = max(digits - 1 - math.floor(math.log10(abs(value))), least)
    rounded = round(abs(value), places)
    # Rounding may have added a digit: 0.9996 is 1.00, not 1.000.
    places = max(digits - 1 - math.floor(math.log10(rounded)), least)
    text = grouped(round(rounded)) if places <= 0 else f"{rounded:.{places}f}"
    return f"{MINUS}{text}" if value < 0 else text


def _power_of_ten(value: float) -> str:
    if value == 0:
        return "0"
    number, power = f"{value:.1e}".split("e")
    return f"{number}{NARROW_SPACE}\u00d7{NARROW_SPACE}10{str(int(power)).translate(_SUPERSCRIPTS)}"


def grouped(value: int) -> str:
    """A count: "1234", "12 345"."""
    return f"{value:,}".replace(",", NARROW_SPACE) if abs(value) >= 10_000 else str(value)
