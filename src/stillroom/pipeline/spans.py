"""What a reader of a sequence-labelling report must know about spans and the student's tokens."""

from __future__ import annotations

from collections.abc import Iterator

from stillroom.core.spans import cut_spans
from stillroom.models.batching import as_texts
from stillroom.models.load import load_predictor
from stillroom.pipeline.work import Work


def span_notes(work: Work) -> Iterator[str]:
    """How many spans of people's lie beyond what the student reads, and how many its tags cannot say exactly."""
    from stillroom.models.spans import SpanPredictor, taggable

    student = load_predictor(work.folder.student)
    assert isinstance(student, SpanPredictor), "what a sequence-labelling job trains"
    consequences = {"training": "the student learns them as whole words", "test": "no student can find them exactly"}
    for part, batch in (("training", work.dataset.train), ("test", work.dataset.test)):
        assert batch.target is not None, "labelled rows"
        read = taggable(student.tokenizer, as_texts(batch.features[student.column]), student.max_length)
        ends = [words[-1].end if words else 0 for words in read.words]
        beyond = sum(span.start >= end for spans, end in zip(batch.target, ends, strict=True) for span in spans)
        places = ([word.place for word in words] for words in read.words)
        cut = sum(len(cut_spans(words, spans)) for words, spans in zip(places, batch.target, strict=True)) - beyond
        of_all = f"Of {sum(map(len, batch.target))} spans of the {part} rows"
        if beyond:
            yield f"{of_all} {beyond} lie beyond the {student.max_length} tokens that the student reads (training.max_length)."
        if cut:
            yield f"{of_all} {cut} begin or end inside a word, as the student's tokenizer divides the text; {consequences[part]}."
