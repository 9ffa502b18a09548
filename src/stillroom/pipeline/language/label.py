"""The label stage of a language model's job: the teacher's next-token distributions, made small and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.core.arms import other_teacher
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
from stillroom.models.pretrained import tokenizer_fingerprint
from stillroom.models.token_batches import check_examples, context_length
from stillroom.pipeline.clock import counted
from stillroom.pipeline.language.work import LanguageWork, place_of
from stillroom.pipeline.processes import wait_for
from stillroom.pipeline.terms import teacher_name
from stillroom.teachers.causal import CausalTeacher, label_tokens

DEFAULT_NUMBERS = {"threshold": 64, "sampled": 50, "top-k": 50, "hidden": 16}


@dataclass(frozen=True)
class Taught:
    """What the students learn from, apart from the corpus.

    Attributes:
        questions: by the teacher's arm, what its stored answers answer; None where the teacher stays in memory.
        vocabulary_size: tokens, counted from id 0, that the teachers predict; further rows of their heads are padding.
        context: tokens that each of the other teachers reads at once; None where nothing limits them.
    """

    questions: Mapping[str, TokenQuestion | None]
    vocabulary_size: int
    context: int | None = None


def label(work: LanguageWork) -> Taught:
    """Label what is not labelled yet. A second call asks the teacher nothing.

    Raises:
        PolicyRefused: the teacher's terms forbid it.
    """
    work.require_permission()  # before anything is spent
    inputs = {arm: work.inputs("label", arm) for arm in work.teachers}
    found = {arm: _answered(work, arm, inputs[arm]) for arm in work.teachers}
    work.listener.stage("label", resumed=None not in found.values())
    facts = {arm: _label(work, arm, inputs[arm]) if record is None else record for arm, record in found.items()}
    questions = {arm: _recorded_question(work, record) for arm, record in facts.items()}
    contexts = [int(record["context"]) for arm, record in facts.items() if other_teacher(arm) and record["context"] is not None]
    return Taught(questions, int(facts["teacher"]["vocabulary_size"]), min(contexts, default=None))


def label_record(arm: str) -> str:
    """What the labelling by a teacher's arm is recorded as: "label", or "label@NAME"."""
    return f"label{arm.removeprefix('teacher')}"


def open_store(work: LanguageWork, *, read_only: bool = False) -> KnowledgeStore:
    """The job's knowledge store."""
    return KnowledgeStore(work.job.labelling.store or work.folder.knowledge, read_only=read_only)


def _label(work: LanguageWork, arm: str, inputs: str) -> dict[str, Any]:
    """Ask one teacher for what it has not answered yet; what is recorded of it."""
    name = label_record(arm)
    if not work.folder.writes:
        if work.teachers[arm].fine_tune is not None:
            _teacher(work, arm, inputs)  # all processes train it; one asks it
        return wait_for(lambda: _answered(work, arm, inputs))
    work.folder.begin(name)
    with counted(work.folder.count(name), inputs) as seconds:
        facts = _ask(work, arm, _teacher(work, arm, inputs))
        return work.folder.finish(name, inputs, **facts, seconds=seconds())


def _ask(work: LanguageWork, arm: str, teacher: CausalTeacher) -> dict[str, object]:
    """Store what is missing; what the stage records."""
    job, corpus = work.job, work.corpus
    for part in (corpus.train, corpus.test, *corpus.other_domains.values()):
        check_examples(teacher.model, part.examples, place=teacher.place)
    tokenizer = tokenizer_fingerprint(work.tokenizer) if other_teacher(arm) else teacher.tokenizer_fingerprint
    size = usable_vocabulary(teacher.model, teacher.tokenizer, place=f"{teacher.place}.model")
    facts: dict[str, object] = {
        "teacher": teacher.fingerprint,
        "tokenizer": tokenizer,
        "vocabulary_size": size,
        "context": context_length(teacher.model),
        "notes": _notes(work, arm),
    }
    if job.labelling.tokens == "online":
        return facts
    question = _question(work, teacher.fingerprint, tokenizer)
    with open_store(work) as store:
        put_words(store, _words(work, arm, teacher))
        _tell_other_question(work, store, question)
        label_tokens(
            teacher,
            corpus.train,
            scheme=question.scheme,
            temperature=question.temperature,
            seed=question.seed,
            vocabulary_size=size,
            missing=lambda examples: missing_examples(store, question, examples),
            put=lambda examples, answers: put_answers(store, question, examples, answers),
            batch_tokens=job.labelling.batch_tokens,
            progress=work.listener.task(f"asking the {arm}"),
            say=work.listener.say,
        )
        store.seal()
    return facts


def _answered(work: LanguageWork, arm: str, inputs: str) -> dict[str, Any] | None:
    """What is recorded of a teacher's labelling, if the store that the job names now still holds every answer."""
    record = work.folder.done(label_record(arm), inputs, work.folder.arm(arm, 0))
    if record is None or (question := _recorded_question(work, record)) is None:
        return record
    try:
        with open_store(work, read_only=True) as store:
            return None if missing_examples(store, question, work.corpus.train.examples) else record
    except BadInput:
        return None  # there is no store


def _tell_other_question(work: LanguageWork, store: KnowledgeStore, question: TokenQuestion) -> None:
    """Whoever names a store with answers expects not to ask again: why they are no answers to this job."""
    examples = work.corpus.train.examples
    if len(missing_examples(store, question, examples)) == len(examples) and (difference := nearest_question(store, question)):
        work.listener.say(
            f"{store.location} answers another question: {difference}. The teacher is asked for all {len(examples)} examples."
        )


def _words(work: LanguageWork, arm: str, teacher: CausalTeacher) -> dict[str, str]:
    """What the fingerprints of the question stand for."""
    called, template = teacher_name(work.teachers[arm]), work.tokenizer.chat_template
    name = Path(called).name if Path(called).is_dir() else called  # a store is shared; where its folders lay is nobody's business
    return {
        teacher.fingerprint: f"{name}, {type(teacher.model).__name__} of {teacher.model.num_parameters():,} parameters",
        teacher.tokenizer_fingerprint: f"that of {name}, {len(teacher.tokenizer)} tokens",
        **({fingerprint(template): str(template)} if work.job.data.messages else {}),
    }


def _recorded_question(work: LanguageWork, record: dict[str, Any]) -> TokenQuestion | None:
    """What a labelling's answers answer; None where nothing is stored."""
    if work.job.labelling.tokens == "online":
        return None
    return _question(work, str(record["teacher"]), str(record["tokenizer"]))


def _question(work: LanguageWork, teacher: str, tokenizer: str) -> TokenQuestion:
    job = work.job
    assert job.labelling.tokens != "online", "nothing is stored"
    scheme = TokenScheme(job.labelling.tokens, job.labelling.tokens_number or DEFAULT_NUMBERS[job.labelling.tokens])
    template = fingerprint(work.tokenizer.chat_template) if job.data.messages else ""
    # Hidden states serve every temperature; only their stored entropy is at one.
    temperature = 1.0 if scheme.kind == "hidden" else job.temperature
    return TokenQuestion(teacher, tokenizer, scheme, template, temperature, job.seed)


def _teacher(work: LanguageWork, arm: str, inputs: str) -> CausalTeacher:
    """The teacher as it is measured: fine-tuned first where the job asks for it, and kept in the run then."""
    spec, folder, place = work.teachers[arm], work.folder.arm(arm, 0), place_of(arm)
    if work.folder.done(arm, inputs, folder):
        found = saved.load(folder)
        return CausalTeacher(found.model, found.tokenizer, place)
    refuse_too_large(spec.model, place=f"{place}.model")
    model, tokenizer = load_causal(spec.model, place=f"{place}.model")
    if spec.fine_tune is not None:
        from stillroom.objectives.tokens import TokenObjective
        from stillroom.training.language import train_language_model

        train_language_model(
            model, tokenizer, work.corpus.train, teacher=None, objective=TokenObjective(), settings=spec.fine_tune.model_dump(),
            seed=work.job.seed, folder=work.scratch(arm), vocabulary_size=usable_vocabulary(model, tokenizer),
            progress=work.listener.task(f"fine-tuning the {arm}"),
        )  # fmt: skip
    if not work.folder.writes:
        return CausalTeacher(model, tokenizer, place)
    work.folder.begin(arm)
    with whole_folder(folder) as draft:
        if spec.fine_tune is None:
            saved.write_reference(draft, spec.model)
        else:
            LanguagePredictor(model, tokenizer).save(draft)
    work.folder.finish(arm, inputs)
    return CausalTeacher(model, tokenizer, place)


def _notes(work: LanguageWork, arm: str) -> list[str]:
    spec, name = work.teachers[arm], other_teacher(arm)
    who, notes = f"The teacher {name!r}" if name else "The teacher", list[str]()
    if name:
        alone = "differs from the student that ships in its teacher alone: same start, tokens, steps and seeds"
        notes.append(f"{who} ({spec.name or spec.model}) answered the same tokens as the main teacher; its student {alone}.")
    if spec.fine_tune is not None:
        notes.append(f"{who} was fine-tuned on the training documents before it answered them: it has seen them, as the student will.")
    return notes
