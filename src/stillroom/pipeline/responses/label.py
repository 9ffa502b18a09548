"""The label stage of a job on responses: the teacher writes, what it writes is checked, and what is learnt is chosen.

`responses.jsonl` keeps one line a response: row, sample, prompt, answer, rationale, model, accepted, learnt, and why not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from stillroom.core.errors import StageFailed
from stillroom.core.files import whole_folder, write_text
from stillroom.core.responses import Accepted
from stillroom.data.exchanges import Exchange
from stillroom.models.endpoint import write_reference
from stillroom.pipeline.asking import endpoint_of
from stillroom.pipeline.clock import counted
from stillroom.pipeline.processes import wait_for
from stillroom.pipeline.responses.asking import Responses, ask_prompts
from stillroom.pipeline.responses.work import ResponsesWork
from stillroom.report.accept_rates import accept_words
from stillroom.report.asking import RESPONSES, asking_words
from stillroom.teachers.checkers import Check, exact_match, numeric_match, record_match
from stillroom.teachers.rejection import Ballot, Sample, Verified, accept_rate, accept_rates, kept, verify
from stillroom.teachers.responses import verify_against_vote, with_rationale
from stillroom.teachers.user_code import CodeChecker

Checker = Callable[[str, str], Check]
_THIRDS = ("the shortest third", "the middle third", "the longest third")


@dataclass(frozen=True)
class Learnt:
    """A response that the student learns, and the exchange that it belongs to."""

    exchange: Exchange
    text: str


def label(work: ResponsesWork) -> list[Learnt]:
    """Have the training prompts answered where they are not yet; what of it is learnt. A second call asks nothing.

    Raises:
        PolicyRefused: the teacher's terms forbid it.
        BadInput, EndpointStopped, StageFailed: as `ask_prompts`; StageFailed also where no response passed its check.
    """
    work.require_permission()  # before anything is spent
    inputs, folder = work.inputs("label"), work.folder
    made = folder.teacher, folder.responses
    done = folder.done("label", inputs, *made)
    work.listener.stage("label", resumed=done is not None)
    if done is None and not folder.writes:
        wait_for(lambda: folder.done("label", inputs, *made))
    elif done is None:
        with checker_of(work) as check:  # before anything is asked: the user's code may not be there
            folder.begin("label")
            with counted(folder.count("label"), inputs) as seconds:
                folder.finish("label", inputs, **_label(work, check), seconds=seconds())
    return list(_read(work))


@contextmanager
def checker_of(work: ResponsesWork) -> Iterator[Checker]:
    """check(answer, reference) as the job says; see `reference_of`.

    Raises:
        BadInput: the user's code is not allowed, or cannot be imported.
    """
    checks = work.responses
    if checks.check == "code":
        assert checks.object is not None, "checked by the job"
        with CodeChecker(checks.object, Path.cwd(), allow_code=work.allow_code, place="responses.object") as code:
            code.start()
            yield lambda answer, row: code(answer, json.loads(row))
    elif checks.check == "none":
        yield lambda answer, reference: Check(True)
    else:
        yield matcher(work)


def matcher(work: ResponsesWork) -> Checker:
    """Whether an answer is the reference, in the job's sense of it."""
    if work.writes_records:
        return record_match
    if work.responses.check == "number":
        return partial(numeric_match, tolerance=Fraction(str(work.responses.tolerance)))
    return exact_match


def reference_of(work: ResponsesWork, exchange: Exchange) -> str:
    """What a response is held against: the data's answer, or for the user's code the row as JSON."""
    return json.dumps(dict(exchange.row)) if work.responses.check == "code" else exchange.gold


def _label(work: ResponsesWork, check: Checker) -> dict[str, Any]:
    """Ask, check, choose and write; what the stage records."""
    teacher, exchanges = endpoint_of(work), work.exchanges.train
    found = ask_prompts(work, exchanges, RESPONSES, samples=teacher.samples)
    for sentence in asking_words({RESPONSES: found.asked}):
        work.listener.say(sentence)
    verified = _verified(work, found, check)
    chosen = kept(verified, work.responses.keep)
    accepted = _accepted(work, verified, chosen)
    for sentence in accept_words(accepted):
        work.listener.say(sentence)
    if not chosen:
        why = next((v.check.reason for v in verified if not v.check.passed), "")
        raise StageFailed(
            f"responses: none of {len(verified)} responses passed the check ({why}, for one); see whether responses.check reads them as "
            "they are written, or say in specification.task how an answer ends."
        )
    _write(work, found, verified, chosen)
    with whole_folder(work.folder.teacher) as draft:
        write_reference(draft, endpoint=teacher.endpoint.name, model=teacher.parameters.model, served=found.asked.served)
    return {"teacher": teacher.fingerprint, "asked": found.asked.to_json(), "accepted": accepted.to_json()}


def _verified(work: ResponsesWork, found: Responses, check: Checker) -> list[Verified]:
    """The usable responses, prompt by prompt, and what the check says of each."""
    checks, exchanges = work.responses, work.exchanges.train
    samples = [
        Sample(
            str(row), written.answer, reference_of(work, exchange), written.model, group,
            written.rationale if checks.rationale == "keep" else "",
        )
        for row, (exchange, group) in enumerate(zip(exchanges, _groups(work, exchanges), strict=True))
        for written in found.written[row]
        if written is not None
    ]  # fmt: skip
    if checks.against == "vote":
        by: Ballot = "record" if work.writes_records else "number" if checks.check == "number" else "text"
        return verify_against_vote(samples, check, by=by, agreement=checks.agreement, asked=endpoint_of(work).samples)
    return verify(samples, check)


def _groups(work: ResponsesWork, exchanges: Sequence[Exchange]) -> list[str]:
    """How hard each is: the cell of the job's column, or the third that it is in by the words of its answer, or of its prompt."""
    if (column := work.responses.difficulty) is not None:
        return [str(each.row[column]) for each in exchanges]
    lengths = [len((each.gold or each.question).split()) for each in exchanges]
    ordered = sorted(lengths)
    cuts = [ordered[len(ordered) * part // 3] for part in (1, 2)]
    return [_THIRDS[sum(length >= cut for cut in cuts)] for length in lengths]


def _accepted(work: ResponsesWork, verified: Sequence[Verified], chosen: Sequence[Sample]) -> Accepted:
    checks = work.responses
    by_difficulty = accept_rates(verified, lambda sample: sample.difficulty)
    order = [group for group in _THIRDS if group in by_difficulty] if checks.difficulty is None else list(by_difficulty)
    kind = "record" if work.writes_records and checks.check == "exact" else checks.check
    return Accepted(
        kind, checks.against if checks.check in ("number", "exact") else "", accept_rate(verified), len(chosen),
        len({sample.example for sample in chosen}), accept_rates(verified, lambda sample: sample.model),
        {group: by_difficulty[group] for group in order},
    )  # fmt: skip


def _write(work: ResponsesWork, found: Responses, verified: Sequence[Verified], chosen: Sequence[Sample]) -> None:
    """Write responses.jsonl, in ASCII: a response may hold anything."""
    checked, is_chosen = iter(verified), set(map(id, chosen))
    lines = []
    for row, exchange in enumerate(work.exchanges.train):
        for number, (written, reason) in enumerate(zip(found.written[row], found.reasons[row], strict=True)):
            line: dict[str, Any] = {"row": row, "sample": number, "prompt": exchange.question}
            if written is None:
                lines.append({**line, "accepted": False, "learnt": False, "why": str(reason)})
                continue
            v = next(checked)
            said = {"answer": written.answer, "rationale": written.rationale, "model": written.model}
            lines.append({**line, **said, "accepted": v.check.passed, "learnt": id(v.sample) in is_chosen, "why": v.check.reason})
    write_text(work.folder.responses, "".join(f"{json.dumps(line)}\n" for line in lines))


def _read(work: ResponsesWork) -> Iterator[Learnt]:
    keeps = work.responses.rationale == "keep"
    with work.folder.responses.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if line["learnt"]:
                yield Learnt(work.exchanges.train[line["row"]], with_rationale(line["answer"], line["rationale"] if keeps else ""))
