"""Data sets of the Hugging Face hub, and folders laid out like one or written by `save_to_disk`, through the library `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.core.errors import BadInput, nearest, needs_extra

if TYPE_CHECKING:
    import pandas as pd


def read_split(name: str, *, split: str, subset: str | None = None, revision: str | None = None, place: str) -> pd.DataFrame:
    """The rows of one split. What comes over the network lies in the cache of `datasets` afterwards, and is not fetched again.

    Args:
        name: a hub id, or a folder.
        split: as `datasets.load_dataset` has it: "train", "train[:1000]", "train+test".
        subset: a configuration of the data set; None: its default one.
        revision: a branch, tag or commit on the hub; None: its main branch.
        place: what named the split, for messages.

    Raises:
        MissingExtra: `datasets` is not installed.
        BadInput: no such data set, subset or split, files that cannot be read, a hub that cannot be reached.
    """
    with needs_extra("llm", "data.source.kind: hub"):
        import datasets
    with _loadable(name, split, place):
        # Releases from 4.0 on run no code of a data set's own.
        found = _saved(datasets, Path(name), split, place) or datasets.load_dataset(name, subset, split=split, revision=revision)
        frame: pd.DataFrame = found.with_format("arrow")[:].to_pandas()
    return frame


def _saved(datasets: Any, folder: Path, split: str, place: str) -> Any | None:
    """The split in a folder that `save_to_disk` wrote; None: it is no such folder."""
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return None
    found = datasets.load_from_disk(str(folder))
    parts = found if isinstance(found, dict) else {str(found.split or "train"): found}
    if split not in parts:
        raise BadInput.at(place, f"= {split!r} is no split of {str(folder)!r}; {nearest(split, parts)}")
    return parts[split]


@contextmanager
def _loadable(name: str, split: str, place: str) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # besides OSError and ValueError: a tree of its own, and whatever the readers of files raise
        reason = _reason(error)
        if reason.startswith(("Unknown split", "Unrecognized instruction", "Instruction")):
            raise BadInput.at(place, f"= {split!r} is no split of {name!r}. {reason}.") from error
        if reason.startswith("BuilderConfig"):
            raise BadInput.at("data.source.subset", f"is no subset of {name!r}. {reason}.") from error
        remedy = "Check the id and the network; a gated data set also needs a login (hf auth login)"
        if Path(name).is_dir():
            remedy = "Mend its files, or get them anew"
        raise BadInput.at("data.source.id", f"= {name!r} cannot be loaded: {reason}. {remedy}.") from error


def _reason(error: BaseException) -> str:
    # "An error occurred while generating the dataset": what it was lies beneath.
    while type(error).__name__.startswith("DatasetGeneration") and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".!")
