"""The label stage of a language model's job: the teacher's next-token distributions, made small and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.core.errors import BadInput
from stillroom.core.files import whole_folder
from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_knowledge import TokenQuestion, missing_examples, nearest_question, put_answers, put_words
from stillroom.models import language as saved
from stillroom.models.causal import load_causal, usable_vocabulary
from stillroom.models.language import LanguagePredictor
from stillroom.models.memory import refuse_too_large
from stillroom.pipeline.clock import counted
from stillroom.pipeline.language.work import LanguageWork
from stillroom.pipeline.terms import teacher_name
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
    if record is not None and not _is_answered(work, record):
        record = None
    work.listener.stage("label", resumed=record is not None)
    if record is None:
        with counted(work.folder.count("label"), inputs) as seconds:
            facts = _ask(work, _teacher(work, inputs))
            record = work.folder.finish("label", inputs, **facts, seconds=seconds())
    question = None if work.job.labelling.tokens == "online" else _recorded_question(work, record)
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
        put_words(store, _words(work, teacher))
        _tell_other_question(work, store, question)
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


def _is_answered(work: LanguageWork, record: dict[str, Any]) -> bool:
    """Whether the store that the job names now still holds every answer."""
    if work.job.labelling.tokens == "online":
        return True
    try:
        with open_store(work, read_only=True) as store:
            return not missing_examples(store, _recorded_question(work, record), work.corpus.train.examples)
    except BadInput:
        return False  # there is no store


def _tell_other_question(work: LanguageWork, store: KnowledgeStore, question: TokenQuestion) -> None:
    """Whoever names a store with answers expects not to ask again: why they are no answers to this job."""
    examples = work.corpus.train.examples
    if len(missing_examples(store, question, examples)) == len(examples) and (difference := nearest_question(store, question)):
        work.listener.say(
            f"{store.location} answers another question: {difference}. The teacher is asked for all {len(examples)} examples."
        )


def _words(work: LanguageWork, teacher: CausalTeacher) -> dict[str, str]:
    """What the fingerprints of the question stand for."""
    called, template = teacher_name(work.teacher_spec), work.tokenizer.chat_template
    name = Path(called).name if Path(called).is_dir() else called  # a store is shared; where its folders lay is nobody's business
    return {
        teacher.fingerprint: f"{name}, {type(teacher.model).__name__} of {teacher.model.num_parameters():,} parameters",
        teacher.tokenizer_fingerprint: f"that of {name}, {len(teacher.tokenizer)} tokens",
        **({fingerprint(template): str(template)} if work.job.data.messages else {}),
    }


def _recorded_question(work: LanguageWork, record: dict[str, Any]) -> TokenQuestion:
    return _question(work, str(record["teacher"]), str(record["tokenizer"]))


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
