"""The workflows that the stories run, with what each must give."""

from mainspring import Workflow
from mainspring_client import Client, Handle, Submission


def chain(length: int, executor: str = "step") -> Workflow:
    """Nodes in a row, each counting one on; from input n it gives n + length."""
    flow = Workflow(f"chain-{length}")
    value = flow.node("n0", executor, input=flow.input)
    for number in range(1, length):
        value = flow.node(f"n{number}", executor, input=value)
    flow.output(value)
    return flow


def fan(executor: str = "step") -> Workflow:
    """A map over the input, then a node that gets the list; gives each element plus one."""
    flow = Workflow("fan")
    each = flow.map("each", executor, over=flow.input, input=flow.item)
    flow.output(flow.node("all", "noop", input=each))
    return flow


def gate() -> Workflow:
    """One node that waits at the gate named by the input."""
    flow = Workflow("gate")
    flow.output(flow.node("wait", "gated", input={"gate": flow.input}))
    return flow


def gate_and_step() -> Workflow:
    """A node that waits at the gate named by the input, then another one; gives 1."""
    flow = Workflow("gate-and-step")
    gated = flow.node("wait", "gated", input={"gate": flow.input})
    flow.output(flow.node("next", "step", input=0, after=gated))
    return flow


def deadly() -> Workflow:
    """One node that kills every worker that runs it."""
    flow = Workflow("deadly")
    flow.output(flow.node("bomb", "deadly", input=0))
    return flow


async def load(client: Client, count: int, tag: str = "") -> dict[str, object]:
    """Submit chains and fans; return the ids of those acknowledged with what each must give."""
    length, width = 12, 12
    submissions = [Submission(chain(length), n, f"chain-{tag}{n}") for n in range(count)]
    submissions += [Submission(fan(), list(range(n, n + width)), f"fan-{tag}{n}") for n in range(count)]
    acknowledged = await client.submit_many(submissions)
    assert all(isinstance(one, Handle) for one in acknowledged), acknowledged
    expected: dict[str, object] = {f"chain-{tag}{n}": n + length for n in range(count)}
    return expected | {f"fan-{tag}{n}": list(range(n + 1, n + width + 1)) for n in range(count)}
