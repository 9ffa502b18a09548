"""A job on prompts and responses at work: its rows, its student's tokenizer, and the test prompts that every arm answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from stillroom.core.errors import BadInput, Problem, collecting, nearest
from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import Sequences
from stillroom.data.exchanges import Exchange, Exchanges, read_exchanges
from stillroom.data.sequences import tokenise
from stillroom.pipeline.asking import endpoint_of
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.progress import Listener
from stillroom.pipeline.work import Work
from stillroom.spec.job import Job
from stillroom.spec.responses import ResponsesSpec
from stillroom.spec.student import HuggingFaceStudentSpec
from stillroom.teachers.final_answers import reference_number
from stillroom.teachers.strict_json import parse, schema_problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stillroom.core.specification import Specification


@dataclass(frozen=True)
class ResponsesWork(Work):
    """`Work` on prompts and responses. The student's tokenizer makes tokens of them; the teacher has its own, at its server."""

    @property
    def responses(self) -> ResponsesSpec:
        return self.job.responses or ResponsesSpec()

    @property
    def student_model(self) -> str:
        assert isinstance(self.job.student, HuggingFaceStudentSpec), "checked by the job"
        assert self.job.student.model is not None, "checked by the job"
        return self.job.student.model

    @cached_property
    def told(self) -> Specification | None:
        """What the teacher is told besides the prompt."""
        return None if self.job.specification is None else self.job.specification.record()

    @property
    def writes_records(self) -> bool:
        return self.told is not None and self.told.output_schema is not None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from stillroom.models.causal import load_tokenizer

        return load_tokenizer(self.student_model, place="student.model")

    @cached_property
    def exchanges(self) -> Exchanges:
        """The rows, without training prompts that leave a student of this training.max_length nothing to learn: they are not asked."""
        found = read_exchanges(self.job.data, seed=self.job.seed)
        limit = self.job.training.max_length
        short = tuple(each for each in found.train if self.prompt_length(each) < limit)
        notes = found.notes
        if num_long := len(found.train) - len(short):
            notes = (*notes, f"Training prompts that alone fill {limit} tokens (training.max_length): {num_long}, not asked.")
        for note in notes:
            self.listener.say(f"data: {note}")
        return Exchanges(short, found.test, found.validation, notes)

    @property
    def has_gold(self) -> bool:
        """Whether the data has answers of its own: to all rows, or to none."""
        return bool(self.exchanges.test[0].gold)

    @cached_property
    def data_fingerprint(self) -> str:
        """Covers every prompt, answer and further column, and the split."""
        parts = (self.exchanges.train, self.exchanges.test, self.exchanges.validation)
        return fingerprint("exchanges", [[[each.messages, each.gold, each.row] for each in part] for part in parts])

    @cached_property
    def test_prompts(self) -> tuple[Exchange, ...]:
        """Test rows, drawn with the job's seed, that every arm answers: those that leave room for the answer in the student's context."""
        from stillroom.models.causal import sketch_causal
        from stillroom.models.token_batches import context_length

        settings, tests = self.job.evaluation, self.exchanges.test
        context = context_length(sketch_causal(self.student_model, place="student.model"))
        order = [tests[row] for row in np.random.default_rng(self.job.seed).permutation(len(tests))]
        fits = [each for each in order if context is None or self.prompt_length(each) + settings.new_tokens <= context]
        if (num_passed := len(order) - len(fits)) and len(fits) < settings.prompts:
            room = f"leave no room for {settings.new_tokens} new tokens (evaluation.new_tokens) in the student's context, {context}"
            self.listener.say(f"{num_passed} test prompts {room}; {len(fits)} others are answered.")
        return tuple(fits[: settings.prompts])

    def prompt_length(self, exchange: Exchange) -> int:
        """Tokens of the prompt as the student reads it."""
        return len(self.tokenizer(exchange.prompt(self.tokenizer), verbose=False)["input_ids"])

    def sequences(self, answered: Sequence[tuple[Exchange, str]], part: str) -> tuple[Sequences, list[str]]:
        """Exchanges with an answer each as token sequences of which the answer is learnt; and what did not make it into them.

        Raises:
            BadInput: no example is left.
        """
        texts = [exchange.learnt(answer, self.tokenizer) for exchange, answer in answered]
        sequences, losses = tokenise(texts, self.tokenizer, max_length=self.job.training.max_length, place=f"data ({part})")
        return sequences, [f"{part}: {note}" for note in losses.notes(self.job.training.max_length)]


def open_work(job: Job, folder: RunFolder, listener: Listener, allow_code: bool = False) -> ResponsesWork:
    """A job at work, its rows read, its settings held against its student's config: before anything is asked.

    Raises:
        BadInput: what is wrong with the rows, the answers that they have, or the settings; every problem of one kind at once.
    """
    work = ResponsesWork(job, folder, listener, allow_code)
    if not work.exchanges.train:
        raise BadInput.at("training.max_length", f"= {job.training.max_length} tokens are filled by every training prompt alone; raise it.")
    problems = [*_settings_problems(work)]
    with collecting(problems):
        _check_gold(work)
    with collecting(problems):
        for each in work.exchanges.train:  # a chat template may refuse turns, or write earlier ones anew
            each.learnt("answer", work.tokenizer)
    if problems:
        raise BadInput(problems)
    return work


def _settings_problems(work: ResponsesWork) -> list[Problem]:
    from stillroom.models.causal import sketch_causal
    from stillroom.pipeline.language.work import training_problems
    from stillroom.teachers.responses import response_questions

    job, exchanges = work.job, work.exchanges
    problems = training_problems(job, sketch_causal(work.student_model, place="student.model"), job.training.max_length, reader="student")
    columns = list(exchanges.train[0].row)
    if (column := work.responses.difficulty) is not None and column not in columns:
        problems.append(Problem("responses.difficulty", f"= {column!r} is no column; {nearest(column, columns)}"))
    if not work.has_gold:
        for place, given in {"evaluation.control": job.evaluation.control, "data.split.validation": job.data.split.validation > 0}.items():
            if given:
                problems.append(
                    Problem(place, f"needs answers of the data's own, and {exchanges.test[0].place} has none; see `responses`.")
                )
    with collecting(problems):
        teacher = endpoint_of(work)
        response_questions(teacher.parameters, [exchanges.train[0].messages], work.told, structured=teacher.structured)
    return problems


def _check_gold(work: ResponsesWork) -> None:
    """Refuse answers of the data that the check cannot read; and their absence where it needs them."""
    checks, exchanges = work.responses, work.exchanges
    rows = (*exchanges.train, *exchanges.test)
    if checks.needs_gold and not work.has_gold:
        reason = f"= {checks.check!r} needs the data's own answers, and {rows[0].place} has none"
        raise BadInput.at("responses.check", f"{reason}; take against: vote, or check: none.")
    if not work.has_gold:
        return
    if checks.check == "number":
        for each in rows:
            if reference_number(each.gold) is None:
                raise BadInput.at(
                    each.place, f"its answer {each.gold[:60]!r} holds no single number, which responses.check: number compares."
                )
    if work.told is not None and work.told.output_schema is not None:
        problem = schema_problem(work.told.output_schema)
        for each in rows:
            try:
                wrong = problem(parse(each.gold))
            except ValueError as error:
                wrong = str(error)
            if wrong:
                raise BadInput.at(each.place, f"its answer is no record under specification.output_schema: {wrong}")
