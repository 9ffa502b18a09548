"""The student of a run at work: on frames, lists of texts, prompts, and files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stillroom.core.errors import BadInput
from stillroom.core.records import Column
from stillroom.data.columns import coerce
from stillroom.data.sources import formats_of, read_table
from stillroom.data.spans import join_words
from stillroom.models.load import load_predictor
from stillroom.models.manifest import read_manifest
from stillroom.pipeline.folder import open_run, require
from stillroom.spec.data import FileSourceSpec
from stillroom.spec.load import load_job

if TYPE_CHECKING:
    from stillroom.core.protocols import Predictor, Progress
    from stillroom.pipeline.progress import Listener
    from stillroom.spec.job import Job


class StudentPredictor:
    """A trained student. Takes what the job's data looked like: columns by name, in any order."""

    def __init__(self, predictor: Predictor, columns: tuple[Column, ...], job: Job) -> None:
        self._predictor, self.columns, self.job = predictor, columns, job

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of `predict_proba`'s columns; () for regression."""
        return self._predictor.classes

    def predict(self, rows: Any) -> NDArray[Any]:
        """(n,) class names, or (n,) values; of a language model how surprising each text is, in nats a token; of sequence labelling the
        spans of each text, tuples of `Span` (start, end, label).

        Args:
            rows: a DataFrame with the feature columns, a list of dicts, or for a text student a list of strings. Where the job's data are
                words, lists of words are joined by spaces: spans count the characters of the joined text.

        Raises:
            BadInput: a column is missing, or a cell is not of its kind.
        """
        values = self.predict_values(rows)
        named = self.classes and not self.finds_spans
        return np.asarray(self.classes, dtype=object)[values.argmax(axis=1)] if named else values

    @property
    def finds_spans(self) -> bool:
        """Whether an answer is the spans of a text."""
        return self.job.kind_of_task == "spans"

    def predict_proba(self, rows: Any) -> NDArray[np.float64]:
        """(n, K) probabilities in the order of `classes`.

        Raises:
            AttributeError: the student predicts values or spans, not classes.
        """
        if not self.classes or self.finds_spans:
            raise AttributeError(f"predict_proba: this student's task is {self.job.task}; use predict.")
        return self.predict_values(rows)

    def predict_values(self, rows: Any) -> NDArray[Any]:
        """(n, K) probabilities, or (n,) values where the student is a regression, or (n,) spans."""
        frame = rows if isinstance(rows, pd.DataFrame) else _frame(rows, self.columns)
        if (tokens := self.job.data.tokens) in frame:
            frame = frame.assign(**{str(tokens): [cell if isinstance(cell, str) else " ".join(cell) for cell in frame[tokens]]})
        return self._predictor.predict_values(coerce(frame, self.columns, place="rows"))

    def generate(
        self,
        prompts: Sequence[Any],
        *,
        new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[str]:
        """What a language model writes after each prompt, without the prompt.

        Args:
            prompts: texts to go on with. Where the job's data are conversations: what a user says, or lists of messages.
            new_tokens: at most so many tokens each; the model ends a text before where it has learnt to.
            temperature: 0 takes the likeliest token each time; above, tokens are sampled, from logits divided by it.
            top_p: sampled are the likeliest tokens alone that together hold this share of the probability.
            seed: of the sampling; a prompt's chance depends on it and on the prompt's number alone.
            progress: told the prompts done and in all.

        Raises:
            BadInput: no language model, no prompts, a setting out of range, or a prompt that the context has no room for.
            StageFailed: the model's logits are not finite.
        """
        if self.job.task != "language-model":
            raise BadInput.at("generate", f"needs a language model; this run's task is {self.job.task}, use predict.")
        from stillroom.models.language import LanguagePredictor
        from stillroom.pipeline.language.predict import write_texts

        assert isinstance(self._predictor, LanguagePredictor), "what a language job trains"
        if self.job.learns_responses and self.job.data.messages is None and not isinstance(prompts, str):
            from stillroom.data.exchanges import before_answer

            prompts = [before_answer(prompt) if isinstance(prompt, str) and prompt.strip() else prompt for prompt in prompts]
        return write_texts(
            self._predictor, prompts, is_chat=self.job.data.messages is not None, new_tokens=new_tokens, temperature=temperature,
            top_p=top_p, seed=seed, progress=progress,
        )  # fmt: skip

    def predict_table(self, file: Path) -> pd.DataFrame:
        """Predictions for the rows of a file: for a classification with every class's probability; of sequence labelling the text and its
        spans, as JSON. Of a language model how surprising the texts are, of prompts and conversations the answers: nats_per_token, over so
        many tokens.

        Raises:
            BadInput: the file.
        """
        if self.job.task == "language-model":
            from stillroom.models.language import LanguagePredictor
            from stillroom.pipeline.language.predict import surprise

            assert isinstance(self._predictor, LanguagePredictor), "what a language job trains"
            return surprise(self._predictor, self.job, file)
        source = self.job.data.source
        blanks = source.missing_values if isinstance(source, FileSourceSpec) else ()
        table = read_table(file, place="FILE", missing_values=blanks, formats=formats_of(self.job.task))
        if (tokens := self.job.data.tokens) in table:
            table[tokens] = join_words(table[tokens], place="FILE")
        values = self.predict_values(table)
        if self.finds_spans:
            spans = [json.dumps([span._asdict() for span in each], ensure_ascii=False) for each in values]
            return pd.DataFrame({"text": table[self.columns[0].name], "spans": spans})
        if not self.classes:
            return pd.DataFrame({"prediction": values})
        predicted = pd.DataFrame(values, columns=[f"p_{name}" for name in self.classes])
        predicted.insert(0, "prediction", np.asarray(self.classes, dtype=object)[values.argmax(axis=1)])
        return predicted


def load(run_dir: Path | str, *, arm: str = "student") -> StudentPredictor:
    """The student of a run, or another of its models.

    Args:
        arm: student, control (the same student, trained without the teacher) or teacher; of another teacher of the job teacher@NAME,
            and of its student student@NAME.

    Raises:
        BadInput: no run there, no such arm; names those that there are.
        StageFailed: it is not trained yet.
    """
    run = open_run(Path(run_dir))
    job = load_job(run.job)
    main = ["student", *(["control"] if job.evaluation.control else []), "teacher"]
    there = [*main, *(f"{role}@{name}" for name in job.other_teachers for role in ("student", "teacher"))]
    if arm not in there:
        raise BadInput.at("arm", f"= {arm!r} is none of this run's: {', '.join(there)}.")
    folder = require(run.arm(arm, 0), "train")
    return StudentPredictor(load_predictor(folder), read_manifest(folder)["columns"], job)


def predict_file(run_dir: Path, file: Path) -> str:
    """CSV text: `StudentPredictor.predict_table` of a run's student."""
    return str(load(run_dir).predict_table(file).to_csv(index=False))


def write_file(
    run_dir: Path, prompts: Sequence[str], file: Path | None, *, arm: str, listener: Listener, **settings: Any
) -> list[dict[str, Any]]:
    """ "prompt" and "text" of each prompt, given or in a file; settings as `StudentPredictor.generate`.

    Raises:
        BadInput, StageFailed: as `StudentPredictor.generate`, and where there are no prompts, or two sources of them.
    """
    if bool(prompts) == (file is not None):
        raise BadInput.at(
            "PROMPT", "and --file: " + ("give one of them." if prompts else "there is no prompt; give a text, or a file of them.")
        )
    job = load_job(open_run(run_dir).job)
    if job.task != "language-model":
        raise BadInput.at(str(run_dir), f"is a run of task {job.task}, whose student writes no texts; use `stillroom predict`.")
    if file is not None:
        from stillroom.data.corpus import read_prompts

        prompts = read_prompts(file, job.data, place="--file")
    texts = load(run_dir, arm=arm).generate(prompts, progress=listener.task("writing"), **settings)
    return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]


def _frame(rows: Any, columns: tuple[Column, ...]) -> pd.DataFrame:
    rows = list(rows)
    if rows and isinstance(rows[0], str | list):
        return pd.DataFrame({columns[0].name: rows})
    return pd.DataFrame(rows)
