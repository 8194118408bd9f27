"""The sandbox Openfield, over real HTTP: what it accepts, keeps, refuses and shows, and how it fails when told to."""

from __future__ import annotations

import http.client
import json
import socket
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from widget.openfield.sandbox import ALICE, BOB, CAROL, create_sandbox, serving

Json = dict[str, Any]

CALLER = {"IdTenant": "demo", "IdApplication": "campaigns"}
ALICES_LOGIN = {"Username": "alice", "Password": ALICE.password}
NEWSLETTER = {
    "ActivationDate": "2026-06-01T12:00:00",
    "ServiceId": "Newsletter",
    "ServiceStatus": True,
    "ServiceTypeId": "OPTINS",
}


def marc() -> Json:
    """The Party of a sign-up in which everything is right."""
    return {
        "PartyType": "Person",
        "Version": 1,
        "LanguageId": "fr",
        "Email": "marc@example.org",
        "Login": {"Username": "marc", "Password": "marc-counts-clicks"},
        "FirstName": "Marc",
        "LastName": "Dubois",
        "Gender": "H",
        "Civility": "M",
        "BirthDate": "29022000",
        "Address": {"Street": "Rue Basse 1", "ZipCode": "1000", "City": "Brussels", "CountryId": "BEL"},
    }


class Openfield:
    """A sandbox as its callers see it. Every call goes over HTTP, and bodies may be given as bytes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = urlsplit(url).hostname or "", urlsplit(url).port or 0
        self.http = requests.Session()
        self.http.trust_env = False

    def call(self, operation: str, body: Json | bytes, **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps({**CALLER, **body}).encode()
        told = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        return self.http.post(f"{self.url}/Party/{operation}", data, headers=told, timeout=20)

    def log_in(self, username: str, password: str | None) -> requests.Response:
        return self.call("Authenticate", {"Login": {"Username": username, "Password": password}})

    def order(self, method: str, what: str, body: Any = None) -> requests.Response:
        return self.http.request(method, f"{self.url}/_sandbox/{what}", json=body, timeout=20)

    def fault(self, kind: str, **details: Any) -> None:
        self.order("POST", "faults", {"kind": kind, **details}).raise_for_status()

    def calls(self) -> list[Json]:
        calls: list[Json] = self.order("GET", "calls").json()
        return calls

    def party(self, username: str) -> Json | None:
        records: list[Json] = self.order("GET", "parties").json()
        return next((each for each in records if each["Party"].get("Login", {}).get("Username") == username), None)

    def send(self, operation: str, body: Json) -> socket.socket:
        """The connection over which a call has been sent, and nothing been read."""
        data = json.dumps({**CALLER, **body}).encode()
        connection = socket.create_connection(self.address, timeout=20)
        connection.sendall(
            f"POST /Party/{operation} HTTP/1.1\r\nHost: sandbox\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        return connection


@pytest.fixture
def openfield() -> Iterator[Openfield]:
    with serving(create_sandbox()) as url:
        server = Openfield(url)
        yield server
        server.order("DELETE", "faults")
        server.http.close()


def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds, which must be soon."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


# Log-in


@pytest.mark.parametrize("name", ["alice", "alice@example.org", "ALICE@Example.ORG"])
def test_alice_logs_in_by_user_name_or_by_email_whatever_its_case(openfield: Openfield, name: str) -> None:
    response = openfield.log_in(name, ALICE.password)

    assert response.status_code == 200
    assert response.json()["Party"]["Email"] == "alice@example.org"


def test_a_log_in_gives_the_whole_record_with_its_numbers_as_they_are_written(openfield: Openfield) -> None:
    answer = openfield.log_in("alice", ALICE.password)

    assert answer.json() == json.loads(json.dumps(ALICE.record, default=float))
    assert '"LoyaltyFactor": 1.10' in answer.text
    assert '"Longitude": 4.3480' in answer.text
    assert "Password" not in answer.text


def test_a_user_name_counts_with_its_case(openfield: Openfield) -> None:
    assert openfield.log_in("Alice", ALICE.password).status_code == 401


def test_an_unknown_name_and_a_wrong_password_are_answered_alike(openfield: Openfield) -> None:
    unknown = openfield.log_in("eve", ALICE.password)
    wrong = openfield.log_in("alice", "alice-likes-pancakes")

    assert unknown.status_code == wrong.status_code == 401
    assert unknown.json() == wrong.json()
    assert wrong.json()["Code"] == "INVALID_CREDENTIALS"


def test_a_password_counts_byte_for_byte(openfield: Openfield) -> None:
    assert BOB.password is not None
    others = (BOB.password + " ", BOB.password.upper(), unicodedata.normalize("NFD", BOB.password), "")

    assert openfield.log_in("bob", BOB.password).status_code == 200
    assert [openfield.log_in("bob", other).status_code for other in others] == [401] * len(others)


def test_a_log_in_without_a_password_is_none(openfield: Openfield) -> None:
    assert openfield.call("Authenticate", {"Login": {"Username": "alice"}}).status_code == 401


def test_a_locked_account_says_so(openfield: Openfield) -> None:
    response = openfield.log_in("carol", CAROL.password)

    assert (response.status_code, response.json()["Code"]) == (423, "ACCOUNT_LOCKED")


@pytest.mark.parametrize("name", ["IdTenant", "IdApplication"])
@pytest.mark.parametrize("operation", ["Authenticate", "Get", "Create", "Update"])
def test_an_unknown_caller_is_refused_by_every_operation(openfield: Openfield, operation: str, name: str) -> None:
    body = {"Login": ALICES_LOGIN, "PartyId": "OF-1001", "Party": marc(), name: "another"}

    response = openfield.call(operation, body)

    assert (response.status_code, response.json()["Code"]) == (403, "UNKNOWN_CALLER")
    assert list(response.json()["Fields"]) == [name]


# Get


def test_a_record_can_be_read_again(openfield: Openfield) -> None:
    assert openfield.call("Get", {"PartyId": "OF-1001"}).json() == openfield.log_in("alice", ALICE.password).json()


def test_an_unknown_person_cannot_be_read(openfield: Openfield) -> None:
    response = openfield.call("Get", {"PartyId": "OF-9"})

    assert (response.status_code, response.json()["Code"]) == (404, "UNKNOWN_PARTY")


# Create


def test_whoever_is_created_stands_at_version_1_and_can_log_in(openfield: Openfield) -> None:
    response = openfield.call("Create", {"Party": marc(), "Services": [NEWSLETTER]})

    assert response.status_code == 201
    assert response.json()["Version"] == 1
    record = openfield.log_in("marc", "marc-counts-clicks").json()
    assert record["Party"]["PartyId"] == response.json()["PartyId"]
    assert record["Party"]["Login"] == {"Username": "marc"}
    assert record["Services"] == [NEWSLETTER]


def test_what_only_the_sender_knows_is_kept_and_given_back(openfield: Openfield) -> None:
    text = json.dumps({**CALLER, "Party": {**marc(), "Score": "?", "Address": {"Floor": [{"At": None}]}}})
    openfield.call("Create", text.replace('"?"', "1.10e2").encode())

    answer = openfield.log_in("marc", "marc-counts-clicks")

    assert '"Score": 1.10e2' in answer.text
    assert answer.json()["Party"]["Address"] == {"Floor": [{"At": None}]}


def test_an_email_or_user_name_of_somebody_else_is_named(openfield: Openfield) -> None:
    same_email = openfield.call("Create", {"Party": {**marc(), "Email": "ALICE@example.org"}})
    both = openfield.call("Create", {"Party": {**marc(), "Email": "alice@example.org", "Login": ALICES_LOGIN}})

    assert same_email.status_code == both.status_code == 409
    assert same_email.json()["Code"] == "PARTY_EXISTS"
    assert set(same_email.json()["Fields"]) == {"Party.Email"}
    assert set(both.json()["Fields"]) == {"Party.Email", "Party.Login.Username"}


def test_a_person_may_be_created_without_an_account(openfield: Openfield) -> None:
    party = {name: value for name, value in marc().items() if name != "Login"}

    assert openfield.call("Create", {"Party": party}).status_code == 201
    assert openfield.log_in("marc@example.org", "").status_code == 401


def _with(place: str, value: Any) -> Json:
    """A Create that is right but for one value, at a dotted path."""
    body: Json = {"Party": marc(), "Services": [dict(NEWSLETTER)]}
    *path, last = place.split(".")
    part: Any = body
    for step in path:
        part = part[int(step)] if step.isdecimal() else part[step]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return body


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("Party.PartyType", "Company"),
        ("Party.PartyType", None),
        ("Party.Version", None),
        ("Party.Version", 0),
        ("Party.Version", 2),
        ("Party.Version", "1"),
        ("Party.Version", True),
        ("Party.PartyId", "OF-1"),
        ("Party.LanguageId", None),
        ("Party.LanguageId", ""),
        ("Party.LanguageId", "FR"),
        ("Party.Email", ""),
        ("Party.Email", "marc"),
        ("Party.Email", ["marc@example.org"]),
        ("Party.Login.Username", ""),
        ("Party.Login.Username", None),
        ("Party.Login.Password", ""),
        ("Party.Login.Password", None),
        ("Party.FirstName", " "),
        ("Party.LastName", False),
        ("Party.Gender", "h"),
        ("Party.Gender", "X"),
        ("Party.Gender", ""),
        ("Party.Gender", "H\n"),
        ("Party.Gender", ["H", "F"]),
        ("Party.Civility", "m"),
        ("Party.Civility", "Mme"),
        ("Party.Civility", "MR"),
        ("Party.BirthDate", "2000-02-29"),
        ("Party.BirthDate", "31022000"),
        ("Party.BirthDate", "29021900"),
        ("Party.BirthDate", "02292000"),
        ("Party.BirthDate", "01010000"),
        ("Party.BirthDate", "01082019\n"),
        ("Party.BirthDate", "٠١٠٨٢٠١٩"),
        ("Party.BirthDate", 10820190),
        ("Party.Address.CountryId", "BE"),
        ("Party.Address.CountryId", "bel"),
        ("Party.Address.CountryId", "XXX"),
        ("Party.Address.CountryId", "BEL\n"),
        ("Party.Address.ZipCode", 1000),
        ("Party.Address.City", ""),
        ("Party.Address.Street", ""),
        ("Services.0.ServiceStatus", False),
        ("Services.0.ServiceStatus", 1),
        ("Services.0.ServiceStatus", "true"),
        ("Services.0.ServiceTypeId", "optins"),
        ("Services.0.ServiceId", ""),
        ("Services.0.ServiceId", None),
        ("Services.0.ActivationDate", None),
        ("Services.0.ActivationDate", "2026-06-01T12:00:00Z"),
        ("Services.0.ActivationDate", "2026-06-01 12:00:00"),
        ("Services.0.ActivationDate", "2026-06-31T12:00:00"),
        ("Services.0.ActivationDate", "٢٠٢٦-06-01T12:00:00"),
        ("Services.0.ActivationDate", "2026-06-01T25:00:00"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_nothing_is_kept(
    openfield: Openfield, place: str, value: Any
) -> None:
    response = openfield.call("Create", _with(place, value))

    assert (response.status_code, response.json()["Code"]) == (422, "INVALID_PARTY")
    assert list(response.json()["Fields"]) == [place]
    assert len(openfield.order("GET", "parties").json()) == 3
    assert openfield.calls()[-1]["reason"].startswith(f"{place} ")


def test_a_version_of_1_point_0_is_the_integer_that_json_schema_says_it_is(openfield: Openfield) -> None:
    assert openfield.call("Create", {"Party": {**marc(), "Version": 1.0}}).json()["Version"] == 1
    assert openfield.call("Create", {"Party": {**marc(), "Version": 1.5}}).status_code == 422


def test_every_wrong_value_is_named_at_once(openfield: Openfield) -> None:
    party = {**marc(), "Gender": "h", "Civility": "m", "Address": {"CountryId": "Belgium"}}

    fields = openfield.call("Create", {"Party": party, "Services": [{}]}).json()["Fields"]

    service = {f"Services.0.{name}" for name in NEWSLETTER}
    assert set(fields) == {"Party.Gender", "Party.Civility", "Party.Address.CountryId", *service}


def test_an_optin_that_is_there_twice_is_refused(openfield: Openfield) -> None:
    response = openfield.call("Create", {"Party": marc(), "Services": [NEWSLETTER, NEWSLETTER]})

    assert response.json()["Fields"] == {"Services.1.ServiceId": "is there twice"}


# Update


def test_an_update_overwrites_the_whole_record_but_for_the_password(openfield: Openfield) -> None:
    bare = {
        "PartyId": "OF-1001",
        "PartyType": "Person",
        "Version": 7,
        "LanguageId": "nl",
        "Login": {"Username": "alice"},
    }

    response = openfield.call("Update", {"Party": bare})

    assert (response.status_code, response.json()) == (200, {"PartyId": "OF-1001", "Version": 8})
    assert openfield.log_in("alice", ALICE.password).json()["Party"] == {**bare, "Version": 8}
    assert openfield.log_in("alice@example.org", ALICE.password).status_code == 401


def test_a_record_that_is_given_back_is_the_same_but_for_its_version(openfield: Openfield) -> None:
    read = openfield.log_in("alice", ALICE.password).text
    sent = read.replace('{"Party"', '{"IdTenant": "demo", "IdApplication": "campaigns", "Party"', 1)

    assert openfield.call("Update", sent.encode()).status_code == 200

    assert openfield.log_in("alice", ALICE.password).text == read.replace('"Version": 7', '"Version": 8')


def test_a_record_that_was_read_too_long_ago_is_a_conflict(openfield: Openfield) -> None:
    party = openfield.log_in("alice", ALICE.password).json()["Party"]
    openfield.call("Update", {"Party": party})

    response = openfield.call("Update", {"Party": {**party, "FirstName": "Alicia"}})

    assert (response.status_code, response.json()["Code"]) == (409, "VERSION_CONFLICT")
    assert openfield.log_in("alice", ALICE.password).json()["Party"]["FirstName"] == "Alice"


def test_an_unknown_person_cannot_be_updated(openfield: Openfield) -> None:
    party = {"PartyId": "OF-9", "PartyType": "Person", "Version": 7, "LanguageId": "fr"}

    response = openfield.call("Update", {"Party": party})

    assert (response.status_code, response.json()["Code"]) == (404, "UNKNOWN_PARTY")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"PartyId": None}, "Party.PartyId"),
        ({"Login": ALICES_LOGIN}, "Party.Login.Password"),
        ({"Email": ""}, "Party.Email"),
        ({"BirthDate": "31022000"}, "Party.BirthDate"),
        ({"Gender": "f"}, "Party.Gender"),
    ],
)
def test_an_update_is_judged_too(openfield: Openfield, change: Json, place: str) -> None:
    party = openfield.log_in("alice", ALICE.password).json()["Party"] | change

    response = openfield.call("Update", {"Party": {name: value for name, value in party.items() if value is not None}})

    assert (response.status_code, list(response.json()["Fields"])) == (422, [place])


def test_an_update_cannot_take_somebody_elses_email(openfield: Openfield) -> None:
    party = openfield.log_in("alice", ALICE.password).json()["Party"]

    response = openfield.call("Update", {"Party": {**party, "Email": "Bob@example.org"}})

    assert (response.status_code, list(response.json()["Fields"])) == (409, ["Party.Email"])


def test_a_name_that_was_given_up_is_free(openfield: Openfield) -> None:
    party = openfield.log_in("alice", ALICE.password).json()["Party"]
    openfield.call("Update", {"Party": {**party, "Email": "alicia@example.org"}})

    assert openfield.call("Create", {"Party": {**marc(), "Email": "alice@example.org"}}).status_code == 201


def test_subscriptions_are_added_to_and_refreshed_and_never_lost(openfield: Openfield) -> None:
    def update(**services: Any) -> list[Json]:
        record = openfield.call("Get", {"PartyId": "OF-1001"}).json()
        openfield.call("Update", {"Party": record["Party"], **services}).raise_for_status()
        kept: list[Json] = openfield.call("Get", {"PartyId": "OF-1001"}).json()["Services"]
        return kept

    magazine = ALICE.record["Services"][0]
    again = {**NEWSLETTER, "ActivationDate": "2026-07-01T00:00:00"}

    assert update() == [magazine]
    assert update(Services=[NEWSLETTER]) == [magazine, NEWSLETTER]
    assert update(Services=[again]) == [magazine, again]
    assert update(Services=[]) == [magazine, again]


def test_what_only_openfield_knows_of_a_subscription_stays_when_it_is_refreshed(openfield: Openfield) -> None:
    party = {"Login": {"Username": "eve", "Password": "eve"}}
    old = {**NEWSLETTER, "ActivationDate": "2020-01-01T00:00:00", "Channel": "email"}
    openfield.order("POST", "people", {"Party": party, "Services": [old]}).raise_for_status()
    read = openfield.log_in("eve", "eve").json()["Party"]

    openfield.call("Update", {"Party": read, "Services": [NEWSLETTER]}).raise_for_status()

    assert openfield.log_in("eve", "eve").json()["Services"] == [{**NEWSLETTER, "Channel": "email"}]


def test_an_old_value_that_breaks_a_rule_may_come_back_but_not_one_that_breaks_the_protocol(
    openfield: Openfield,
) -> None:
    party = openfield.log_in("bob", BOB.password).json()["Party"]

    as_it_is = openfield.call("Update", {"Party": party})
    mended = openfield.call("Update", {"Party": {**party, "Gender": "H", "Civility": "M", "Address": {}}})

    assert set(as_it_is.json()["Fields"]) == {"Party.Gender", "Party.Civility", "Party.Address.CountryId"}
    assert mended.status_code == 200
    assert openfield.log_in("bob", BOB.password).json()["Party"]["BirthDate"] == "31022000"


# Idempotency-Key


def test_the_same_key_gets_the_first_answer_and_does_nothing_twice(openfield: Openfield) -> None:
    first = openfield.call("Create", {"Party": marc()}, Idempotency_Key="one")
    again = openfield.call("Create", {"Party": marc()}, Idempotency_Key="one")

    assert (again.status_code, again.json()) == (first.status_code, first.json()) == (201, first.json())
    assert [call["repeated"] for call in openfield.calls()] == [False, True]
    assert openfield.call("Create", {"Party": marc()}, Idempotency_Key="two").status_code == 409


def test_a_refusal_is_not_remembered_under_its_key(openfield: Openfield) -> None:
    party = openfield.log_in("alice", ALICE.password).json()["Party"]

    stale = openfield.call("Update", {"Party": {**party, "Version": 6}}, Idempotency_Key="one")
    read_again = openfield.call("Update", {"Party": party}, Idempotency_Key="one")

    assert (stale.status_code, read_again.status_code) == (409, 200)


def test_a_key_counts_for_one_operation(openfield: Openfield) -> None:
    stored = openfield.call("Create", {"Party": marc()}, Idempotency_Key="one").json()
    party = {**openfield.call("Get", {"PartyId": stored["PartyId"]}).json()["Party"], "FirstName": "Marcel"}

    assert openfield.call("Update", {"Party": party}, Idempotency_Key="one").json()["Version"] == 2


def test_a_sandbox_may_take_no_notice_of_the_key() -> None:
    with serving(create_sandbox(ignore_idempotency=True)) as url:
        openfield = Openfield(url)
        answers = [openfield.call("Create", {"Party": marc()}, Idempotency_Key="one").status_code for _ in range(2)]
        openfield.http.close()

    assert answers == [201, 409]


def test_of_many_calls_at_once_one_creates_and_one_updates(openfield: Openfield) -> None:
    party = openfield.log_in("alice", ALICE.password).json()["Party"]

    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda _: openfield.call("Create", {"Party": marc()}).status_code, range(16)))
        updated = list(pool.map(lambda _: openfield.call("Update", {"Party": party}).status_code, range(16)))

    assert sorted(created) == [201] + [409] * 15
    assert sorted(updated) == [200] + [409] * 15


def test_each_change_is_listed_with_the_record_as_it_stood_and_a_repeat_is_none(openfield: Openfield) -> None:
    stored = openfield.call("Create", {"Party": marc()}, Idempotency_Key="one").json()
    openfield.call("Create", {"Party": marc()}, Idempotency_Key="one")
    openfield.call("Create", {"Party": marc()}, Idempotency_Key="two")
    party = {**openfield.call("Get", {"PartyId": stored["PartyId"]}).json()["Party"], "FirstName": "Marcel"}
    openfield.call("Update", {"Party": party})
    openfield.call("Update", {"Party": party})

    changes = openfield.order("GET", "changes").json()

    assert [change["operation"] for change in changes] == ["Create", "Update"]
    assert [change["record"]["Party"]["FirstName"] for change in changes] == ["Marc", "Marcel"]
    assert "marc-counts-clicks" not in str(changes)


# What is not even a request


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"IdTenant=demo",
        b'{"IdTenant": "demo",}',
        b'{"IdTenant": "demo", "IdTenant": "demo"}',
        b'{"IdTenant": NaN}',
        b'{"IdTenant": 1e99999999999999999999}',
        b'{"IdTenant": "\\ud800"}',
        b'{"IdTenant": "\xe9"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b"[" * 65 + b"]" * 65,
    ],
)
def test_what_is_not_sound_json_is_refused(openfield: Openfield, body: bytes) -> None:
    response = openfield.call("Authenticate", body)

    assert (response.status_code, response.json()["Code"]) == (400, "MALFORMED_REQUEST")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_only_json_in_utf8_is_read(openfield: Openfield, content_type: str) -> None:
    response = openfield.call("Authenticate", {"Login": ALICES_LOGIN}, Content_Type=content_type)

    assert (response.status_code, response.json()["Code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"alice"', b"1"])
def test_a_body_that_is_no_object_is_refused(openfield: Openfield, body: bytes) -> None:
    assert openfield.call("Get", body).json()["Fields"] == {"(body)": "must be of type object"}


def test_a_path_of_no_operation_is_refused_and_seen(openfield: Openfield) -> None:
    response = openfield.http.post(f"{openfield.url}/Party/Authentificate", json={}, timeout=20)

    assert (response.status_code, response.json()["Code"]) == (404, "NOT_FOUND")
    assert openfield.calls()[-1]["operation"] == "POST /Party/Authentificate"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_an_operation_is_for_post_alone(openfield: Openfield, method: str) -> None:
    response = openfield.http.request(method, f"{openfield.url}/Party/Create", timeout=20)

    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


def test_a_body_of_more_than_a_mebibyte_is_refused(openfield: Openfield) -> None:
    response = openfield.call("Create", {"Party": {**marc(), "Padding": "x" * (1 << 20)}})

    assert response.status_code == 413
    assert openfield.calls()[-1]["status"] == 413


# What is seen


def test_a_call_is_listed_with_its_request_and_answer_and_no_password(openfield: Openfield) -> None:
    openfield.call("Create", {"Party": {**marc(), "Deep": [{"password": "hidden-too"}]}}, Idempotency_Key="one")

    call = openfield.calls()[-1]

    assert (call["operation"], call["status"], call["idempotency_key"]) == ("Create", 201, "one")
    assert call["request"]["Party"]["Login"] == {"Username": "marc", "Password": "•••"}
    assert call["request"]["Party"]["Deep"] == [{"password": "•••"}]
    assert call["response"]["Version"] == 1
    assert call["received_at"].endswith("+00:00")


def test_as_many_calls_are_remembered_as_it_is_told() -> None:
    with serving(create_sandbox(keep_calls=2)) as url:
        openfield = Openfield(url)
        for name in ("alice", "bob", "carol"):
            openfield.log_in(name, "wrong")
        calls = openfield.calls()
        openfield.http.close()

    assert [call["request"]["Login"]["Username"] for call in calls] == ["bob", "carol"]


def test_nothing_is_kept_of_a_body_that_is_no_json(openfield: Openfield) -> None:
    openfield.call("Authenticate", b'{"Login": {"Password": "canary-in-a-mine" oops')

    assert openfield.calls()[-1]["request"] is None
    assert "canary" not in openfield.order("GET", "calls").text
    assert "canary" not in openfield.http.get(openfield.url, timeout=20).text


def test_no_refusal_quotes_a_password(openfield: Openfield) -> None:
    party = {**marc(), "Login": {"Username": 1, "Password": ["canary-in-a-mine"]}}

    assert "canary" not in openfield.call("Create", {"Party": party}).text


def test_the_page_shows_records_calls_and_reasons(openfield: Openfield) -> None:
    openfield.call("Create", {"Party": {**marc(), "Gender": "h"}})
    openfield.call("Create", {"Party": {**marc(), "Nickname": "<script>alert(1)</script>"}})

    page = openfield.http.get(openfield.url, timeout=20)

    assert "LoyaltyTier" in page.text
    assert "1.10" in page.text
    assert "Party.Gender must be one of H, F" in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "<script" not in page.text
    for person in (ALICE, BOB, CAROL):
        assert person.password is not None
        assert person.password not in page.text
    assert "marc-counts-clicks" not in page.text


def test_a_password_that_strayed_into_a_record_is_not_shown(openfield: Openfield) -> None:
    openfield.call("Create", {"Party": {**marc(), "Password": "canary-in-a-mine"}}).raise_for_status()

    assert "canary" not in openfield.http.get(openfield.url, timeout=20).text
    assert "canary" not in openfield.order("GET", "parties").text


def test_the_page_has_a_strict_policy_and_a_style_sheet_of_its_own(openfield: Openfield) -> None:
    page = openfield.http.get(f"{openfield.url}/?live", timeout=20)

    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self';")
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert '<meta http-equiv="refresh" content="3">' in page.text
    assert openfield.http.get(f"{openfield.url}/_sandbox/static/sandbox.css", timeout=20).status_code == 200


def test_the_pages_buttons_set_and_clear_faults_and_start_afresh(openfield: Openfield) -> None:
    form = {"kind": "status", "operation": "Get", "times": "", "seconds": "", "status": "500", "retry_after": "7"}
    page = openfield.http.post(f"{openfield.url}/_sandbox/page/fault", form, timeout=20)

    (fault,) = openfield.order("GET", "faults").json()
    assert page.status_code == 200
    assert "until cleared" in page.text
    assert (fault["operation"], fault["times"], fault["status"], fault["retry_after"]) == ("Get", None, 500, "7")

    openfield.http.post(f"{openfield.url}/_sandbox/page/clear", timeout=20)
    assert openfield.order("GET", "faults").json() == []

    openfield.call("Create", {"Party": marc()})
    openfield.http.post(f"{openfield.url}/_sandbox/page/reset", timeout=20)
    assert openfield.party("marc") is None
    assert openfield.calls() == []


def test_a_page_elsewhere_cannot_press_the_buttons(openfield: Openfield) -> None:
    response = openfield.http.post(
        f"{openfield.url}/_sandbox/reset", headers={"Sec-Fetch-Site": "cross-site"}, timeout=20
    )

    assert response.status_code == 403


# People


def test_a_person_can_be_added_unjudged_and_logs_in(openfield: Openfield) -> None:
    party = {"Login": {"Username": "eve", "Password": "eve"}, "Gender": "X", "Email": "eve@example.org"}

    response = openfield.order("POST", "people", {"Party": party, "Services": [{"ServiceId": "Old"}]})

    assert response.status_code == 201
    record = openfield.log_in("eve", "eve").json()
    assert (record["Party"]["Gender"], record["Services"]) == ("X", [{"ServiceId": "Old"}])


def test_a_person_who_is_added_again_has_the_new_record_and_the_old_password(openfield: Openfield) -> None:
    party = {"PartyId": "OF-1001", "Version": 12, "Login": {"Username": "alice"}}

    openfield.order("POST", "people", {"Party": party}).raise_for_status()

    assert openfield.log_in("alice", ALICE.password).json()["Party"]["Version"] == 12


def test_an_account_can_be_locked_and_unlocked(openfield: Openfield) -> None:
    openfield.order("POST", "lock", {"username": "alice"}).raise_for_status()
    locked = openfield.log_in("alice", ALICE.password).status_code
    openfield.order("POST", "lock", {"username": "alice", "locked": False}).raise_for_status()

    assert (locked, openfield.log_in("alice", ALICE.password).status_code) == (423, 200)
    assert openfield.order("POST", "lock", {"username": "nobody"}).status_code == 404


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("faults", {}),
        ("faults", {"kind": "typo"}),
        ("faults", {"kind": "reset", "operation": "Delete"}),
        ("faults", {"kind": "reset", "times": 0}),
        ("faults", {"kind": "delay", "seconds": 86400}),
        ("faults", {"kind": "reset", "tmies": 2}),
        ("faults", {"kind": "reset", "chance": -0.1}),
        ("faults", {"kind": "reset", "chance": 2}),
        ("people", {"Login": {"Username": "eve"}}),
        ("people", {"Party": {"Login": {"Username": "eve", "Password": 1}}}),
        ("lock", {}),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(openfield: Openfield, what: str, body: Json) -> None:
    response = openfield.order("POST", what, body)

    assert response.status_code == 422
    assert response.json()["Fields"]


# The record file


def test_records_and_answers_outlive_the_process_that_has_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.json"
    with serving(create_sandbox(record_file=file)) as url:
        openfield = Openfield(url)
        first = openfield.call("Create", {"Party": marc()}, Idempotency_Key="one")
        openfield.order("POST", "lock", {"username": "bob"})
        openfield.http.close()

    with serving(create_sandbox(record_file=file)) as url:
        openfield = Openfield(url)
        assert openfield.log_in("marc", "marc-counts-clicks").status_code == 200
        assert '"LoyaltyFactor": 1.10' in openfield.log_in("alice", ALICE.password).text
        assert openfield.log_in("bob", BOB.password).status_code == 423
        assert openfield.call("Create", {"Party": marc()}, Idempotency_Key="one").json() == first.json()
        openfield.order("POST", "reset")
        openfield.http.close()

    with serving(create_sandbox(record_file=file)) as url:
        openfield = Openfield(url)
        assert openfield.party("marc") is None
        openfield.http.close()


def test_what_was_cut_short_in_the_file_is_dropped_and_the_rest_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.json"
    with serving(create_sandbox(record_file=file)) as url:
        openfield = Openfield(url)
        openfield.call("Create", {"Party": marc()}, Idempotency_Key="one")
        openfield.http.close()
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[-1][:50])

    with serving(create_sandbox(record_file=file)) as url:
        openfield = Openfield(url)
        assert openfield.party("marc")
        assert [change["operation"] for change in openfield.order("GET", "changes").json()] == ["Create"]
        openfield.http.close()
    assert file.read_bytes() == whole


def test_the_record_file_is_its_owners_alone_and_holds_no_password(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.json"
    with serving(create_sandbox(record_file=file)) as url:
        openfield = Openfield(url)
        openfield.call("Create", {"Party": marc()})
        openfield.http.close()

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "marc-counts-clicks" not in file.read_text(encoding="utf-8")
    assert "marc@example.org" in file.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"parties": [{"name": "x"}], "answers": {}}'])
def test_a_file_that_is_no_record_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(ValueError, match=r"other\.json is not a sandbox's record file"):
        create_sandbox(record_file=file)


# Faults


def test_a_status_comes_with_what_it_was_told_to_say(openfield: Openfield) -> None:
    openfield.fault("status", status=429, retry_after=5)
    openfield.fault("status", status=302, location="http://127.0.0.1:9/")

    busy = openfield.call("Create", {"Party": marc()})
    moved = openfield.http.post(f"{openfield.url}/Party/Create", json={}, allow_redirects=False, timeout=20)

    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "5")
    assert busy.json()["Code"] == "TOO_MANY_REQUESTS"
    assert (moved.status_code, moved.headers["Location"]) == (302, "http://127.0.0.1:9/")
    assert openfield.party("marc") is None
    assert [call["fault"] for call in openfield.calls()] == ["status", "status"]


def test_faults_meet_the_calls_that_they_are_for_as_often_as_they_are_told(openfield: Openfield) -> None:
    openfield.fault("status", status=500, operation="Get", times=2)
    openfield.fault("status", status=503, times=None)

    got = [openfield.call("Get", {"PartyId": "OF-1001"}).status_code for _ in range(3)]
    logged_in = openfield.log_in("alice", ALICE.password).status_code
    openfield.order("DELETE", "faults")

    assert (got, logged_in) == ([500, 500, 503], 503)
    assert openfield.log_in("alice", ALICE.password).status_code == 200


def test_faults_with_a_chance_meet_some_of_the_calls_and_with_a_seed_always_the_same(openfield: Openfield) -> None:
    runs = []
    for _ in range(2):
        openfield.fault("status", status=500, chance=0.3, seed=7, times=None)
        openfield.fault("status", status=503, chance=0.3, seed=8, times=None)
        runs.append([openfield.call("Get", {"PartyId": "OF-1001"}).status_code for _ in range(60)])
        openfield.order("DELETE", "faults")

    assert runs[0] == runs[1]
    shares = [runs[0].count(status) / 60 for status in (500, 503, 200)]
    assert shares == pytest.approx([0.3, 0.21, 0.49], abs=0.15)


def test_a_status_may_come_after_the_deed(openfield: Openfield) -> None:
    openfield.fault("apply_then_status", status=500)

    assert openfield.call("Create", {"Party": marc()}).status_code == 500
    assert openfield.party("marc")
    assert openfield.calls()[-1]["status"] == 201


def test_an_unknown_tenant_and_a_locked_account_can_be_feigned(openfield: Openfield) -> None:
    openfield.fault("unknown_tenant")
    openfield.fault("lock")

    answers = [openfield.log_in("alice", ALICE.password), openfield.call("Get", {"PartyId": "OF-1001"})]
    answers.append(openfield.log_in("alice", ALICE.password))

    assert [answer.status_code for answer in answers] == [403, 200, 423]
    assert [answer.json().get("Code") for answer in answers] == ["UNKNOWN_CALLER", None, "ACCOUNT_LOCKED"]


def test_garbage_is_a_page_that_says_200(openfield: Openfield) -> None:
    openfield.fault("garbage")

    response = openfield.call("Create", {"Party": marc()})

    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert openfield.party("marc") is None


def test_a_delay_holds_a_call_until_it_is_cleared_while_others_go_on(openfield: Openfield) -> None:
    openfield.fault("delay", seconds=3600, operation="Create")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(openfield.call, "Create", {"Party": marc()})
        until(lambda: bool(openfield.calls()))
        assert openfield.calls()[0]["status"] is None
        assert openfield.log_in("alice", ALICE.password).status_code == 200
        assert openfield.party("marc") is None
        openfield.order("DELETE", "faults")
        assert waiting.result(20).status_code == 201


def test_a_delay_is_as_long_as_it_is_told(openfield: Openfield) -> None:
    openfield.fault("delay", seconds=0.2)

    began = time.monotonic()
    response = openfield.log_in("alice", ALICE.password)

    assert response.status_code == 200
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(("kind", "applied"), [("reset", False), ("apply_then_drop", True)])
def test_a_reset_is_one_of_tcp_before_a_byte_is_answered(openfield: Openfield, kind: str, applied: bool) -> None:
    openfield.fault(kind)

    with openfield.send("Create", {"Party": marc()}) as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)

    assert (openfield.party("marc") is not None) is applied
    assert openfield.calls()[-1]["status"] == (201 if applied else None)


def test_a_lost_reply_is_given_again_to_the_same_key(openfield: Openfield) -> None:
    openfield.fault("apply_then_drop")
    with pytest.raises(requests.ConnectionError):
        openfield.call("Create", {"Party": marc()}, Idempotency_Key="one")

    assert openfield.call("Create", {"Party": marc()}, Idempotency_Key="one").status_code == 201


def test_a_reset_in_the_middle_comes_after_half_of_what_was_promised(openfield: Openfield) -> None:
    openfield.fault("reset_mid_body")

    with openfield.send("Create", {"Party": marc()}) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        promised = response.length or 0
        half = response.read(promised // 2)
        with pytest.raises(ConnectionResetError):
            response.read(1)
        response.close()

    assert half.startswith(b'{"PartyId": "')
    assert openfield.party("marc") is not None


def test_truncated_json_is_a_whole_answer_with_half_of_the_json(openfield: Openfield) -> None:
    openfield.fault("truncated")

    response = openfield.log_in("alice", ALICE.password)

    assert response.status_code == 200
    assert response.text.startswith('{"Party": {')
    with pytest.raises(requests.JSONDecodeError):
        response.json()


def test_wrong_types_are_numbers_for_texts_and_texts_for_numbers(openfield: Openfield) -> None:
    openfield.fault("wrong_types", times=2)

    party = openfield.log_in("alice", ALICE.password).json()["Party"]
    stored = openfield.call("Create", {"Party": marc()})

    assert (party["Version"], party["Gender"], party["Login"]["TwoStep"]) == ("7", 1, "False")
    assert party["Preferences"]["Topics"] == {}
    assert (stored.status_code, stored.json()["Version"]) == (201, "1")
    assert isinstance(stored.json()["PartyId"], int)


def test_a_dripping_answer_comes_byte_by_byte_until_it_is_cleared(openfield: Openfield) -> None:
    openfield.fault("drip", seconds=3600)

    with openfield.send("Get", {"PartyId": "OF-1001"}) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.read1(100) == b"{"
        openfield.order("DELETE", "faults")
        assert json.loads(b"{" + response.read())["Party"]["Version"] == 7
        response.close()


def test_an_endless_answer_goes_on_as_long_as_it_is_read(openfield: Openfield) -> None:
    openfield.fault("endless", times=None)

    with openfield.send("Create", {"Party": marc()}) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 201
        assert len(response.read(5_000_000)) == 5_000_000
        response.close()

    assert openfield.party("marc") is not None
