"""The report stage of a job on responses."""

from __future__ import annotations

from stillroom.core.responses import Accepted
from stillroom.pipeline.folder import read_record
from stillroom.pipeline.report import Found, read_asking, read_notes, write_report
from stillroom.pipeline.responses.export import export
from stillroom.pipeline.responses.label import label
from stillroom.pipeline.responses.train import texts_of
from stillroom.pipeline.responses.work import ResponsesWork
from stillroom.report.asking import RESPONSES, TEST_RESPONSES


def report(work: ResponsesWork) -> None:
    """Write the report, the card and the lineage. Always written anew: they only show what is recorded."""
    evidence = export(work)
    accepted = Accepted.from_json(read_record(work.folder.record("label"))["accepted"])
    asking = read_asking(work, RESPONSES, TEST_RESPONSES)
    write_report(work, Found(evidence, _notes(work), asking=asking, responses=accepted))


def _notes(work: ResponsesWork) -> tuple[str, ...]:
    exchanges, texts = work.exchanges, texts_of(work, label(work))
    counted = f"{len(exchanges.train)} training prompts, {len(exchanges.test)} test prompts, {len(work.test_prompts)} of them answered"
    sizes = f"{texts.student.num_asked:,} tokens of responses are learnt"
    if texts.control is None:
        beside = (
            "There is no control: nothing says whether the teacher's responses teach more than answers of people's would. "
            "The untouched student, as it came, stands beside the student instead."
        )
    else:
        sizes += f", by the control {texts.control.num_asked:,} of the data's own answers"
        beside = (
            "The control is the same student, trained for as many steps on the data's own answers to the prompts of which a response is "
            "learnt."
        )
    measured = (
        "Loss is measured on the data's own answers, which the control has learnt the style of, and the student has not."
        if work.has_gold
        else "Loss is measured on the teacher's own responses to the test prompts: how well an arm foresees them."
    )
    return (f"{counted} by every arm; {sizes}.", beside, measured, *exchanges.notes, *texts.notes, *read_notes(work))
