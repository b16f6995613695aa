"""The program as a whole: every command, gathered."""

from mainspring_client.cli import cluster, processes, project, workflows
from mainspring_client.cli.app import app

__all__ = ["app", "cluster", "main", "processes", "project", "workflows"]


def main() -> None:
    """Run the command line."""
    app(prog_name="mainspring")
