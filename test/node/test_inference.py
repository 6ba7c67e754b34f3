# SPDX-License-Identifier: Apache-2.0
"""The inference thread's order, isolation and ending, with work that needs no model."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from svd_vlm_ros.node.inference.queue import QueueFullError, QueueRefusesError, TaskQueue
from svd_vlm_ros.node.inference.tasks import Priority, Task, Turn
from svd_vlm_ros.node.inference.worker import Worker

PATIENCE = 30.0


class Engine(SimpleNamespace):
    """Whatever is loaded; notes when it was closed."""

    def __init__(self) -> None:
        super().__init__(info="info", closed=threading.Event())

    def close(self) -> None:
        self.closed.set()


class Job(Task):
    """A task of a test: worked on alone, by `work(engine, job)`."""

    def __init__(
        self,
        work: Callable[[Any, Job], Any],
        priority: Priority,
        on_end: Callable[[Any], None],
        *,
        ready: Callable[[], bool] = lambda: True,
        seconds: float = float("inf"),
        patience: Callable[[], float] = lambda: float("inf"),
        subject: Any = None,
    ) -> None:
        super().__init__(priority, on_end)
        self.deadline = self.arrived + seconds
        self.ready, self.patience, self.subject, self._work = ready, patience, subject, work

    def work(self, engine: Any, batch: Any) -> list:
        return [self._work(engine, job) for job in batch]

    def failure(self, error: BaseException) -> str:
        return repr(error)

    def turn_at(self, now: float) -> Turn | None:
        return super().turn_at(now) if self.ready() else None

    @property
    def rank(self) -> Priority:
        late = time.monotonic() - self.arrived > self.patience()
        return min(self.priority, Priority.QUESTION) if late else self.priority


def make_job(
    work: Callable[[Any, Job], Any], priority: Priority = Priority.QUESTION, **options: Any
) -> tuple[Job, list]:
    """A job that is worked on alone, and the list of the results it ended with."""
    ends: list = []
    return Job(work, priority, ends.append, **options), ends


def wait_for(done: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def thread(engine: Engine) -> Iterator[Worker]:
    made = Worker(lambda: engine)
    assert made.wait_loaded(PATIENCE)
    yield made
    assert made.stop(PATIENCE)


@pytest.fixture
def held(thread: Worker) -> Iterator[threading.Event]:
    """The thread is at work on a question until this is set."""
    release = threading.Event()
    began = threading.Event()

    def work(engine: Any, job: Job) -> str:
        began.set()
        release.wait(PATIENCE)
        return "held"

    thread.submit(make_job(work)[0], 100)
    assert began.wait(PATIENCE)
    yield release
    release.set()


def test_work_gets_the_engine_on_the_thread(thread: Worker, engine: Engine) -> None:
    job, ends = make_job(lambda got, job: (got is engine, threading.get_ident()))
    thread.submit(job, 1)
    wait_for(lambda: job.ended)
    assert ends == [(True, thread.thread_id)]
    assert thread.info == "info"


def test_questions_go_before_descriptions_and_in_order(
    thread: Worker, held: threading.Event
) -> None:
    order: list[str] = []
    jobs = []
    for name, priority in [
        ("d1", Priority.DESCRIPTION),
        ("q1", Priority.QUESTION),
        ("d2", Priority.DESCRIPTION),
        ("q2", Priority.QUESTION),
    ]:
        job, _ = make_job(lambda engine, job, name=name: order.append(name), priority)
        jobs.append(job)
        thread.submit(job, 10)
    held.set()
    wait_for(lambda: all(job.ended for job in jobs))
    assert order == ["q1", "q2", "d1", "d2"]


def test_patience_ends_and_gives_the_next_turn(thread: Worker, held: threading.Event) -> None:
    """What has waited long enough goes before all questions that wait, however many came before."""
    order: list[str] = []
    jobs = []
    for name, priority, patience in [
        ("q1", Priority.QUESTION, 0.0),
        ("fact", Priority.FACT, 0.0),
        ("patient", Priority.FACT, 1000.0),
        ("q2", Priority.QUESTION, 0.0),
    ]:
        job, _ = make_job(
            lambda engine, job, name=name: order.append(name),
            priority,
            patience=lambda patience=patience: patience,
        )
        jobs.append(job)
        thread.submit(job, 10)
    wait_for(lambda: jobs[1].rank is Priority.QUESTION)
    held.set()
    wait_for(lambda: all(job.ended for job in jobs))
    assert order == ["fact", "q1", "q2", "patient"]


def test_a_question_interrupts_a_description(thread: Worker) -> None:
    began = threading.Event()

    def describe(engine: Any, job: Job) -> str | None:
        began.set()
        wait_for(job.should_stop)
        return job.should_stop()

    description, ended = make_job(describe, Priority.DESCRIPTION)
    thread.submit(description, 1)
    assert began.wait(PATIENCE)
    waiting, _ = make_job(lambda engine, job: None, ready=lambda: False, seconds=PATIENCE)
    thread.submit(waiting, 10)
    assert description.should_stop() is None, "a question that cannot begin interrupts nobody"
    question, _ = make_job(lambda engine, job: "answer")
    thread.submit(question, 10)
    wait_for(lambda: question.ended)
    assert ended == ["interrupted"]
    waiting.end(None)


def test_what_waits_is_woken_and_not_polled(thread: Worker) -> None:
    asked: list[float] = []
    come = threading.Event()

    def ready() -> bool:
        asked.append(time.monotonic())
        return come.is_set()

    job, ends = make_job(lambda engine, job: "answer", ready=ready)
    thread.submit(job, 1)
    wait_for(lambda: asked)
    time.sleep(0.2)
    assert len(asked) == 1, "nothing has happened since"
    come.set()
    thread.queue.wake()
    wait_for(lambda: ends)
    assert ends == ["answer"]


def test_a_drained_queue_refuses_until_it_accepts(thread: Worker) -> None:
    thread.queue.drain()
    job, ends = make_job(lambda engine, job: "answer")
    with pytest.raises(QueueRefusesError):
        thread.submit(job, 1)
    change, changed = make_job(lambda engine, job: "changed", Priority.CONTROL)
    thread.submit(change, 1)
    wait_for(lambda: changed)
    thread.queue.accept()
    thread.submit(job, 1)
    wait_for(lambda: ends)


def test_a_question_does_not_interrupt_a_question(thread: Worker, held: threading.Event) -> None:
    (current,) = thread.queue.current
    thread.submit(make_job(lambda engine, job: None)[0], 10)
    assert current.should_stop() is None


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError(), SystemExit(3)])
def test_a_failure_costs_its_job_alone(thread: Worker, error: BaseException) -> None:
    def fail(engine: Any, job: Job) -> None:
        raise error

    bad, bad_ends = make_job(fail)
    good, good_ends = make_job(lambda engine, job: "fine")
    thread.submit(bad, 10)
    thread.submit(good, 10)
    wait_for(lambda: good.ended)
    assert bad_ends == [repr(error)]
    assert good_ends == ["fine"]


def test_a_full_queue_takes_no_more(thread: Worker, held: threading.Event) -> None:
    jobs = [make_job(lambda engine, job: None)[0] for _ in range(3)]
    thread.submit(jobs[0], 2)
    thread.submit(jobs[1], 2)
    with pytest.raises(QueueFullError):
        thread.submit(jobs[2], 2)
    description, _ = make_job(lambda engine, job: None, Priority.DESCRIPTION)
    thread.submit(description, 2)
    assert thread.queue.waiting() == 3
    jobs[0].end("gave up")
    assert thread.queue.waiting(Priority.QUESTION) == 1
    thread.submit(jobs[2], 2)


def test_a_job_ends_once(thread: Worker, held: threading.Event) -> None:
    job, ends = make_job(lambda engine, job: ends.append("worked"))
    thread.submit(job, 10)
    assert job.end("first")
    assert not job.end("second")
    held.set()
    later, _ = make_job(lambda engine, job: None)
    thread.submit(later, 10)
    wait_for(lambda: later.ended)
    assert ends == ["first"], "a job that has ended is not worked on"


def test_deadline_and_cancel() -> None:
    job, _ = make_job(lambda engine, job: None, seconds=0.0)
    assert job.should_stop() == "timeout"
    job, _ = make_job(lambda engine, job: None)
    assert job.should_stop() is None
    job.cancel()
    assert job.should_stop() == "canceled"


def test_drain_hands_back_what_waits(thread: Worker, held: threading.Event) -> None:
    (current,) = thread.queue.current
    job, _ = make_job(lambda engine, job: None)
    thread.submit(job, 10)
    assert thread.queue.drain() == [job]
    assert thread.queue.waiting() == 0
    assert current.should_stop() == "canceled"


def test_stop_cancels_and_closes(engine: Engine) -> None:
    thread = Worker(lambda: engine)
    began = threading.Event()

    def work(engine: Any, job: Job) -> str | None:
        began.set()
        wait_for(job.should_stop)
        return job.should_stop()

    job, ends = make_job(work)
    thread.submit(job, 1)
    assert began.wait(PATIENCE)
    assert thread.stop(PATIENCE)
    assert ends == ["canceled"]
    assert engine.closed.is_set()


def test_stop_while_loading_closes_later(engine: Engine) -> None:
    release = threading.Event()

    def load() -> Engine:
        release.wait(PATIENCE)
        return engine

    thread = Worker(load)
    assert not thread.wait_loaded(0.0)
    assert not thread.stop(0.0)
    assert thread.alive
    release.set()
    assert engine.closed.wait(PATIENCE)
    assert thread.stop(PATIENCE)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)])
def test_load_error(error: BaseException) -> None:
    def load() -> Any:
        raise error

    thread = Worker(load)
    assert thread.wait_loaded(PATIENCE)
    assert thread.load_error is error
    assert thread.info is None
    assert thread.stop(PATIENCE)


def test_a_failure_of_the_thread_keeps_nothing(
    thread: Worker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = TaskQueue.take

    class Subject:
        pass

    def breaking(self: TaskQueue) -> list[Job]:
        jobs = take(self)
        if jobs and jobs[0].subject is not None:
            raise SystemExit("the thread fails")
        return jobs

    monkeypatch.setattr(TaskQueue, "take", breaking)
    wait_for(lambda: make_and_run(thread) == "done")  # the wait that was under way is over
    subjects = []
    for _ in range(3):
        subject = Subject()
        assert "the thread fails" in make_and_run(thread, subject=subject)
        subjects.append(weakref.ref(subject))
        del subject
    assert make_and_run(thread) == "done"
    gc.collect()
    assert [subject() for subject in subjects] == [None] * 3
    assert thread.restarts == 3


def make_and_run(thread: Worker, **options: Any) -> Any:
    job, ends = make_job(lambda *_: "done", **options)
    thread.submit(job, 100)
    wait_for(lambda: ends)
    return job.result


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_replaced(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = []

    def die(error: BaseException) -> None:
        deaths.append(error)
        if len(deaths) == 1:
            raise SystemExit("dies while it accounts for a failure")

    thread = Worker(lambda: engine, die)
    assert thread.wait_loaded(PATIENCE)
    take = TaskQueue.take

    def failing(self: TaskQueue) -> list[Job]:
        monkeypatch.setattr(TaskQueue, "take", take)
        raise SystemExit("the thread fails")

    monkeypatch.setattr(TaskQueue, "take", failing)
    assert make_and_run(thread) == "done"  # the wait that was under way; the next one fails
    wait_for(lambda: not thread.alive)
    assert make_and_run(thread) == "done"
    assert len(deaths) == thread.restarts == 2
    assert thread.stop(PATIENCE)
