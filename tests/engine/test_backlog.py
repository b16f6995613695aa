"""Workers hear for whom something waits, at the cost of what changes."""

from collections.abc import Iterator
from typing import Any

from mainspring import limits
from mainspring_coordinator.engine.effects import ReportBacklog
from mainspring_coordinator.engine.events import CreditSet, LoadReported, WorkerDraining
from tests.engine.rig import Rig, define, of


class Counted(dict[int, None]):
    """The workers of a class, counting how often they are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[int]:
        Counted.looks += 1
        return super().__iter__()


def test_a_step_that_changes_nothing_looks_at_no_worker_of_no_class() -> None:
    rig = Rig()
    executors = [f"e{number}" for number in range(40)]
    workers = [rig.attach(f"w{number}", executors=executors, slots=1) for number in range(30)]
    for worker in workers:
        rig.step(CreditSet(worker.session, 2, 0))
    rig.submit(define([{"id": name, "executor": name} for name in executors]))
    for ready in rig.engine.state.ready.classes.values():
        ready.eligible = Counted(ready.eligible)
    Counted.looks = 0
    for _ in range(50):
        rig.engine.step(LoadReported(workers[0].session, 10, 10), rig.now_us)
    assert Counted.looks == 0
    assert len(of(rig.effects, ReportBacklog)) == 30


def test_what_is_assigned_in_the_step_in_which_it_came_is_no_backlog() -> None:
    rig = Rig()
    rig.attach()
    chain: list[dict[str, Any]] = [{"id": "n0", "executor": "work"}]
    chain += [{"id": f"n{at}", "executor": "work", "depends_on": [f"n{at - 1}"]} for at in range(1, 5)]
    rig.submit(define(chain))
    rig.run_to_end()
    assert not of(rig.effects, ReportBacklog)


def test_over_the_bound_the_next_worker_hears_when_another_has_nothing_left() -> None:
    rig = Rig()
    most = limits.backlogged_workers_max
    workers = [rig.attach(f"w{number}", slots=1) for number in range(most + 3)]
    for worker in workers:
        rig.step(CreditSet(worker.session, 2, 0))
    rig.submit(define([{"id": "a", "executor": "work"}]))
    told = [report.session for report in of(rig.effects, ReportBacklog)]
    assert told == [worker.session for worker in workers[:most]]
    effects = rig.step(WorkerDraining(workers[0].session))
    assert [(r.session, r.waiting) for r in of(effects, ReportBacklog)] == [
        (workers[0].session, 0),
        (workers[most].session, 1),
    ]


def test_a_worker_that_is_draining_is_not_counted_in_again_when_another_attaches() -> None:
    rig = Rig()
    leaver = rig.attach("leaver")
    rig.step(WorkerDraining(leaver.session))
    rig.submit(define([{"id": "a", "executor": "other"}]))
    rig.attach("w2", executors=("other",), slots=1)
    rig.submit(define([{"id": "b", "executor": "work"}]), "wf2")
    assert not [report for report in of(rig.effects, ReportBacklog) if report.session == leaver.session]
