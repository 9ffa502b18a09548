"""`data`: where the examples come from, which column is what, and how they are split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillroom.spec.base import ColumnNames, FilePath, Fraction, ModelName, Names, Spec, described


class SklearnSourceSpec(Spec):
    """A data set that scikit-learn carries: no download."""

    kind: Literal["sklearn"] = "sklearn"
    name: Literal["breast_cancer", "diabetes", "digits", "iris", "wine"] = described("The set, by its loader's name: load_<name>.")


class FileSourceSpec(Spec):
    """Files: .csv, .tsv, .parquet, .jsonl, for a language model also .txt, for sequence-labelling .conll; all but .parquet also with .gz
    behind."""

    kind: Literal["file"] = "file"
    train: FilePath = described("The labelled examples; split further where `test` is absent.")
    test: FilePath | None = described("The held-out examples; absent: a share of `train`, see `split`.", default=None)
    unlabeled: FilePath | None = described("More examples of the same columns, without the target: the pool.", default=None)
    missing_values: Names = described("Cells that mean 'missing', besides blanks.", default=())
    limit: Annotated[int, Field(ge=1)] | None = described(
        "At most this many rows of each file, drawn with the job's seed (stratified over classes); for trials.", default=None
    )


class HubSourceSpec(Spec):
    """A data set of the Hugging Face hub, or a folder laid out like one, for a language model; read by the library `datasets`."""

    kind: Literal["hub"] = "hub"
    id: ModelName = described("A hub id, owner/name, or a folder: a path that begins with `/`, `./`, `../`, `~` or a variable.")
    subset: str | None = described("Which configuration of the data set; absent: its default one.", default=None)
    split: str = described("The examples, as `datasets.load_dataset` names them: train, train[:1000], ...", default="train")
    test_split: str | None = described("The held-out examples; absent: a share of `split`, see data.split.", default=None)
    revision: str | None = described("A branch, tag or commit on the hub; absent: its main branch.", default=None)


BUILTIN_SOURCES = ("sklearn", "file", "hub")
SourceSpec = Annotated[SklearnSourceSpec | FileSourceSpec | HubSourceSpec, Field(discriminator="kind")]


class SplitSpec(Spec):
    """How rows are set aside. The test split is read once, by the evaluation."""

    test: Fraction = described("Share of rows for the test split; unused where the source has a test file.", default=0.25)
    validation: Annotated[float, Field(ge=0, lt=1)] = described(
        "Share of the training rows kept for learning curves of torch students; never trained on.", default=0.0
    )
    kind: Literal["random", "group", "time"] = described(
        "random: stratified over classes. group: no group in two splits or folds. time: the test rows are the latest.", default="random"
    )
    column: str | None = described("The group or time column; not used as a feature.", default=None)


class DataSpec(Spec):
    """The examples of a job."""

    source: SourceSpec
    target: str | None = described(
        "The column to predict; bundled sets know their own. sequence-labelling: beside data.text a list of {start, end, label}, beside "
        "data.tokens a list of tags.",
        default=None,
    )
    text: str | None = described("The text column (text-classification, sequence-labelling, language-model).", default=None)
    tokens: str | None = described("sequence-labelling, instead of data.text: the column of lists of words.", default=None)
    prompt: str | None = described("language-model: the column of prompts, which are read and not learnt.", default=None)
    completion: str | None = described("language-model: the column of answers to the prompts.", default=None)
    messages: str | None = described("language-model: the column of conversations; every assistant turn is learnt.", default=None)
    other_domains: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], FilePath] = described(
        "language-model: held-out files of other domains, by name, on which every arm is measured too.", default={}
    )
    other_documents: Annotated[int, Field(ge=1)] = described(
        "language-model: at most this many documents of each other domain, drawn with the job's seed.", default=200
    )
    categorical: ColumnNames = described("Columns to treat as categories, whatever their cells look like.", default=())
    numeric: ColumnNames = described("Columns to treat as numbers; a cell that is none is an error.", default=())
    ignore: ColumnNames = described("Columns that are not features (identifiers, leaks).", default=())
    split: SplitSpec = SplitSpec()
    unlabeled_share: Annotated[float, Field(ge=0, lt=1)] = described(
        "Share of the training rows whose labels are set aside: they become the pool.", default=0.0
    )
    licence: str | None = described("The licence of the data, for the record and the model card.", default=None)
