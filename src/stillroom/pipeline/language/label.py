"""The label stage of a language model's job: the teacher's next-token distributions, made small and kept."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.core.files import whole_folder
from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_knowledge import TokenQuestion, missing_examples, put_answers
from stillroom.models import language as saved
from stillroom.models.causal import load_causal, usable_vocabulary
from stillroom.models.language import LanguagePredictor
from stillroom.models.memory import refuse_too_large
from stillroom.pipeline.clock import counted
from stillroom.pipeline.language.work import LanguageWork
from stillroom.pipeline.processes import wait_for
from stillroom.teachers.causal import CausalTeacher, label_tokens

DEFAULT_NUMBERS = {"threshold": 64, "sampled": 50, "top-k": 50, "hidden": 16}


@dataclass(frozen=True)
class Taught:
    """What the students learn from, apart from the corpus.

    Attributes:
        question: what the stored answers answer; None where the teacher stays in memory.
        vocabulary_size: tokens, counted from id 0, that the teacher predicts; further rows of its head are padding.
    """

    question: TokenQuestion | None
    vocabulary_size: int


def label(work: LanguageWork) -> Taught:
    """Label what is not labelled yet. A second call asks the teacher nothing.

    Raises:
        PolicyRefused: the teacher's terms forbid it.
    """
    work.terms  # noqa: B018 - refuses before anything is spent
    inputs = work.inputs("label")
    record = work.folder.done("label", inputs, work.folder.teacher)
    work.listener.stage("label", resumed=record is not None)
    if record is None and work.folder.writes:
        with counted(work.folder.count("label"), inputs) as seconds:
            facts = _ask(work, _teacher(work, inputs))
            record = work.folder.finish("label", inputs, **facts, seconds=seconds())
    elif record is None:
        if work.teacher_spec.fine_tune is not None:
            _teacher(work, inputs)  # all processes train it; one asks it
        record = wait_for(lambda: work.folder.done("label", inputs, work.folder.teacher))
    question = None if work.job.labelling.tokens == "online" else _question(work, str(record["teacher"]), str(record["tokenizer"]))
    return Taught(question, int(record["vocabulary_size"]))


def open_store(work: LanguageWork, *, read_only: bool = False) -> KnowledgeStore:
    """The job's knowledge store."""
    return KnowledgeStore(work.job.labelling.store or work.folder.knowledge, read_only=read_only)


def _ask(work: LanguageWork, teacher: CausalTeacher) -> dict[str, object]:
    """Store what is missing; what the stage records."""
    job, sequences = work.job, work.corpus.train
    size = usable_vocabulary(teacher.model, teacher.tokenizer, place="teacher.model")
    facts: dict[str, object] = {
        "teacher": teacher.fingerprint,
        "tokenizer": teacher.tokenizer_fingerprint,
        "vocabulary_size": size,
        "notes": _notes(work),
    }
    if job.labelling.tokens == "online":
        return facts
    question = _question(work, teacher.fingerprint, teacher.tokenizer_fingerprint)
    with open_store(work) as store:
        label_tokens(
            teacher,
            sequences,
            scheme=question.scheme,
            temperature=question.temperature,
            seed=question.seed,
            vocabulary_size=size,
            missing=lambda examples: missing_examples(store, question, examples),
            put=lambda examples, answers: put_answers(store, question, examples, answers),
            batch_tokens=job.labelling.batch_tokens,
            progress=work.listener.task("asking the teacher"),
            say=work.listener.say,
        )
        store.seal()
    return facts


def _question(work: LanguageWork, teacher: str, tokenizer: str) -> TokenQuestion:
    job = work.job
    assert job.labelling.tokens != "online", "nothing is stored"
    scheme = TokenScheme(job.labelling.tokens, job.labelling.tokens_number or DEFAULT_NUMBERS[job.labelling.tokens])
    template = fingerprint(work.tokenizer.chat_template) if job.data.messages else ""
    # Hidden states serve every temperature; only their stored entropy is at one.
    temperature = 1.0 if scheme.kind == "hidden" else job.temperature
    return TokenQuestion(teacher, tokenizer, scheme, template, temperature, job.seed)


def _teacher(work: LanguageWork, inputs: str) -> CausalTeacher:
    """The teacher as it is measured: fine-tuned first where the job asks for it, and kept in the run then."""
    spec, folder = work.teacher_spec, work.folder
    if folder.done("teacher", inputs, folder.teacher):
        found = saved.load(folder.teacher)
        return CausalTeacher(found.model, found.tokenizer)
    refuse_too_large(spec.model, place="teacher.model")
    model, tokenizer = load_causal(spec.model, place="teacher.model")
    if spec.fine_tune is not None:
        from stillroom.objectives.tokens import TokenObjective
        from stillroom.training.language import train_language_model

        train_language_model(
            model, tokenizer, work.corpus.train, teacher=None, objective=TokenObjective(), settings=spec.fine_tune.model_dump(),
            seed=work.job.seed, folder=work.scratch("teacher"), vocabulary_size=usable_vocabulary(model, tokenizer),
            progress=work.listener.task("fine-tuning the teacher"),
        )  # fmt: skip
    if not folder.writes:
        return CausalTeacher(model, tokenizer)
    with whole_folder(folder.teacher) as draft:
        if spec.fine_tune is None:
            saved.write_reference(draft, spec.model)
        else:
            LanguagePredictor(model, tokenizer).save(draft)
    folder.finish("teacher", inputs)
    return CausalTeacher(model, tokenizer)


def _notes(work: LanguageWork) -> list[str]:
    if work.teacher_spec.fine_tune is None:
        return []
    return ["The teacher was fine-tuned on the training documents before it answered them: it has seen them, as the student will."]
