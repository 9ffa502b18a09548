"""The report stage of a language model's job."""

from __future__ import annotations

from stillroom.pipeline.folder import read_record
from stillroom.pipeline.language.export import export
from stillroom.pipeline.language.label import label_record
from stillroom.pipeline.language.work import LanguageWork
from stillroom.pipeline.report import Found, read_notes, write_report


def report(work: LanguageWork) -> None:
    """Write the report, the card and the lineage. Always written anew: they only show what is recorded."""
    write_report(work, Found(export(work), _notes(work)))


def _notes(work: LanguageWork) -> tuple[str, ...]:
    corpus = work.corpus
    labelled = [read_record(work.folder.record(label_record(arm))) for arm in work.teachers]
    told = [note for record in labelled for note in record.get("notes", ())]
    sizes = {"training": corpus.train, "test": corpus.test, **corpus.other_domains}
    counted = ", ".join(f"{part.num_asked:,} of {name}" for name, part in sizes.items())
    notes = [f"Tokens that are learnt or measured on: {counted}.", *corpus.notes, *told]
    return (*notes, *read_notes(work))
