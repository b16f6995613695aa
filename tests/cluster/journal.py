"""How executors write what they do into a journal of their worker, so that a checker can read afterwards what really ran, whatever the
coordinators believe.
"""

import json
import os
import time
from pathlib import Path

from mainspring_worker import Context


def write(act: str, context: Context, **more: object) -> None:
    """Append one line, with `more` fields of `effects.Effect`."""
    line = {
        "act": act,
        "at_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "pid": os.getpid(),
        "workflow": context.workflow_id,
        "node": context.node_id,
        "instance": context.instance,
        "attempt": context.attempt,
        **more,
    }
    append(Path(os.environ["EFFECTS"]) / f"{os.environ['ENGINE_INSTANCE_ID']}-{os.getpid()}.jsonl", line)


def append(path: Path, line: object) -> None:
    """Append a line by one write, which the kernel does not mix with another's."""
    journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(journal, json.dumps(line).encode() + b"\n")
    finally:
        os.close(journal)
