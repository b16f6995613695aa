"""The `mainspring` command.

app        the program: options for all commands, errors to exit codes
output     what goes to the terminal, to a pipe, or to a program (`--json`)
workflows  submit, get, history, result, list, watch; pages and progress are what they show, failed finds the instance at fault
why        explain
cluster    workers, coordinators, shards, failovers
members    workers drain, undrain and evict, coordinators release
placing    strategy
acting     cancel, step-down, audit
pausing    pause, resume, pauses
nodes      node, rerun
config     config
processes  dev, coordinator, worker, db, simulate
project    init, validate
"""

import os

# gRPC's own remarks are not for whoever types commands; its errors reach them as ours. The parts that a command starts inherit
# this, and each line of theirs is one JSON object.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from mainspring_client.cli.program import main

__all__ = ["main"]
