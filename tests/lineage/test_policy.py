"""Who may teach: an unknown licence is never allowed, a forbidding one is refused, a waiver is shown."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.core.errors import BadInput, PolicyRefused
from stillroom.core.records import Provenance
from stillroom.lineage.licences import LICENCES, find_licence
from stillroom.lineage.policy import (
    OFTEN,
    Waiver,
    check_data_licence,
    check_teacher_licence,
    ensemble_provenance,
    licence_from_model_card,
    student_provenance,
)

WAIVER = Waiver("written consent of the owner", "A. Person", "2026-11-01")


def teacher(licence: str | None, **more: Any) -> Provenance:
    return check_teacher_licence(name="acme/x", kind="huggingface", fingerprint="sr1-0", licence=licence, **more)


def data(licence: str | None, **more: Any) -> Provenance:
    return check_data_licence(name="rows", kind="file", fingerprint="sr1-1", licence=licence, **more)


@pytest.mark.parametrize("licence", LICENCES, ids=lambda licence: licence.name)
def test_each_licence_is_followed(licence) -> None:
    if licence.output_training == "forbidden":
        with pytest.raises(PolicyRefused, match=r"policy\.waiver") as refused:
            teacher(licence.name)
        assert refused.value.exit_code == 3
        assert "acme/x" in str(refused.value)
        assert licence.source in str(refused.value)
    else:
        assert teacher(licence.name).output_training == licence.output_training
        assert teacher(licence.name, waiver=WAIVER) == teacher(licence.name)  # a waiver changes nothing where none is needed


def test_a_waiver_opens_the_way_and_is_shown() -> None:
    line = teacher("llama2", waiver=WAIVER)
    assert line.output_training == "waived"
    assert line.licence == "llama2"
    assert "A. Person" in line.conditions[0]
    assert "2026-11-01" in line.conditions[0]
    assert "written consent" in line.conditions[0]
    assert "1.b.v" in line.conditions[1]  # what was waived stays readable


def test_an_undeclared_licence_of_weights_from_elsewhere_is_an_error_that_tells_how_to_declare_it() -> None:
    with pytest.raises(BadInput, match=r"teacher\.members\[0\]\.licence: is missing.*acme/x.*licence: unknown"):
        teacher(None, place="teacher.members[0].licence")
    assert all(find_licence(name) for name in OFTEN)


def test_a_refusal_says_when_the_terms_were_read_or_that_nobody_did() -> None:
    with pytest.raises(PolicyRefused, match=r"read 2026-11-22\.\)"):
        teacher("openai-terms")
    with pytest.raises(PolicyRefused, match=r"legal\.mistral\.ai/terms, not re-checked\.\)"):
        teacher("mistral-terms")


@given(st.text(max_size=30))
def test_a_name_outside_the_table_is_never_allowed(name: str) -> None:
    try:
        line = teacher(name)
    except (BadInput, PolicyRefused):
        return
    if line.output_training in ("allowed", "conditional"):
        assert line.licence.lower() in name.lower() or any(name.strip().lower() in entry.aliases for entry in LICENCES)
    else:
        assert name.strip().lower() == "unknown"


def test_a_misspelt_licence_gets_its_neighbours_and_the_way_out() -> None:
    with pytest.raises(BadInput, match=r"teacher\.licence: = 'apache2' is not in the licence table; near it: .*Apache-2\.0.*unknown"):
        teacher("apache2")


def test_an_unknown_licence_is_declared_and_stays_unknown() -> None:
    assert teacher("Unknown").output_training == "unknown"
    assert teacher("unknown").licence == "unknown"
    assert data(None).output_training == "unknown"
    assert data("our own contract no. 7").output_training == "unknown"
    assert data("our own contract no. 7").licence == "our own contract no. 7"


@pytest.mark.parametrize(
    ("rows", "output_training"), [("MIT", "allowed"), ("CC-BY-4.0", "conditional"), (None, "unknown"), ("unknown", "unknown")]
)
def test_what_is_fitted_here_stands_under_the_terms_of_its_data(rows: str | None, output_training: str) -> None:
    line = teacher(None, fitted_here=True, data=data(rows))
    assert line.licence == "fitted here"
    assert line.output_training == output_training
    assert any("CC-BY-4.0" in condition for condition in line.conditions) == (rows == "CC-BY-4.0")


def test_a_fitted_teacher_with_weights_from_elsewhere_keeps_their_terms() -> None:
    line = teacher("tabpfn-2.5", fitted_here=True, data=data("MIT"))
    assert line.licence == "tabpfn-2.5"
    assert line.output_training == "conditional"
    assert "commercial" in line.conditions[0]


def test_data_made_of_forbidden_answers_is_refused_too() -> None:
    with pytest.raises(PolicyRefused, match="data 'rows'"):
        data("openai-terms")
    assert data("openai-terms", waiver=WAIVER).output_training == "waived"


verdicts = st.sampled_from(["allowed", "conditional", "unknown", "waived", "forbidden"])
ORDER = ["allowed", "conditional", "unknown", "waived", "forbidden"]


@given(st.lists(verdicts, min_size=1, max_size=5))
def test_the_most_restrictive_member_wins(members: list[Any]) -> None:
    lines = [Provenance("teacher", f"t{i}", "estimator", "f", "x", verdict, (f"condition {i}",)) for i, verdict in enumerate(members)]
    for whole in (
        ensemble_provenance(name="e", fingerprint="f", members=lines),
        student_provenance(name="s", kind="estimator", fingerprint="f", sources=lines),
    ):
        assert whole.output_training == max(members, key=ORDER.index)
        assert all(any(f"condition {i}" in condition for condition in whole.conditions) for i in range(len(members)))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# X", "apache-2.0"),
        ("\ufeff---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: mrl\n---\n", "mrl"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlicense: mit\n", None),  # front matter never closed
        ("license: mit", None),
        ("---\n- a\n- b\n---\n", None),
        ("---\nlicense: {broken\n---\n", None),
        ("---\nlicense: !!python/object/apply:os.getcwd []\n---\n", None),
        ("", None),
    ],
)
def test_the_front_matter_of_a_model_card(card: str, licence: str | None) -> None:
    assert licence_from_model_card(card) == licence
