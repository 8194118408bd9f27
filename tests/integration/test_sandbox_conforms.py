"""The sandbox keeps to the protocol file: schemathesis calls it over HTTP, by the file and against it.

`test_sandbox` says what each answer is; here every answer, whatever the question, is one that the file allows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import yaml
from hypothesis import settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from widget.openfield import sandbox
from widget.openfield.sandbox import ALICE, APPLICATION, TENANT, create_sandbox, serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

FILE: dict[str, Any] = yaml.safe_load(
    (Path(sandbox.__file__).parents[1] / "webservice.yaml").read_text(encoding="utf-8")
)

BOUNDED = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(create_sandbox()) as url:
        yield url


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


# By the file as it is: requests that it allows, requests that it doesn't, and what is not even a request


anything = schemathesis.openapi.from_dict(copy.deepcopy(FILE))


@anything.parametrize()
@BOUNDED
def test_whatever_is_asked_the_answer_is_one_of_the_files(
    case: schemathesis.Case[Any], url: str, http: requests.Session
) -> None:
    response = case.call(base_url=url, session=http)

    case.validate_response(response, checks=[*CHECKS, unsupported_method])
    assert response.status_code >= 400, "a caller who makes everything up is refused"
    assert response.json()["Code"]


# By the file, and by what a caller knows besides it: then every request succeeds


def _narrowed() -> dict[str, Any]:
    """The file, with values that Openfield's rules allow."""
    name = {"type": "string", "pattern": "^[A-Z][a-z]{1,9}$"}
    narrowed = copy.deepcopy(FILE)
    schemas = narrowed["components"]["schemas"]
    schemas["Caller"]["properties"] = {"IdTenant": {"const": TENANT}, "IdApplication": {"const": APPLICATION}}
    schemas["Login"] = {"type": "object", "required": ["Username"], "properties": {"Username": name}}
    schemas["Party"]["properties"] |= {
        "PartyId": {"const": "OF-1001"},
        "LanguageId": {"enum": ["fr", "nl", "en", "de"]},
        "Email": {"type": "string", "pattern": "^[a-z]{1,9}@mail[.]example$"},
        "FirstName": name,
        "LastName": name,
        "BirthDate": {"enum": ["01082019", "29022000", "31121999"]},
    }
    schemas["Party"]["properties"]["Address"]["properties"] = {
        "Street": name,
        "ZipCode": name,
        "City": name,
        "CountryId": {"enum": ["BEL", "FRA", "NLD"]},
    }
    schemas["Record"]["properties"]["Services"]["maxItems"] = 1
    schemas["Service"]["properties"] |= {"ServiceId": name, "ActivationDate": {"const": "2026-06-01T12:00:00"}}
    return narrowed


knowing = schemathesis.openapi.from_dict(_narrowed())
knowing.config.generation.update(modes=[GenerationMode.POSITIVE])


def _complete(operation: str, body: dict[str, Any]) -> None:
    """Add what the one operation needs and the other refuses."""
    if operation == "Authenticate":
        body["Login"] = {"Username": "alice", "Password": ALICE.password}
    if operation == "Get":
        body["PartyId"] = "OF-1001"
    if operation == "Create":
        body["Party"].pop("PartyId", None)
        body["Party"] |= {"Version": 1, "Login": {"Username": "marc", "Password": "marc-counts-clicks"}}
    if operation == "Update":
        body["Party"] |= {"PartyId": "OF-1001", "Version": ALICE.record["Party"]["Version"]}


@knowing.parametrize()
@BOUNDED
def test_whoever_knows_the_rules_is_answered_as_the_file_says(
    case: schemathesis.Case[Any], url: str, http: requests.Session
) -> None:
    http.post(f"{url}/_sandbox/reset", timeout=20)
    operation = case.path.rpartition("/")[2]
    assert isinstance(case.body, dict)
    _complete(operation, case.body)

    response = case.call(base_url=url, session=http)

    anything[case.path][case.method].validate_response(response)
    assert response.status_code == (201 if operation == "Create" else 200), response.text
