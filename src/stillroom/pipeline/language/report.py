"""The report stage of a language model's job."""

from __future__ import annotations

from stillroom.pipeline.folder import read_record
from stillroom.pipeline.language.export import export
from stillroom.pipeline.language.work import LanguageWork
from stillroom.pipeline.report import Found, read_notes, write_report


def report(work: LanguageWork) -> None:
    """Write the report, the card and the lineage. Always written anew: they only show what is recorded."""
    write_report(work, Found(export(work), _notes(work)))


def _notes(work: LanguageWork) -> tuple[str, ...]:
    corpus, labelled = work.corpus, read_record(work.folder.record("label"))
    sizes = {"training": corpus.train, "test": corpus.test, **corpus.other_domains}
    counted = ", ".join(f"{part.num_asked:,} of {name}" for name, part in sizes.items())
    notes = [f"Tokens that are learnt or measured on: {counted}.", *corpus.notes, *labelled.get("notes", ())]
    return (*notes, *read_notes(work))
