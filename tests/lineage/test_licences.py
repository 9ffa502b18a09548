"""The table of licences: well formed, dated, and honest about what was read."""

import re
from datetime import date
from urllib.parse import urlparse

import pytest

from stillroom.lineage.licences import LICENCES, NOT_RECHECKED, find_licence, licence_names


@pytest.mark.parametrize("licence", LICENCES, ids=lambda licence: licence.name)
def test_every_entry_has_a_page_a_date_and_conditions_where_it_needs_them(licence) -> None:
    page = urlparse(licence.source)
    assert page.scheme == "https"
    assert "." in page.netloc
    assert licence.checked_on == NOT_RECHECKED or date.fromisoformat(licence.checked_on) <= date(2026, 11, 22)
    assert licence.conditions or licence.output_training == "allowed"
    assert all(condition.endswith(".") for condition in licence.conditions)


def test_no_name_means_two_licences() -> None:
    names = [name.lower() for licence in LICENCES for name in (licence.name, *licence.aliases)]
    assert len(names) == len(set(names)) == len(licence_names())
    assert not any(re.search(r"\s", name) for name in names)


@pytest.mark.parametrize(
    ("name", "output_training"),
    [
        ("MIT", "allowed"),
        ("apache-2.0", "allowed"),
        ("cc-by-nc-4.0", "conditional"),
        ("llama2", "forbidden"),
        ("llama3", "forbidden"),
        ("llama3.1", "conditional"),
        ("tabpfn-2.5", "conditional"),
        ("openai", "forbidden"),
        ("Anthropic-Terms", "forbidden"),
    ],
)
def test_known_readings(name: str, output_training: str) -> None:
    licence = find_licence(name)
    assert licence is not None
    assert licence.output_training == output_training


def test_nothing_is_found_by_half_a_name() -> None:
    assert find_licence("unknown") is None
    assert find_licence("apache") is None
    assert find_licence("") is None
