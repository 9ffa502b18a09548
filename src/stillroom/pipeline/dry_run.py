"""What labelling through an endpoint will take, told from a sample of real requests, which the run keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stillroom.core.errors import BadInput
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.progress import Listener, Silence
from stillroom.pipeline.terms import check_job
from stillroom.pipeline.work import family
from stillroom.spec.job import Job
from stillroom.spec.teacher import EndpointTeacherSpec
from stillroom.teachers.tasks.estimate import Estimate, dry_run

SAMPLE = 50


def estimate_labelling(job: Job, *, run_dir: Path | None = None, listener: Listener | None = None) -> Estimate:
    """Ask a sample of what a whole run asks (equal rows once), and tell what all will take.

    Raises:
        BadInput: the teacher is no endpoint; as `run`.
        PolicyRefused: before anything is asked.
        EndpointStopped, StageFailed: as `teachers.endpoint.estimate.dry_run`.
    """
    if not isinstance(job.teacher, EndpointTeacherSpec):
        raise BadInput.at("--dry-run", f"goes with a teacher of kind endpoint; teacher.kind is {job.teacher.kind!r}.")
    check_job(job)
    folder = RunFolder(run_dir or Path("runs") / (job.name or "job"))
    with folder.locked():
        from stillroom.pipeline.asking import asked_anew, asker_of, endpoint_of, open_store

        # What `generation` would add costs requests to write: it is neither written nor counted here.
        work = family(job, "work").open_work(job.model_copy(update={"generation": None}), folder, listener or Silence())
        questions, factor = family(job, "asking").every_question(work), endpoint_of(work).price_factor
        with asked_anew(work, "a sample") as anew, open_store(work) as store:
            asker = replace(asker_of(work, store, anew), batch=False)
            return dry_run(asker, questions, sample=SAMPLE, seed=job.seed, price_factor=factor)
