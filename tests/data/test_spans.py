"""The target of sequence labelling: two forms, one meaning; what is wrong names its row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stillroom.core.errors import BadInput
from stillroom.core.records import Dataset
from stillroom.core.spans import Span
from stillroom.data.build import build_dataset
from stillroom.spec.data import DataSpec

TEXT = "😀 Ann met Bob"
ANN, BOB = {"start": 2, "end": 5, "label": "person"}, {"start": 10, "end": 13, "label": "person"}


def build(folder: Path, rows: list[dict[str, Any]], ending: str = "jsonl", **section: Any) -> Dataset:
    path = folder / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame([{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]).to_csv(path, index=False)
    return read(path, **section)


def read(path: Path, **section: Any) -> Dataset:
    content = {"source": {"kind": "file", "train": str(path)}, "target": "spans", **section}
    return build_dataset(DataSpec.model_validate(content), task="sequence-labelling", seed=0)


def by_text(data: Dataset) -> dict[str, tuple[Span, ...]]:
    parts = [part for part in (data.train, data.test) if part is not None]
    return {text: spans for part in parts for text, spans in zip(part.features.iloc[:, 0], part.target, strict=True)}  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_positions_in_a_text_from_every_format(tmp_path: Path, ending: str) -> None:
    rows = [{"text": TEXT, "spans": [BOB, ANN]}, *({"text": f"Ann {i}", "spans": [{**ANN, "start": 0, "end": 3}]} for i in range(7))]
    rows += [{"text": "nobody here", "spans": []}]
    data = build(tmp_path, rows, ending, text="text")
    assert data.classes == ("person",)
    found = by_text(data)
    assert found[TEXT] == (Span(2, 5, "person"), Span(10, 13, "person"))  # characters, in the order of the text
    assert found["nobody here"] == ()
    assert len(found) == 9


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_tags_of_words_from_every_format(tmp_path: Path, ending: str) -> None:
    rows = [{"words": ["Ann", "Lee", "met", "Bob"], "spans": ["I-per", "I-per", "O", "B-per"]}]
    rows += [{"words": ["in", "Rome", str(i)], "spans": ["O", "B-loc", "O"]} for i in range(7)]
    data = build(tmp_path, rows, ending, tokens="words")
    assert data.classes == ("loc", "per")
    assert by_text(data)["Ann Lee met Bob"] == (Span(0, 7, "per"), Span(12, 15, "per"))
    assert data.columns[0].name == "words"


def test_a_conll_file_is_words_and_their_last_column(tmp_path: Path) -> None:
    lines = "-DOCSTART- -X- O O\n\nAnn NNP - I-per\nsang VBD - O\n\n\n" + "".join(f"Bob{i} NNP - B-per\n\n" for i in range(7))
    path = tmp_path / "rows.conll.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    found = by_text(read(path, target="tags", tokens="tokens"))
    assert found["Ann sang"] == (Span(0, 3, "per"),)
    assert len(found) == 8
    path.write_bytes(gzip.compress(b"Ann B-per\nsang\n"))
    with pytest.raises(BadInput, match="line 2 holds 'sang' alone"):
        read(path, target="tags", tokens="tokens")


def test_real_files_have_the_published_numbers(shared_data: Path) -> None:
    data = read(shared_data / "ner_wnut17" / "train.conll.gz", target="tags", tokens="tokens", split={"test": 0.1})
    spans = [span for part in (data.train, data.test) for each in part.target for span in each]  # type: ignore[union-attr]
    # Derczynski et al. 2017, table 3: entities of the training data by type.
    counts = pd.Series([span.label for span in spans]).value_counts().to_dict()
    assert counts == {"person": 660, "location": 548, "group": 264, "corporation": 221, "product": 142, "creative-work": 140}


def test_a_pool_has_texts_alone_and_rows_without_spans_stay(tmp_path: Path) -> None:
    rows = [{"text": f"Ann {i}", "spans": [{"start": 0, "end": 3, "label": "p"}] if i % 2 else []} for i in range(20)]
    data = build(tmp_path, rows, text="text", unlabeled_share=0.3)
    assert data.unlabeled is not None
    assert data.unlabeled.target is None
    assert len(data.train) + len(data.test) + len(data.unlabeled) == 20


GOOD: list[dict[str, Any]] = [{"text": f"Ann {i}", "spans": [{"start": 0, "end": 3, "label": "person"}]} for i in range(8)]


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([{"start": 2, "end": 99, "label": "p"}], r"row 9, 'spans': the span 2 to 99 does not lie in the text, whose 13 characters"),
        ([{"start": -1, "end": 2, "label": "p"}], "the span -1 to 2 does not lie in the text"),
        ([{"start": 3, "end": 3, "label": "p"}], "the span 3 to 3 does not lie"),
        ([ANN, {"start": 4, "end": 8, "label": "p"}], r"\(4, 8, 'p'\) begins before \(2, 5, 'person'\) ends; spans must not overlap"),
        ([{"start": "2", "end": 5, "label": "p"}], "start and end must be whole numbers"),
        ([{"start": 2, "end": 5, "label": " "}], "and label a name"),
        ([{"start": 2, "label": "p"}], r"a span is written \{start: 0, end: 3, label: NAME\}"),
        ([[2, 5, "p"]], "a span is written"),
        (None, r"row 9: 'spans' is None, no list; write \[\]|row 9: spans is None, no list; write \[\]"),
        ("Ann", "is 'Ann', no list; write it as JSON"),
    ],
)
def test_a_span_that_is_none_is_one_clear_error(tmp_path: Path, spans: Any, words: str) -> None:
    with pytest.raises(BadInput, match=rf"data\.source\.train.*{words}|{words}") as caught:
        build(tmp_path, [*GOOD, {"text": TEXT, "spans": spans}], text="text")
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"words": ["a", "b"], "spans": ["O"]}, "has 1 tags for 2 words"),
        ({"words": ["a"], "spans": [3]}, "holds 3; a tag is O, B-NAME or I-NAME .*not their numbers"),
        ({"words": ["a"], "spans": ["person"]}, "holds 'person'; a tag is O"),
        ({"words": ["a"], "spans": ["B-"]}, "holds 'B-'; a tag is O"),
        ({"words": ["a", " "], "spans": ["O", "O"]}, "holds ' ' as a word"),
        ({"words": "a b", "spans": ["O", "O"]}, "is 'a b', no list; write it as JSON"),
    ],
)
def test_a_tag_that_is_none_is_one_clear_error(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    rows = [{"words": ["Ann", str(i)], "spans": ["B-p", "O"]} for i in range(8)]
    with pytest.raises(BadInput, match=rf"data\.source\.train, row 9.*{words}") as caught:
        build(tmp_path, [*rows, row], tokens="words")
    assert len(caught.value.problems) == 1


def test_labels_that_only_the_test_has_and_no_labels_at_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "Rome", "spans": [{"start": 0, "end": 4, "label": "place"}]}))
    source = {"kind": "file", "train": str(tmp_path / "rows.jsonl"), "test": str(tmp_path / "test.jsonl")}
    with pytest.raises(BadInput, match=r"data\.target: the test rows have the label 'place', which no training row has"):
        build(tmp_path, GOOD, text="text", source=source)
    with pytest.raises(BadInput, match=r"data\.target: has no span in any of the"):
        build(tmp_path, [{"text": f"x {i}", "spans": []} for i in range(8)], text="text")
