"""Names that are made by chance: called from the shells, never from the engine."""

import secrets


def new_incarnation() -> str:
    """Make the id of one start of one process: 32 hexadecimal characters."""
    return secrets.token_hex(16)


def new_workflow_id() -> str:
    """Make an id for a workflow whose submitter chose none."""
    return f"wf-{secrets.token_hex(10)}"


def new_request_id() -> str:
    """Make the id of one mutating call, the same in each try of it."""
    return secrets.token_hex(12)
