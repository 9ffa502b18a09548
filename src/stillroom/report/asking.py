"""How a teacher behind an endpoint answered, in words."""

from __future__ import annotations

from collections.abc import Mapping

from stillroom.core.asking import Asked
from stillroom.core.provenance import Provenance
from stillroom.report.measures import grouped, shown_share, shown_usd

TRANSFER_SET, TEST_ROWS = "rows of the transfer set", "test rows"
RESPONSES, TEST_RESPONSES = "requests for a response to a training prompt", "test prompts"
_UNANSWERED = {
    TRANSFER_SET: "The student learns from their labels alone, where they have any.",
    TEST_ROWS: "The class shares of the training rows stand in for a missing answer, so that nearly all of them count as wrong.",
    RESPONSES: "The student learns nothing from those.",
    TEST_RESPONSES: "The teacher counts as having written nothing there.",
}
_NO_SPANS = "A missing answer counts as one without a span."


def asking_words(asked: Mapping[str, Asked], task: object = "") -> list[str]:
    """What happened, a sentence or two each for the transfer set and the test rows; then what it took.

    Args:
        task: the job's.
    """
    unanswered = {**_UNANSWERED, **({TEST_ROWS: _NO_SPANS} if task == "sequence-labelling" else {})}
    words = [_answers(what, found, unanswered[what]) for what, found in asked.items()]
    if retries := sum(found.retries for found in asked.values()):
        words.append(f"Requests were sent again {_times(retries)}, after a fault of the server or the network or a refusal for the rate.")
    again = sum(found.asked_again for found in asked.values())
    repaired = sum(found.repaired for found in asked.values())
    if again or repaired:
        words.append(f"Answers that could not be used were asked for anew {_times(again)}; {grouped(repaired)} were repaired.")
    if asked:
        last = max(asked.values(), key=lambda found: found.requests)
        words += [*_batches(last.batches), _cost(last)]
    return words


def as_served(line: Provenance) -> str:
    """What an endpoint's server called its model, behind the name of who answered; "" where it did not say."""
    return f" as {', '.join(line.served)}" if line.served else ""


def _answers(what: str, found: Asked, unanswered: str) -> str:
    missing = found.rows - found.answered
    elsewhere = "" if found.off_labels is None else f" Of its probability {shown_share(found.off_labels)} was seen on none of the labels."
    if not missing:
        return f"All {grouped(found.rows)} {what} were answered.{elsewhere}"
    rows = f"{grouped(found.answered)} of {grouped(found.rows)} {what}"
    none = f"{grouped(missing)} {'has' if missing == 1 else 'have'} none: {found.reasons}"
    return f"{rows} have an answer; {none}. {unanswered}{elsewhere}"


def _batches(found: Mapping[str, int]) -> list[str]:
    """What came back in batches, and what was wrong with it."""
    if not found:
        return []
    faults = [
        f"{words}: {grouped(count)}"
        for name, words in (
            ("duplicates", "further lines about a row, of which the first valid one counts"),
            ("unknown", "lines about no row of the batch"),
            ("silent", "rows without a line, asked again"),
        )
        if (count := found[name])
    ]
    wrong = f"In their results: {'; '.join(faults)}." if faults else "Their results were whole."
    return [f"Batches that the vendor has run: {grouped(found['ended'])}. {wrong}"]


def _cost(found: Asked) -> str:
    tokens = f"{grouped(found.prompt_tokens)} tokens of prompts and {grouped(found.completion_tokens)} of answers"
    money = "" if found.usd is None else f", {shown_usd(found.usd)} at the job\u2019s prices"
    served = f" The server called the model {' and '.join(found.served)}." if found.served else ""
    return f"All that was asked took {grouped(found.requests)} requests, {tokens}{money}.{served}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{grouped(count)} times"
