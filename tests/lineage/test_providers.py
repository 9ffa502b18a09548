"""Whose terms an endpoint's answers come under, by its host alone."""

from __future__ import annotations

import pytest

from stillroom.core.errors import BadInput
from stillroom.lineage.licences import find_licence
from stillroom.lineage.providers import PROVIDERS, endpoint_licence, find_provider, provider_name


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.host)
def test_every_provider_has_terms_in_the_table(provider) -> None:
    assert find_licence(provider.licence) is not None
    assert provider.host == provider.host.lower().strip(".")


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("https://api.openai.com/v1", "OpenAI"),
        ("HTTPS://API.OpenAI.com:443/v1", "OpenAI"),
        ("https://api.openai.com./v1", "OpenAI"),
        ("https://eu.api.openai.com/v1", "OpenAI"),
        ("https://mine.openai.azure.com/openai/v1", "Microsoft Azure"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "Google"),
        ("https://api.openai.com.evil.org/v1", None),
        ("https://notapi.openai.com/v1", None),
        ("https://evil.org/api.openai.com", None),
        ("http://127.0.0.1:8000/v1", None),
        ("http://[::1/v1", None),
    ],
)
def test_a_host_is_its_vendors_and_nobody_elses(address: str, found: str | None) -> None:
    provider = find_provider(address)
    assert (provider and provider.name) == found


def test_a_vendors_terms_cannot_be_declared_away() -> None:
    assert endpoint_licence("https://api.mistral.ai/v1", None) == "mistral-terms"
    assert endpoint_licence("https://api.mistral.ai/v1", "Mistral") == "mistral-terms"
    assert endpoint_licence("https://api.mistral.ai/v1", "unknown") == "mistral-terms", "somebody does know"
    with pytest.raises(BadInput, match=r"teacher\.licence: = 'MIT', but api\.mistral\.ai answers under .*policy\.waiver"):
        endpoint_licence("https://api.mistral.ai/v1", "MIT")


def test_other_servers_answer_under_what_the_job_declares() -> None:
    assert endpoint_licence("http://localhost:8000/v1", "Apache-2.0") == "Apache-2.0"
    assert endpoint_licence("http://localhost:8000/v1", None) is None
    assert provider_name("http://LOCALHOST:8000/v1") == "localhost"
    assert provider_name("https://api.openai.com/v1") == "OpenAI (api.openai.com)"
