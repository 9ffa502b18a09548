"""May this teacher train this student? Asked before labelling, so that nothing is spent on a forbidden run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

import yaml

from stillroom.core.errors import BadInput, PolicyRefused
from stillroom.core.provenance import Provenance
from stillroom.lineage.licences import NOT_RECHECKED, Licence, find_licence, licence_names

UNKNOWN = "unknown"
"""What a job writes to declare that nobody knows the licence."""

FITTED_HERE = "fitted here"
"""The licence of a model whose every parameter was fitted in this run: it has none of its own but its data's."""

PRETRAINED_PACKAGES = ("tabpfn", "tabicl")
"""Estimators of these packages are fitted here but answer with weights that were trained elsewhere."""

OFTEN = ("Apache-2.0", "MIT", "llama3.1", "gemma", "qwen", "deepseek")
"""Names of the licence table that a person is shown who has named none."""

_RESTRICTION = {"allowed": 0, "conditional": 1, "unknown": 2, "waived": 3, "forbidden": 4}


@dataclass(frozen=True)
class Waiver:
    """A person's signed decision to go on although the terms forbid it."""

    reason: str
    signed_by: str
    date: str

    def __str__(self) -> str:
        return f"Waived by {self.signed_by} on {self.date}: {self.reason}"


def check_teacher_licence(
    *,
    name: str,
    kind: str,
    fingerprint: str,
    licence: str | None,
    place: str = "teacher.licence",
    fitted_here: bool = False,
    data: Provenance | None = None,
    waiver: Waiver | None = None,
) -> Provenance:
    """The teacher's line in the lineage, or a refusal.

    Args:
        licence: as the job (or the model card) names it; "unknown" declares that nobody knows; None: not declared.
        place: where the licence is (or would be) declared, for messages.
        fitted_here: every parameter was fitted in this run, so that an undeclared licence is its data's.
        data: the provenance of the rows it is fitted on, see `check_data_licence`; their terms bind the teacher too.

    Raises:
        BadInput: the licence is not declared although weights come from elsewhere, or the table lacks it.
        PolicyRefused: the terms forbid training other models and there is no waiver.
    """
    if licence is None and not fitted_here:
        raise BadInput.at(
            place,
            f"is missing, and the weights of {name!r} come from elsewhere. "
            f"Give their licence ({', '.join(OFTEN)}, ...), or declare {place}: {UNKNOWN}.",
        )
    own = Provenance("teacher", name, kind, fingerprint, FITTED_HERE, "allowed")
    if licence is not None:
        own = _declared(own, licence, place, waiver)
    return own if data is None or not fitted_here else _inherit(own, [data])


def check_data_licence(
    *, name: str, kind: str, fingerprint: str, licence: str | None, place: str = "data.licence", waiver: Waiver | None = None
) -> Provenance:
    """The data's line in the lineage. A licence that the table lacks is recorded as it stands and counts as unknown:
    the rows are the user's own matter; what is known to forbid training is refused all the same.

    Raises:
        PolicyRefused: the rows are answers under terms that forbid training, and there is no waiver.
    """
    own = Provenance("data", name, kind, fingerprint, licence or UNKNOWN, "unknown")
    if licence is None or find_licence(licence) is None:
        return own
    return _declared(own, licence, place, waiver)


def ensemble_provenance(*, name: str, fingerprint: str, members: Sequence[Provenance]) -> Provenance:
    """An ensemble under the terms of its members: the most restrictive wins, the conditions of all hold."""
    own = Provenance("teacher", name, "ensemble", fingerprint, " + ".join(_once(m.licence for m in members)), "allowed")
    return _inherit(own, members)


def student_provenance(*, name: str, kind: str, fingerprint: str, sources: Sequence[Provenance]) -> Provenance:
    """The student under the terms of its teachers and its data; its own licence is its owner's to choose within them."""
    return _inherit(Provenance("student", name, kind, fingerprint, "not chosen", "allowed"), sources)


def licence_from_model_card(text: str) -> str | None:
    """The licence that a Hugging Face model card (README.md) names in its front matter; None if it names none.

    `license: other` points to `license_name`; a list or a bare "other" or "unknown" decides nothing.
    """
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return None
    end = next(i for i, line in enumerate(lines[1:], start=1) if line.strip() == "---")
    try:
        front = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError:
        return None
    if not isinstance(front, dict):
        return None
    named = front.get("license")
    if named == "other":
        named = front.get("license_name")
    return named if isinstance(named, str) and named.lower() not in ("other", UNKNOWN, "") else None


def _declared(own: Provenance, licence: str, place: str, waiver: Waiver | None) -> Provenance:
    if licence.strip().lower() == UNKNOWN:
        return replace(own, licence=UNKNOWN, output_training="unknown", conditions=("Nobody has declared what its terms permit.",))
    entry = find_licence(licence)
    if entry is None:
        raise BadInput.at(place, f"= {licence!r} is not in the licence table; {_nearest_names(licence)} If nobody knows it: {UNKNOWN}.")
    own = replace(
        own,
        licence=entry.name,
        output_training=entry.output_training,
        conditions=entry.conditions,
        source=entry.source,
        checked_on=entry.checked_on,
    )
    if entry.output_training != "forbidden":
        return own
    if waiver is None:
        raise PolicyRefused(_refusal(own, entry, place))
    return replace(own, output_training="waived", conditions=(str(waiver), *own.conditions))


def _refusal(own: Provenance, entry: Licence, place: str) -> str:
    read = f"read {entry.checked_on}" if entry.checked_on != NOT_RECHECKED else NOT_RECHECKED
    return (
        f"{place}: {own.role} {own.name!r} is under {entry.title!r}, which forbids training other models: {entry.conditions[0]} "
        f"({entry.source}, {read}.) Choose another {own.role}, or set policy.waiver with reason, signed_by and date."
    )


def _nearest_names(name: str) -> str:
    near = get_close_matches(name.lower(), [known.lower() for known in licence_names()], n=3, cutoff=0.4)
    names = [entry.name for word in near if (entry := find_licence(word)) is not None]
    return f"near it: {', '.join(_once(names))}." if names else f"known: {', '.join(licence_names())}."


def _inherit(own: Provenance, sources: Sequence[Provenance]) -> Provenance:
    """`own`, bound by the terms of `sources` as well. Their conditions say whose they are."""
    verdicts: list[Literal["allowed", "conditional", "forbidden", "unknown", "waived"]] = [own.output_training]
    verdicts += [source.output_training for source in sources]
    inherited = [f"{source.name} ({source.licence}): {condition}" for source in sources for condition in source.conditions]
    return replace(
        own,
        output_training=max(verdicts, key=_RESTRICTION.__getitem__),
        conditions=_once((*own.conditions, *inherited)),
    )


def _once(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
