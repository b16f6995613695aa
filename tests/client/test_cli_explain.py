"""What `explain` shows of a workflow and of a node."""

import json

from mainspring.v1 import client_pb2, workflow_pb2
from tests.client.commands import asked
from tests.client.conftest import Served

READY = workflow_pb2.NODE_STATUS_READY
NODE = client_pb2.ExplainResponse(
    status=workflow_pb2.WORKFLOW_STATUS_RUNNING,
    nodes=[client_pb2.NodeExplanation(node_id="drop", instance=7, status=READY, reason="all slots are taken")],
    strategy="locality",
    workers=[
        client_pb2.WorkersExplanation(
            verdict=client_pb2.WORKER_VERDICT_FULL, reason="gives 3 of its 3 slots", count=2, workers=["w1", "w2"]
        ),
        client_pb2.WorkersExplanation(
            verdict=client_pb2.WORKER_VERDICT_EXECUTOR,
            reason="does not run executor 'drop'",
            count=1_000,
            workers=[f"x{n}" for n in range(50)],
        ),
    ],
)
WHOLE = client_pb2.ExplainResponse(
    status=workflow_pb2.WORKFLOW_STATUS_RUNNING,
    nodes=[
        client_pb2.NodeExplanation(node_id="drop", instance=-1, status=READY, reason="all slots are taken"),
        client_pb2.NodeExplanation(
            node_id="sum", instance=-1, status=workflow_pb2.NODE_STATUS_WAITING, reason="waits for drop"
        ),
    ],
    nodes_left_out=12,
)


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_of_a_node_each_reason_is_told_with_the_workers_that_have_it(served: Served) -> None:
    got = asked(served, "explain", "w", "drop[7]", Explain=[NODE])
    lines = lines_of(got.stdout)
    assert "node drop[7]" in lines
    assert "why all slots are taken" in lines
    assert "placed by locality" in lines
    assert "2 full gives 3 of its 3 slots w1, w2" in lines
    assert "1000 executor does not run executor 'drop' x0, x1, x2, x3, x4, x5, x6, x7 and 992 more" in lines
    assert got.exit_code == 0


def test_of_a_workflow_each_node_is_told_and_how_to_ask_further(served: Served) -> None:
    got = asked(served, "explain", "w", Explain=[WHOLE])
    lines = lines_of(got.stdout)
    assert "drop READY all slots are taken" in lines
    assert "sum WAITING waits for drop" in lines
    assert "12 more have not ended; see all with: mainspring get w --all" in lines_of(got.stderr)
    assert "see what each worker says with: mainspring explain w drop" in lines_of(got.stderr)


def test_programs_get_all_of_it(served: Served) -> None:
    got = asked(served, "explain", "w", "drop[7]", "--json", Explain=[NODE])
    told = json.loads(got.stdout)
    assert told["nodes"] == [{"node_id": "drop", "instance": 7, "status": "READY", "reason": "all slots are taken"}]
    assert [(one["verdict"], one["count"], len(one["workers"])) for one in told["workers"]] == [
        ("FULL", 2, 2),
        ("EXECUTOR", 1000, 50),
    ]
