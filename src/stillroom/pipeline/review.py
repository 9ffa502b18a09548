"""People look at a sample of the teacher's answers: what they are shown, and what becomes of their decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, Problem, StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.review import Confusion, Decision, Overlap, ReviewFinding, ReviewItem, corrections, opinions, standing
from stillroom.evaluation.review import NUM_STRATA, agreement, draw_sample, estimate_error, stratify
from stillroom.knowledge.store import KnowledgeStore
from stillroom.pipeline.folder import open_run
from stillroom.pipeline.progress import Listener, Silence
from stillroom.review.journal import DecisionJournal
from stillroom.review.session import Session
from stillroom.review.sheet import read_sheet, write_sheet
from stillroom.spec.load import load_job

if TYPE_CHECKING:
    from stillroom.pipeline.label import TransferSet
    from stillroom.pipeline.work import Work
    from stillroom.spec.job import Job

CORRECTION = "correction"


class Review:
    """A run whose teacher has answered, opened for a reviewer."""

    def __init__(self, run_dir: Path, *, reviewer: str, num_rows: int, allow_code: bool = False, listener: Listener | None = None) -> None:
        """Read the answers; the teacher is asked nothing.

        Args:
            reviewer: who looks at them.
            num_rows: the size of the sample.

        Raises:
            BadInput: no run there, or one without labels; no name.
            StageFailed: the teacher has not answered yet.
        """
        from stillroom.pipeline.label import label
        from stillroom.pipeline.work import open_work

        folder = open_run(run_dir)
        job = load_job(folder.job)
        _check(job, run_dir, reviewer, num_rows)
        self.work = open_work(job, folder, listener or Silence(), allow_code)
        if not folder.done("label", self.work.inputs("label"), folder.teacher):
            raise StageFailed(
                f"{run_dir}: its teacher has not answered yet, or answered an older job; run `stillroom label` on the job first."
            )
        self.transfer = label(self.work)
        if not _answered(self.transfer).any():
            raise StageFailed(f"{run_dir}: the teacher has no answer to any row; there is nothing to look at.")
        self.session = self._session(reviewer, num_rows)

    def _session(self, reviewer: str, num_rows: int) -> Session:
        work, transfer = self.work, self.transfer
        answered = np.flatnonzero(_answered(transfer))
        rows = answered[draw_sample(transfer.answers[answered], size=num_rows, seed=work.job.seed)]
        specification = work.job.specification
        return Session(
            title=work.job.name or "job",
            items=_items(transfer, rows, work.dataset.classes),
            classes=work.dataset.classes,
            definitions={} if specification is None else specification.record(work.dataset.classes).labels,
            journal=DecisionJournal(work.folder.decisions),
            reviewer=reviewer.strip(),
            sample=_sample(work, transfer),
            seed=work.job.seed,
        )

    def write_sheet(self, path: Path) -> None:
        """The sample as CSV. Raises StageFailed where it cannot be written."""
        write_sheet(self.session, path)

    def read_sheet(self, path: Path) -> int:
        """Keep what a filled sheet says, and tell how many decisions are new.

        Raises:
            BadInput: the file, or cells of it. What the other cells say is kept.
        """
        labels, problems = read_sheet(self.session, path)
        before = self.session.decided()
        fresh = {number: label for number, label in labels.items() if number not in before or before[number] != label}
        if fresh:
            self.session.decide(fresh)
        if problems:
            self.conclude()
            kept = f"what the other {len(labels)} filled lines say is kept; mend these cells and import the file again."
            raise BadInput([*problems, Problem(str(path), kept)])
        return len(fresh)

    def conclude(self) -> ReviewFinding | None:
        """Store the corrections; what the review says about the teacher so far."""
        store_corrections(self.work)
        return review_finding(self.work, self.transfer)


def _check(job: Job, run_dir: Path, reviewer: str, num_rows: int) -> None:
    if job.task == "language-model":
        raise BadInput.at(str(run_dir), "is a run of a language model; a review looks at labels, and responses cannot be reviewed yet.")
    if job.kind_of_task != "classification":
        given = "spans" if job.kind_of_task == "spans" else "values"
        raise BadInput.at(str(run_dir), f"is a run of task {job.task}, whose teacher gives {given}; a review looks at labels.")
    if not reviewer.strip() or not reviewer.isprintable():
        raise BadInput.at("--reviewer", f"= {reviewer!r} is no name; give one, by which your decisions are told from others'.")
    if num_rows < 1:
        raise BadInput.at("--rows", f"= {num_rows}: look at one row at least; 100 tell the error to within about 5 points.")


def _answered(transfer: TransferSet) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(transfer.answers).all(axis=1))


def _sample(work: Work, transfer: TransferSet) -> str:
    """Stands for the answers that are sampled, and the seed: decisions about other answers say nothing of these."""
    calibration = {name: value for name, value in asdict(transfer.calibration).items() if name in ("kept", "temperature", "smoothing")}
    return fingerprint("review", transfer.answer_keys.tolist(), transfer.batch.keys.tolist(), calibration, work.job.seed)


def _items(transfer: TransferSet, rows: NDArray[np.intp], classes: tuple[str, ...]) -> list[ReviewItem]:
    features = transfer.batch.features.iloc[rows]
    names = [str(name) for name in features.columns]
    cells = [["" if pd.isna(cell) else _shown(cell) for cell in line] for line in features.itertuples(index=False, name=None)]
    return [
        ReviewItem(
            row=row,
            example=str(transfer.batch.keys[row]),
            answer=str(transfer.answer_keys[row]),
            cells=tuple(zip(names, line, strict=True)),
            probs=tuple(transfer.answers[row].tolist()),
            teacher=classes[int(transfer.answers[row].argmax())],
        )
        for row, line in zip(rows.tolist(), cells, strict=True)
    ]


def _shown(cell: Any) -> str:
    return f"{cell:.10g}" if isinstance(cell, float) else str(cell)


def review_finding(work: Work, transfer: TransferSet) -> ReviewFinding | None:
    """The teacher's error over all rows that it has answered, by the decisions on its present answers; None without any."""
    sample, classes = _sample(work, transfer), work.dataset.classes
    decisions = [d for d in DecisionJournal(work.folder.decisions).decisions() if d.sample == sample]
    judged = {d.row: d for d in opinions(decisions).values()}
    if not judged:
        return None
    answered = np.flatnonzero(_answered(transfer))
    strata = np.full(len(transfer.batch), -1)
    strata[answered] = stratify(transfer.answers[answered])
    rows = np.array(list(judged), dtype=np.intp)
    said = [classes[code] for code in transfer.answers[rows].argmax(axis=1)]
    labels = [str(judged[row].label) for row in rows.tolist()]
    wrong = np.array([a != b for a, b in zip(said, labels, strict=True)])
    confidence = work.job.evaluation.confidence
    error = estimate_error(wrong, strata[rows], np.bincount(strata[answered], minlength=NUM_STRATA), confidence=confidence)
    assert error.low is not None
    assert error.high is not None
    confused = Counter((a, b) for a, b in zip(said, labels, strict=True) if a != b)
    return ReviewFinding(
        error.value, error.low, error.high, confidence,
        num_reviewed=len(rows), num_wrong=int(wrong.sum()), num_skipped=len({d.row for d in decisions} - judged.keys()),
        num_rows=len(answered), num_reviewers=len({d.reviewer for d in standing(decisions).values() if d.label is not None}),
        confusions=tuple(Confusion(a, b, n) for (a, b), n in sorted(confused.items(), key=lambda pair: (-pair[1], pair[0]))),
        overlaps=tuple(_overlaps(decisions)),
    )  # fmt: skip


def _overlaps(decisions: Sequence[Decision]) -> list[Overlap]:
    """Of each pair of reviewers who have judged the same rows."""
    by_reviewer: dict[str, dict[int, str]] = {}
    for decision in standing(decisions).values():
        if decision.label is not None:
            by_reviewer.setdefault(decision.reviewer, {})[decision.row] = decision.label
    found = []
    for a, b in combinations(sorted(by_reviewer), 2):
        if both := sorted(by_reviewer[a].keys() & by_reviewer[b].keys()):
            share, kappa = agreement([by_reviewer[a][row] for row in both], [by_reviewer[b][row] for row in both])
            found.append(Overlap(len(both), share, kappa))
    return found


def corrected_rows(work: Work, transfer: TransferSet) -> NDArray[np.intp]:
    """The rows in which students learn what people said: where the job uses corrections, and they differ from the present answer."""
    if not work.corrections:
        return np.empty(0, dtype=np.intp)
    codes = {label: code for code, label in enumerate(work.dataset.classes)}
    wanted = np.array([codes.get(work.corrections.get(example, ""), -1) for example in transfer.batch.keys.tolist()])
    return np.flatnonzero(_answered(transfer) & (wanted >= 0) & (wanted != transfer.answers.argmax(axis=1)))


def corrected(work: Work, transfer: TransferSet) -> TransferSet:
    """What students learn from: people's corrections in the place of the teacher's answers, where the job uses them."""
    rows = corrected_rows(work, transfer)
    if not len(rows):
        return transfer
    stored = store_corrections(work)
    work.listener.say(f"people's labels replace the teacher's answers to {len(rows)} rows")
    answers = transfer.answers.copy()
    answers[rows] = np.array([stored[example] for example in transfer.batch.keys[rows].tolist()])
    return replace(transfer, answers=answers)


def store_corrections(work: Work) -> dict[str, NDArray[np.float64]]:
    """Put the corrections into the knowledge store, beside the teacher's answers; those that are there stay as they are.

    Returns:
        example -> its present correction as the store holds it: (K,) probabilities, all of them on one label.
    """
    classes = work.dataset.classes
    found = [d for d in corrections(DecisionJournal(work.folder.decisions).decisions()) if d.label in classes]
    if not found:
        return {}
    facts = [_facts(decision, classes) for decision in found]
    keys = [fingerprint("answer", fact) for fact in facts]
    values = np.eye(len(classes))[[classes.index(str(decision.label)) for decision in found]]
    with KnowledgeStore(work.job.labelling.store or work.folder.knowledge) as store:
        store.put(keys, values, facts)
        return {decision.example: value for decision, value in zip(found, store.get(keys), strict=True)}


def _facts(decision: Decision, classes: tuple[str, ...]) -> dict[str, Any]:
    """What a correction's key is made of."""
    return {
        "example": decision.example,
        "question": CORRECTION,
        "classes": fingerprint("classes", list(classes)),
        "source": "reviewer",
        "reviewer": decision.reviewer,
        "at": decision.at,
        "seed": decision.seed,
        "corrects": decision.answer,
        "label": decision.label,
    }
