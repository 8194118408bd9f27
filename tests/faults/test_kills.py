"""Kill -9 at the moments that are hard, for web and worker: whoever was thanked is in Openfield, once.

A moment is a function that begins an attempt, waits until it is at that moment, kills whoever makes it, and lets go of
what held it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults.history import History, Outcome, Submission
from tests.faults.people import Person
from tests.faults.stage import Stage
from tests.processes import wait_until

Deed = Callable[[], object]
Moment = Callable[[Stage, Deed, Deed], None]
Come = Callable[[str], Person]
Check = Callable[[], None]


def before_openfield_hears_of_it(stage: Stage, begin: Deed, kill: Deed) -> None:
    with stage.openfield_deaf():
        begin()
        wait_until(lambda: stage.deliveries().get("sending"))
        kill()
        stage.let_time_pass()  # before the post comes again, which would wait for an answer that nobody makes


def while_openfield_works_on_it(stage: Stage, begin: Deed, kill: Deed) -> None:
    """It takes effect though nobody waits for the answer any more."""
    stage.openfield.fault("delay", "Create", seconds=3600)
    begin()
    wait_until(lambda: stage.openfield.faults() == [])
    kill()
    stage.openfield.clear_faults()
    wait_until(stage.openfield.changes)


def while_openfield_leaves_it_lying(stage: Stage, begin: Deed, kill: Deed) -> None:
    """The call is worked on when a later one has long done it: the fault stays until the test's end."""
    stage.openfield.fault("delay", "Create", seconds=3600)
    begin()
    wait_until(lambda: stage.openfield.faults() == [])
    kill()


def after_openfield_has_done_it(stage: Stage, begin: Deed, kill: Deed) -> None:
    """The answer is there, and nobody has written down that it is."""
    stage.openfield.fault("delay", "Create", seconds=3600)
    begin()
    wait_until(lambda: stage.openfield.faults() == [])
    with stage.deliveries_locked():
        stage.openfield.clear_faults()
        wait_until(stage.openfield.changes)
        wait_until(stage.waits_for_a_lock)
        kill()


MOMENTS: list[Moment] = [
    before_openfield_hears_of_it,
    while_openfield_works_on_it,
    while_openfield_leaves_it_lying,
    after_openfield_has_done_it,
]


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """A thread for who waits for an answer meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def all_calls_end(stage: Stage) -> None:
    """Openfield works on what it left lying."""
    stage.openfield.clear_faults()
    wait_until(lambda: all(call["status"] for call in stage.openfield.calls()))


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_web_is_killed(
    stage: Stage, person: Come, all_arrives: Check, aside: ThreadPoolExecutor, moment: Moment
) -> None:
    posts: list[Future[Submission | None]] = []
    moment(stage, lambda: posts.append(aside.submit(person("anna").sign_up)), stage.web.kill)
    stage.let_time_pass()
    stage.mend()
    submission = posts[0].result()
    assert submission is not None
    assert (submission.outcome, submission.heard[0]) == (Outcome.ACKNOWLEDGED, Outcome.UNKNOWN)
    all_arrives()
    all_calls_end(stage)
    all_arrives()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_is_killed(stage: Stage, person: Come, all_arrives: Check, moment: Moment) -> None:
    (worker,) = stage.workers
    worker.kill()
    stage.openfield.fault("status", "Create", status=503)
    submission = person("anna").sign_up()
    assert submission is not None
    assert submission.outcome is Outcome.ACKNOWLEDGED
    stage.let_time_pass()
    moment(stage, worker.start, worker.kill)
    stage.let_time_pass()
    worker.start()
    all_arrives()
    all_calls_end(stage)
    all_arrives()


def test_the_web_is_killed_before_it_has_kept_anything(
    stage: Stage, history: History, person: Come, all_arrives: Check, aside: ThreadPoolExecutor
) -> None:
    with stage.deliveries_locked():
        post = aside.submit(person("anna").sign_up)
        wait_until(stage.waits_for_a_lock)
        stage.web.kill()
    wait_until(lambda: history.count(Outcome.UNKNOWN))
    assert stage.deliveries() == {}
    stage.let_time_pass()
    stage.mend()
    submission = post.result()
    assert submission is not None
    assert submission.outcome is Outcome.ACKNOWLEDGED
    all_arrives()


def test_who_goes_away_when_the_web_is_killed_before_it_has_kept_anything_has_not_taken_part(
    stage: Stage, person: Come, all_arrives: Check, aside: ThreadPoolExecutor
) -> None:
    with stage.deliveries_locked():
        post = aside.submit(person("anna").sign_up, patient=False)
        wait_until(stage.waits_for_a_lock)
        stage.web.kill()
    submission = post.result()
    assert submission is not None
    assert submission.outcome is Outcome.UNKNOWN
    stage.mend()
    assert stage.deliveries() == {}
    all_arrives()


def test_a_web_process_is_killed_while_another_answers_the_same_post(
    stage: Stage, person: Come, all_arrives: Check, aside: ThreadPoolExecutor
) -> None:
    stage.openfield.fault("delay", "Create", seconds=3600)
    post = aside.submit(person("anna").sign_up, twice=True)
    wait_until(lambda: stage.openfield.faults() == [])
    stage.web.kill_child(0)
    stage.let_time_pass()
    stage.mend()
    submission = post.result()
    assert submission is not None
    assert submission.outcome is Outcome.ACKNOWLEDGED
    all_calls_end(stage)
    all_arrives()


def test_everything_is_killed_at_once(stage: Stage, history: History, person: Come, all_arrives: Check) -> None:
    people = [person(f"anna{number}") for number in range(24)]
    with ThreadPoolExecutor(8) as crowd:
        posts = [crowd.submit(each.sign_up) for each in people]
        wait_until(lambda: history.count(Outcome.ACKNOWLEDGED) >= 6)
        stage.kill_postgres()
        for part in stage.parts:
            part.kill()
        stage.start_postgres()
        stage.let_time_pass()
        stage.mend()
    submissions = [post.result() for post in posts]
    assert all(each is None or each.outcome is Outcome.ACKNOWLEDGED for each in submissions)
    stage.let_time_pass()
    all_arrives()
