"""Whose terms an endpoint's answers come under, told from its host. Terms of the vendor, not of each model.

A host that is missing here says nothing: hosts that serve many makers' models, and servers of one's own, answer under the model's licence,
which the job then has to name.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from stillroom.core.errors import BadInput
from stillroom.lineage.licences import find_licence
from stillroom.lineage.policy import UNKNOWN


@dataclass(frozen=True)
class Provider:
    """A vendor that answers at `host` and the hosts below it, under the `licence` of the licence table."""

    name: str
    host: str
    licence: str


PROVIDERS = (
    Provider("OpenAI", "api.openai.com", "openai-terms"),
    Provider("Microsoft Azure", "openai.azure.com", "microsoft-ai-terms"),
    Provider("Anthropic", "api.anthropic.com", "anthropic-terms"),
    Provider("Google", "generativelanguage.googleapis.com", "google-gemini-terms"),
    Provider("Mistral AI", "api.mistral.ai", "mistral-terms"),
    Provider("xAI", "api.x.ai", "xai-terms"),
)


def find_provider(base_url: str) -> Provider | None:
    """The vendor whose host this is; None for any other."""
    host = _host(base_url)
    return next((p for p in PROVIDERS if host == p.host or host.endswith(f".{p.host}")), None)


def provider_name(base_url: str) -> str:
    """Who answers there: a vendor with its host, or the host alone."""
    provider = find_provider(base_url)
    return _host(base_url) if provider is None else f"{provider.name} ({_host(base_url)})"


def endpoint_licence(base_url: str, declared: str | None, *, place: str = "teacher.licence") -> str | None:
    """The name of the licence that an endpoint's answers come under: its vendor's terms, or else what the job declares.

    Raises:
        BadInput: the job declares another one for a vendor's host; only a waiver can set terms aside.
    """
    provider = find_provider(base_url)
    if provider is None:
        return declared
    known, said = find_licence(provider.licence), None if declared in (None, UNKNOWN) else declared
    assert known is not None, f"{provider.licence} is in the table"
    if said is not None and find_licence(said) != known:
        raise BadInput.at(
            place,
            f"= {declared!r}, but {provider.host} answers under {known.title!r} ({known.name}); leave it out. Another agreement of "
            "yours with them goes into policy.waiver.",
        )
    return known.name


def _host(base_url: str) -> str:
    try:
        return (urlsplit(base_url).hostname or "").lower().rstrip(".")
    except ValueError:  # no address at all, which is told elsewhere
        return ""
