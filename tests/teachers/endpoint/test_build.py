"""From the job's section to an endpoint and the parameters of its requests."""

from __future__ import annotations

from typing import Any

import pytest

from stillroom.core.errors import BadInput
from stillroom.spec.endpoint import BudgetSpec
from stillroom.spec.teacher import EndpointTeacherSpec
from stillroom.teachers.endpoint.budget import BATCH_PRICE_FACTOR, Budget, Prices
from stillroom.teachers.endpoint.build import EndpointTeacher, build_endpoint_teacher


def build(**fields: Any) -> EndpointTeacher:
    return build_endpoint_teacher(EndpointTeacherSpec(base_url="http://h/v1", model="m", **fields))


def test_one_answer_is_the_likeliest_and_several_are_drawn() -> None:
    assert (build().samples, build().parameters.temperature, build().parameters.top_logprobs) == (1, 0.0, None)
    several = build(answers="samples")
    assert (several.samples, several.parameters.temperature) == (5, 1.0)
    assert build(answers="samples", samples=9, sampling_temperature=0.7).parameters.temperature == 0.7
    assert build(answers="logprobs").parameters.top_logprobs == 20


def test_every_setting_arrives() -> None:
    spec = EndpointTeacherSpec.model_validate({
        "base_url": "http://h/v1", "model": "m", "api_key_env": "K", "max_tokens": 7, "structured": "tool", "asked_again": 0,
        "prices": {"prompt": 1.5, "completion": 2.0}, "max_concurrency": 3, "timeout_seconds": 4.0, "max_attempts": 5, "batch": True,
        "extra": {"seed_": 1},
    })  # fmt: skip
    made = build_endpoint_teacher(spec, BudgetSpec(usd=1.0, requests=2, tokens=3))
    place = made.endpoint
    assert (place.base_url, place.api_key_env, place.max_concurrency, place.timeout_seconds, place.max_attempts) == (
        "http://h/v1",
        "K",
        3,
        4,
        5,
    )
    assert (made.structured, made.asked_again, made.prices, made.budget) == ("tool", 0, Prices(1.5, 2.0), Budget(1.0, 2, 3))
    assert (made.batch, made.price_factor, build().price_factor) == (True, BATCH_PRICE_FACTOR, 1.0)
    assert '"max_tokens":7' in made.parameters.json
    assert '"seed_":1' in made.parameters.json


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"answers": "logprobs"}, {"max_tokens": 9}, {"structured": "prompt"}, {"asked_again": 1}]
)
def test_what_shapes_an_answer_changes_the_fingerprint(change: dict[str, Any]) -> None:
    spec = EndpointTeacherSpec(base_url="http://h/v1", model="m")
    assert build_endpoint_teacher(spec.model_copy(update=change)).fingerprint != build().fingerprint


def test_what_does_not_shape_an_answer_leaves_it() -> None:
    assert build(api_key_env="K", max_concurrency=2, timeout_seconds=1.0, max_attempts=1, batch=True).fingerprint == build().fingerprint


def test_one_call_of_the_api_is_no_base_url() -> None:
    with pytest.raises(BadInput, match=r"teacher\.base_url: .*leave /chat/completions out"):
        build_endpoint_teacher(EndpointTeacherSpec(base_url="http://h/v1/chat/completions/", model="m"))


def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput, match=r"teacher\.api_key_env: is no name of a variable") as refused:
        build(api_key_env="sk-secret-0123456789")
    assert "secret" not in str(refused.value)


def test_no_address_is_refused_by_its_place() -> None:
    with pytest.raises(BadInput, match=r"teacher\.base_url"):
        build_endpoint_teacher(EndpointTeacherSpec(base_url="ftp://h", model="m"))
