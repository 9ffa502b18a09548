"""Is every stored answer whole, and where its facts say it belongs? Reads everything, changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from stillroom.core.chat import CHAT, CHAT_FAILURE, from_block
from stillroom.core.errors import StageFailed
from stillroom.core.fingerprint import RULE, fingerprint
from stillroom.knowledge.shards import (
    ANSWER,
    Record,
    ShardFolder,
    check_bytes,
    checksum_of,
    kind_of,
    open_shard,
    read_batches,
    read_column,
    records,
)
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_codec import REMEDY, decode
from stillroom.knowledge.token_knowledge import QUESTION, header_facts


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found. `repeated` counts further copies of an answer, which are never read."""

    answers: int
    contexts: int
    repeated: int
    problems: tuple[str, ...]

    def require_whole(self) -> None:
        """Raise StageFailed with every problem, if there is one."""
        if self.problems:
            raise StageFailed("\n".join(self.problems))


class _Findings:
    """What has been seen so far; a kind of problem is told once a file, with its first example."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.contexts: set[str] = set()
        self.named: dict[str, str] = {}  # context -> the first place that names it
        self.repeated = 0
        self.problems: list[str] = []

    def answers(self, path: str, found: Iterable[Record]) -> None:
        foreign: Counter[str] = Counter()
        wrong: list[str] = []
        for record in found:
            self.repeated += record.key in self.keys
            self.keys.add(record.key)
            rule = record.key.partition("-")[0]
            if rule != RULE:
                foreign[rule] += 1
            elif fingerprint("answer", record.facts) != record.key:
                wrong.append(record.key)
            if isinstance(record.value, bytes):
                self._block(path, record, record.value)
            if context := record.facts.get("context"):
                self.named.setdefault(context, path)
        for rule, count in foreign.items():
            self.problems.append(
                f"{path}: the keys of {count} answers follow the hashing rule {rule!r}; this version knows {RULE!r} alone and never finds "
                f"them. Read them with the version that wrote them, or run 'stillroom label' again to ask anew."
            )
        if wrong:
            self.problems.append(
                f"{path}: the keys of {len(wrong)} answers, {wrong[0]} the first, are not the fingerprints of their facts: the file was "
                f"altered, or its writer was at fault. Delete it and run 'stillroom label' again: only its answers are asked anew."
            )

    def _block(self, path: str, record: Record, block: bytes) -> None:
        """A block must be whole; one of token distributions must also say of itself what its facts say."""
        try:
            if (question := record.facts.get("question")) in (CHAT, CHAT_FAILURE):
                from_block(block)
            if question != QUESTION:
                return
            found, _ = decode(block)
        except StageFailed as error:
            self.problems.append(f"{path}: the answer {record.key}: {error}")
        else:
            if differing := [name for name, value in header_facts(found).items() if record.facts.get(name) != value]:
                names = ", ".join(differing)
                self.problems.append(f"{path}: the answer {record.key}: its block and its facts differ in: {names}. {REMEDY}")


def verify(store: KnowledgeStore) -> VerifyReport:
    """Hold every shard against its checksum, and every key against its facts; every context that an answer names must be recorded."""
    findings = _Findings()
    for path, kind, table in store.unsealed():  # first: what is sealed meanwhile is then seen in its shard
        if kind == ANSWER:
            findings.answers(str(path), records(table.to_batches()))
        else:
            findings.contexts.update(table["context"].to_pylist())
    for name in store.shards.names():
        try:
            _check_shard(store.shards, name, findings)
        except StageFailed as error:
            findings.problems.append(str(error))
    for context in sorted(findings.named.keys() - findings.contexts):
        findings.problems.append(
            f"{findings.named[context]}: answers name the context {context}, whose rows are not recorded: nobody can tell which rows their "
            f"teacher had seen. Run 'stillroom label' again."
        )
    return VerifyReport(len(findings.keys), len(findings.contexts), findings.repeated, tuple(findings.problems))


def _check_shard(folder: ShardFolder, name: str, findings: _Findings) -> None:
    path = folder.path(name)
    rule = checksum_of(name).partition("-")[0]
    if rule == RULE:
        check_bytes(folder, name)
    else:
        findings.problems.append(
            f"{path}: the hashing rule of its checksum is {rule!r}; this version knows {RULE!r} alone. Update stillroom."
        )
    with open_shard(folder, name) as shard:
        if kind_of(name) == ANSWER:
            findings.answers(path, records(read_batches(shard)))
        else:
            findings.contexts.update(read_column(shard, "context").to_pylist())
