"""Whether the server is as its OpenAPI document says, for requests that nobody thought of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import picture, write_toy_encoder

pytest.importorskip("schemathesis")
pytest.importorskip("starlette")

import requests
import schemathesis
from hypothesis import HealthCheck, settings
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.testclient import TestClient

from siamese_search import Gallery
from siamese_search.serving.app import application
from siamese_search.serving.openapi import openapi

schema = schemathesis.openapi.from_dict(openapi())


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    place = tmp_path_factory.mktemp("served")
    with Gallery.open(place / "shop", write_toy_encoder(place / "toy")) as gallery:
        for number in range(24):
            gallery.enroll([picture(number)], label=f"p{number // 2}", copy=True)
        gallery.calibrate(0.2)
    app = application([place / "shop"], ["testserver", "localhost"])
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made


@schema.parametrize()
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
def test_every_operation_is_as_described(case: Any, client: TestClient) -> None:
    if "g" in (case.path_parameters or {}):
        case.path_parameters["g"] = "shop"
    given = case.as_transport_kwargs(base_url=str(client.base_url))
    asked: Any = requests.Request(**given).prepare()
    answer = client.request(
        asked.method, asked.url, headers=dict(asked.headers), content=asked.body
    )
    # What is well-formed may be refused all the same: there may be no such item. And what a form
    # holds is text, whatever it was before.
    excluded = [positive_data_acceptance]
    if case.media_type == "multipart/form-data":
        excluded.append(negative_data_rejection)
    case.validate_response(answer, excluded_checks=excluded)


def test_the_document_is_valid() -> None:
    validate(openapi())
