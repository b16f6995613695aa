"""Nodes under which workers died run alone, so that it shows whether they are what kills.

From its second redelivery on, a node waits in a class of its own and is given only to a worker that has nothing else of ours, which gets
nothing else while it runs. If no such worker is there, one is reserved: it gets no other work until it has drained. At most half of the
workers (one, if there is only one) are kept from other work at a time, and a reservation is made after other work was given out; so
neither waits for ever.
"""

from mainspring import limits
from mainspring_coordinator.engine.ready import ReadyClass, WorkflowKey
from mainspring_coordinator.engine.state import State, WorkflowState
from mainspring_coordinator.engine.worker import WorkerState


def must_run_alone(workflow: WorkflowState, node: int, instance: int) -> bool:
    """Tell whether a node that is READY is given only to a worker that has nothing else."""
    return workflow.redeliveries.get((node, instance), 0) >= limits.redeliveries_alone_min


def idle_worker(state: State, ready: ReadyClass, key: WorkflowKey) -> int:
    """Return the session of a worker that has nothing and may run what waits alone in a class, 0 if there is none."""
    for session in ready.eligible:
        worker = state.workers[session]
        if (
            worker.incarnation not in state.held
            and worker.credit > 0
            and worker.reserved in (None, ready.key)
            and key[0] in worker.reconciled
        ):
            return session
    return 0


def reserve(state: State, ready: ReadyClass, key: WorkflowKey) -> None:
    """Keep other work from the eligible worker that has least, unless so many are kept from it already."""
    kept = 0
    best: WorkerState | None = None
    least = 0
    for worker in state.workers.values():
        held = state.held.get(worker.incarnation)
        if worker.reserved is not None or (held is not None and held.alone):
            if worker.reserved == ready.key:
                return
            kept += 1
        elif worker.session in ready.eligible and worker.credit > 0 and key[0] in worker.reconciled:
            count = len(held.assignments) if held is not None else 0
            if best is None or count < least:
                best, least = worker, count
    if best is not None and kept < max(1, len(state.workers) // 2):
        best.reserved = ready.key
        state.reserved[best.session] = ready.key
        state.update_room(best.incarnation)


def release_unneeded(state: State) -> bool:
    """End the reservations for classes in which nothing waits any more, or that are paused; tell whether there was one."""
    waiting = state.ready.waiting
    over = [session for session, key in state.reserved.items() if key not in waiting or waiting[key].pause is not None]
    for session in over:
        end_reservation(state, session)
    return bool(over)


def end_reservation(state: State, session: int) -> None:
    """Let a worker get other work again."""
    if state.reserved.pop(session, None) is not None:
        worker = state.workers[session]
        worker.reserved = None
        state.update_room(worker.incarnation)
