"""The program as a whole: every command, gathered."""

from mainspring_client.cli import (
    acting,
    cluster,
    config,
    members,
    nodes,
    pausing,
    placing,
    processes,
    project,
    tokens,
    why,
    workflows,
)
from mainspring_client.cli.app import app

__all__ = [
    "acting",
    "app",
    "cluster",
    "config",
    "main",
    "members",
    "nodes",
    "pausing",
    "placing",
    "processes",
    "project",
    "tokens",
    "why",
    "workflows",
]


def main() -> None:
    """Run the command line."""
    app(prog_name="mainspring")
