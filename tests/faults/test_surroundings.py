"""Openfield fails, the queue is emptied, PostgreSQL goes, keys and settings change: what waits arrives, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.faults.history import History, Outcome, Submission
from tests.faults.people import Person
from tests.faults.stage import Stage
from tests.processes import wait_until

Come = Callable[[str], Person]
Check = Callable[[], None]

FAILURES: list[Mapping[str, Any]] = [
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 503, "retry_after": 1},
    {"kind": "status", "status": 429, "retry_after": 1},
    {"kind": "apply_then_status", "status": 502},
    {"kind": "apply_then_drop"},
    {"kind": "reset"},
    {"kind": "reset_mid_body"},
    {"kind": "truncated"},
    {"kind": "wrong_types"},
    {"kind": "garbage"},
    {"kind": "drip", "seconds": 1},
    {"kind": "endless"},
    {"kind": "delay", "seconds": 3600},
]
"""Each way in which Openfield's answer to a call can fail to be one."""


def thanked(submission: Submission | None) -> bool:
    return submission is not None and submission.outcome is Outcome.ACKNOWLEDGED


def _has_thanked(history: History, number: int) -> bool:
    return history.count(Outcome.ACKNOWLEDGED) >= number


@pytest.mark.parametrize("fault", ["apply_then_drop", "delay"])
def test_an_update_that_was_done_but_not_answered_stays_done_and_the_next_one_comes_after_it(
    stage: Stage, person: Come, all_arrives: Check, fault: str
) -> None:
    anna = person("anna")
    anna.sign_up()
    wait_until(anna.can_log_in)
    stage.openfield.fault(fault, "Update", seconds=3600)
    assert thanked(anna.come_back(new_email=True))
    assert thanked(anna.come_back())
    assert thanked(anna.come_back(new_email=True))
    stage.let_time_pass()
    all_arrives()
    stage.openfield.clear_faults()
    wait_until(lambda: all(call["status"] for call in stage.openfield.calls()))
    all_arrives()


def test_whatever_openfield_answers_people_are_thanked_and_arrive_once(
    stage: Stage, person: Come, all_arrives: Check
) -> None:
    for fault in FAILURES:
        stage.openfield.fault(**fault, operation="Create")
    people = [person(f"anna{number}") for number in range(len(FAILURES))]
    with ThreadPoolExecutor(len(people)) as crowd:
        assert all(thanked(each) for each in crowd.map(Person.sign_up, people))
    stage.openfield.clear_faults()
    stage.let_time_pass()
    all_arrives()
    assert len(stage.openfield.changes()) == len(people)


def test_hundreds_that_wait_arrive_when_openfield_is_back(stage: Stage, person: Come, all_arrives: Check) -> None:
    stage.sandbox.kill()
    people = [person(f"anna{number}") for number in range(100)]
    with ThreadPoolExecutor(16) as crowd:
        assert all(thanked(each) for each in crowd.map(Person.sign_up, people))
    assert stage.deliveries() == {"waiting": 100}
    stage.mend()
    stage.let_time_pass()
    all_arrives()


def test_the_queue_is_emptied(stage: Stage, person: Come, all_arrives: Check) -> None:
    stage.sandbox.kill()
    for number in range(10):
        assert thanked(person(f"anna{number}").sign_up())
    stage.change("TRUNCATE procrastinate_jobs, procrastinate_workers, procrastinate_periodic_defers CASCADE")
    stage.mend()
    stage.let_time_pass()
    all_arrives()


def test_postgresql_is_killed_while_people_take_part(
    stage: Stage, history: History, person: Come, all_arrives: Check
) -> None:
    people = [person(f"anna{number}") for number in range(24)]
    with ThreadPoolExecutor(8) as crowd:
        posts = [crowd.submit(each.sign_up) for each in people]
        wait_until(lambda: history.count(Outcome.ACKNOWLEDGED) >= 6)
        stage.kill_postgres()
        stage.start_postgres()
        stage.let_time_pass()
    submissions = [post.result() for post in posts]
    assert all(each is None or each.outcome is Outcome.ACKNOWLEDGED for each in submissions)
    stage.let_time_pass()
    all_arrives()


def test_connections_are_cut_while_people_take_part(
    stage: Stage, history: History, person: Come, all_arrives: Check
) -> None:
    people = [person(f"anna{number}") for number in range(24)]
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name <> 'stage' AND datname <> ''"
    with ThreadPoolExecutor(8) as crowd:
        posts = [crowd.submit(each.sign_up) for each in people]
        for number in (4, 8, 12):
            wait_until(partial(_has_thanked, history, number))
            stage.query(cut)
    submissions = [post.result() for post in posts]
    assert all(each is None or each.outcome is Outcome.ACKNOWLEDGED for each in submissions)
    stage.let_time_pass()
    all_arrives()


def test_the_encryption_key_is_rotated(stage: Stage, person: Come, all_arrives: Check) -> None:
    stage.sandbox.kill()
    anna, bert = person("anna"), person("bert")
    form = bert.open_signup()
    assert form is not None
    assert thanked(anna.sign_up())
    stage.rotate_keys()
    for part in (*stage.workers, stage.web):
        part.stop()
    stage.mend()
    assert thanked(bert.send(*form))
    all_arrives()


def test_an_integration_is_switched_off_and_on(stage: Stage, person: Come, all_arrives: Check) -> None:
    anna, bert = person("anna"), person("bert")
    form = bert.open_signup()
    assert form is not None
    stage.sandbox.kill()
    assert thanked(anna.sign_up())
    stage.set_integration(enabled=False)
    stage.mend()
    assert thanked(bert.send(*form))
    assert person("carl").open_signup() is None
    stage.let_time_pass()
    wait_until(lambda: not stage.query("SELECT 1 FROM procrastinate_jobs WHERE status <> 'todo'"))
    assert stage.deliveries() == {"waiting": 2}
    stage.set_integration()
    all_arrives()


@pytest.mark.parametrize(
    "wrong", ["http://127.0.0.1:{port}/nothing/here", "https://127.0.0.1:{port}", "https://openfield.invalid"]
)
def test_an_integration_is_edited(stage: Stage, person: Come, all_arrives: Check, wrong: str) -> None:
    """Its address: to where Openfield is not, to where it speaks no TLS, to a name that nobody knows."""
    stage.set_integration(openfield_url=wrong.format(port=stage.openfield.url.rpartition(":")[2]))
    assert thanked(person("anna").sign_up())
    assert stage.deliveries() == {"waiting": 1}
    stage.set_integration()
    stage.let_time_pass()
    all_arrives()


def test_a_double_click_meets_two_processes_and_is_one(stage: Stage, person: Come, all_arrives: Check) -> None:
    for number in range(4):
        submission = person(f"anna{number}").sign_up(twice=True)
        assert submission is not None
        assert submission.heard == [Outcome.ACKNOWLEDGED] * 2
    all_arrives()


def test_whoever_signs_up_twice_because_nothing_seems_to_happen_has_one_account_with_the_newer_answers(
    stage: Stage, person: Come, all_arrives: Check
) -> None:
    stage.openfield.fault("apply_then_drop", "Create")
    anna = person("anna")
    assert thanked(anna.sign_up())
    assert thanked(anna.sign_up())
    stage.let_time_pass()
    all_arrives()
