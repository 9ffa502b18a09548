"""How a teacher behind an endpoint answered, as people read it."""

from __future__ import annotations

from dataclasses import replace

from stillroom.core.asking import Asked
from stillroom.report.asking import TEST_ROWS, TRANSFER_SET, asking_words

WHOLE = Asked(rows=12_000, answered=12_000, requests=12_000, prompt_tokens=600_000, completion_tokens=24_000, served=("m-1",))
LEFT = Asked(200, 190, {"truncated": 2, "off-label": 8}, 3, 11, 0.031, 12_211, 610_000, 25_000, 0.0123, ("m-1", "m-2"))


def test_whole_answers_need_one_sentence_and_what_they_took() -> None:
    first, last = asking_words({TRANSFER_SET: WHOLE})
    assert first == "All 12\u202f000 rows of the transfer set were answered."
    took = "12\u202f000 requests, 600\u202f000 tokens of prompts and 24\u202f000 of answers"
    assert last == f"All that was asked took {took}. The server called the model m-1."


def test_every_row_without_an_answer_is_told_with_its_reason() -> None:
    words = asking_words({TRANSFER_SET: WHOLE, TEST_ROWS: LEFT})
    assert words[1].startswith("190 of 200 test rows have an answer; 10 have none: 8 off-label, 2 truncated. The class shares")
    assert words[1].endswith("Of its probability 3.1\u202f% was seen on none of the labels.")
    assert words[2] == "Answers that could not be used were asked for anew 11 times; 3 were repaired."
    assert "0.0123\u202fUSD" in words[3], "the store's count, which holds both"
    assert words[3].endswith("The server called the model m-1 and m-2.")
    assert asking_words({}) == []


def test_what_was_sent_again_and_what_was_wrong_in_batches_is_told() -> None:
    found = {"ended": 3, "duplicates": 2, "unknown": 0, "silent": 4}
    again, batches, _ = asking_words({TRANSFER_SET: replace(WHOLE, retries=5, batches=found)})[1:]
    assert again == "Requests were sent again 5 times, after a fault of the server or the network or a refusal for the rate."
    assert batches == (
        "Batches that the vendor has run: 3. In their results: further lines about a row, of which the first valid one counts: 2; "
        "rows without a line, asked again: 4."
    )
    assert "Their results were whole." in asking_words({TRANSFER_SET: replace(WHOLE, batches=dict.fromkeys(found, 0))})[1]


def test_the_record_survives_its_json() -> None:
    found = replace(LEFT, retries=3, batches={"ended": 1})
    assert Asked.from_json(found.to_json()) == found
