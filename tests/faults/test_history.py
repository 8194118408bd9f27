"""The checker, on histories that were made up: it finds each fault that there can be, and none where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.history import CITY, EMAIL, History, Kind, Outcome, Submission, Verdict, judge

Json = dict[str, Any]

ACKNOWLEDGED, REFUSED, UNKNOWN = Outcome.ACKNOWLEDGED, Outcome.REFUSED, Outcome.UNKNOWN


class Openfield:
    """What Openfield did, as the sandbox tells it."""

    def __init__(self) -> None:
        self.changes: list[Json] = []
        self.records: dict[str, Json] = {}

    def apply(self, submission: Submission, *, party_id: str = "", **other: str) -> None:
        """Does what was submitted; `other` says what is not as it was sent."""
        known = party_id or f"OF-{submission.person}"
        before = self.records.get(known, {"Party": {"PartyId": known, "Version": 0}})["Party"]
        party: Json = {**before, "Version": before["Version"] + 1, "Login": {"Username": submission.person}}
        party["Address"] = {"City": submission.sent[CITY], **other}
        party["Email"] = submission.sent.get(EMAIL, before.get("Email"))
        self.records[known] = {"Party": party}
        operation = "Update" if "Email" in before else "Create"
        self.changes.append({"operation": operation, "record": {"Party": {**party}}})


@pytest.fixture
def history() -> History:
    """Nobody has done anything yet."""
    return History()


@pytest.fixture
def openfield() -> Openfield:
    """Openfield has nothing yet."""
    return Openfield()


def send(history: History, *heard: Outcome, kind: Kind = Kind.UPDATE, email: str = "") -> Submission:
    """Anna sends something; her first sends an e-mail address."""
    email = email or ("" if history.of("anna") else "anna@example.org")
    submission = history.begin("anna", kind, {EMAIL: email} if email else {})
    for outcome in heard:
        history.heard(submission, outcome)
    return submission


def verdict(history: History, openfield: Openfield, **outbox: Any) -> Verdict:
    return judge(history, parties=openfield.records.values(), changes=openfield.changes, **outbox)


def found(verdict: Verdict) -> set[str]:
    return {name for name, cases in verdict.faults.items() if cases}


def test_a_history_in_which_all_went_well_is_clean(history: History, openfield: Openfield) -> None:
    for number in range(3):
        openfield.apply(send(history, ACKNOWLEDGED, email=f"anna.{number}@example.org"))
    told = verdict(history, openfield)
    assert (told.is_clean, told.delivered, str(told)) == (True, 3, "clean")


def test_what_was_acknowledged_and_never_took_effect_is_lost(history: History, openfield: Openfield) -> None:
    send(history, UNKNOWN, ACKNOWLEDGED)
    assert found(verdict(history, openfield)) == {"lost"}


def test_a_newer_one_is_no_excuse_for_a_lost_one(history: History, openfield: Openfield) -> None:
    openfield.apply(send(history, ACKNOWLEDGED))
    send(history, ACKNOWLEDGED)
    openfield.apply(send(history, ACKNOWLEDGED))
    assert verdict(history, openfield).faults["lost"] == ["anna 2 (update, acknowledged, posted 1 times)"]


@pytest.mark.parametrize("applied", [True, False])
def test_what_nobody_was_told_about_may_have_taken_effect(
    history: History, openfield: Openfield, applied: bool
) -> None:
    openfield.apply(send(history, ACKNOWLEDGED))
    unknown = send(history, UNKNOWN, UNKNOWN, email="anna.2@example.org")
    if applied:
        openfield.apply(unknown)
    assert verdict(history, openfield).is_clean


@pytest.mark.parametrize("outcome", [ACKNOWLEDGED, UNKNOWN])
def test_what_took_effect_again_after_something_else_did_so_twice(
    history: History, openfield: Openfield, outcome: Outcome
) -> None:
    first = send(history, outcome)
    openfield.apply(first)
    openfield.apply(first, Street="a street that Openfield put there meanwhile")
    assert found(verdict(history, openfield)) == {"twice"}


def test_a_repetition_that_changes_nothing_is_harmless(history: History, openfield: Openfield) -> None:
    first = send(history, ACKNOWLEDGED)
    openfield.apply(first)
    openfield.apply(first)
    assert verdict(history, openfield).is_clean


def test_two_records_of_one_person_are_one_too_many(history: History, openfield: Openfield) -> None:
    first = send(history, ACKNOWLEDGED, kind=Kind.CREATE)
    openfield.apply(first)
    openfield.apply(first, party_id="OF-2")
    told = verdict(history, openfield)
    assert found(told) == {"created twice", "twice"}
    assert told.faults["created twice"] == ["anna is OF-anna, OF-2", "anna@example.org is OF-anna, OF-2"]


def test_an_older_one_after_a_newer_one_is_out_of_order(history: History, openfield: Openfield) -> None:
    submissions = [send(history, ACKNOWLEDGED) for _ in range(3)]
    for number in (0, 2, 1):
        openfield.apply(submissions[number])
    told = verdict(history, openfield)
    assert found(told) == {"out of order"}
    assert len(told.faults["out of order"]) == 2  # the order, and the city that is there in the end


def test_a_value_that_came_back_is_out_of_order(history: History, openfield: Openfield) -> None:
    openfield.apply(send(history, ACKNOWLEDGED, email="old@example.org"))
    openfield.apply(send(history, ACKNOWLEDGED, email="new@example.org"))
    openfield.apply(send(history, ACKNOWLEDGED))
    openfield.records["OF-anna"]["Party"]["Email"] = "old@example.org"
    told = verdict(history, openfield)
    assert found(told) == {"out of order"}


def test_a_value_of_an_unknown_one_may_stay_until_it_is_overwritten(history: History, openfield: Openfield) -> None:
    openfield.apply(send(history, ACKNOWLEDGED, email="old@example.org"))
    openfield.apply(send(history, UNKNOWN, email="new@example.org"))
    openfield.apply(send(history, ACKNOWLEDGED))
    assert verdict(history, openfield).is_clean


@pytest.mark.parametrize("person", ["anna", "nobody"])
def test_what_nobody_submitted_is_invented(history: History, openfield: Openfield, person: str) -> None:
    openfield.apply(send(history, ACKNOWLEDGED))
    openfield.apply(Submission(person, 2, Kind.UPDATE, {CITY: "another city", EMAIL: f"{person}@example.org"}))
    assert "invented" in found(verdict(history, openfield))


def test_a_mixture_of_two_submissions_is_invented(history: History, openfield: Openfield) -> None:
    first = send(history, ACKNOWLEDGED, email="one@example.org")
    second = send(history, ACKNOWLEDGED, email="two@example.org")
    openfield.apply(first)
    openfield.apply(Submission("anna", 2, Kind.UPDATE, {CITY: second.marker, EMAIL: "one@example.org"}))
    assert "invented" in found(verdict(history, openfield))


def test_a_value_of_nobodys_in_the_end_is_invented(history: History, openfield: Openfield) -> None:
    openfield.apply(send(history, ACKNOWLEDGED))
    openfield.records["OF-anna"]["Party"]["Email"] = "eve@example.org"
    assert found(verdict(history, openfield)) == {"invented"}


def test_what_was_refused_must_not_be_there(history: History, openfield: Openfield) -> None:
    openfield.apply(send(history, ACKNOWLEDGED))
    refused = send(history, UNKNOWN, REFUSED)
    assert verdict(history, openfield).is_clean
    openfield.apply(refused)
    assert "refused, but there" in found(verdict(history, openfield))


def test_one_post_must_not_be_answered_in_two_ways(history: History, openfield: Openfield) -> None:
    openfield.apply(send(history, ACKNOWLEDGED, REFUSED))
    assert found(verdict(history, openfield)) == {"contradicted"}


@pytest.mark.parametrize(("outbox", "fault"), [({"open": 2}, "open"), ({"buried": ["refused"]}, "buried")])
def test_the_outbox_must_be_empty_in_the_end(history: History, openfield: Openfield, outbox: Json, fault: str) -> None:
    assert found(verdict(history, openfield, **outbox)) == {fault}


def test_outcomes_are_counted_once_for_each_submission(history: History) -> None:
    for heard in ([ACKNOWLEDGED], [UNKNOWN, UNKNOWN, ACKNOWLEDGED], [UNKNOWN], [REFUSED, UNKNOWN]):
        send(history, *heard)
    assert [history.count(each) for each in (ACKNOWLEDGED, REFUSED, UNKNOWN)] == [2, 1, 1]
