"""What labelling through an endpoint will take, told from a sample of real requests, which the run keeps."""

from __future__ import annotations

from pathlib import Path

from stillroom.core.errors import BadInput
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.progress import Listener, Silence
from stillroom.pipeline.terms import check_job
from stillroom.pipeline.work import open_work
from stillroom.spec.job import Job
from stillroom.spec.teacher import EndpointTeacherSpec
from stillroom.teachers.endpoint.estimate import Estimate, dry_run

SAMPLE = 50


def estimate_labelling(job: Job, *, run_dir: Path | None = None, listener: Listener | None = None) -> Estimate:
    """Ask a sample of the rows that a whole run asks (training rows, pool and test rows, equal ones once), and tell what all will take.

    Raises:
        BadInput: the teacher is no endpoint, or the task is not text-classification; as `run`.
        PolicyRefused: before anything is asked.
        EndpointStopped, StageFailed: as `teachers.endpoint.estimate.dry_run`.
    """
    if not isinstance(job.teacher, EndpointTeacherSpec) or job.task != "text-classification":
        found = f"task is {job.task!r}, teacher.kind is {job.teacher.kind!r}"
        raise BadInput.at("--dry-run", f"goes with text-classification by a teacher of kind endpoint; {found}.")
    check_job(job)
    folder = RunFolder(run_dir or Path("runs") / (job.name or "job"))
    with folder.locked():
        from stillroom.pipeline.asking import asked_anew, endpoint_of, open_store, question_of, tell, texts_of
        from stillroom.pipeline.label import pool_of

        # What `generation` would add costs requests to write: it is neither written nor counted here.
        work = open_work(job.model_copy(update={"generation": None}), folder, listener or Silence())
        teacher, data = endpoint_of(work), work.dataset
        batches = [batch for batch in (data.train, pool_of(work), data.test) if batch is not None]
        texts = list(dict.fromkeys(text for batch in batches for text in texts_of(batch)))
        rows = question_of(work).requests(texts)
        with asked_anew(work, "a sample") as again, open_store(work) as store:
            return dry_run(
                store, teacher.endpoint, rows, sample=SAMPLE, seed=job.seed, prices=teacher.prices, budget=teacher.budget,
                price_factor=teacher.price_factor, ask_failed_again=again,
                listen=tell(work.listener, min(SAMPLE, len(rows)), "asking a sample"),
            )  # fmt: skip
