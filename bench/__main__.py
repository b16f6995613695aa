"""`make bench`: run the cases on a real cluster, print a table, and write the figures to BENCH_JSON if it is set."""

import asyncio
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.cases import Figures, cases
from bench.cluster import running_cluster, settings, slots, workers
from mainspring_client import Client


async def measure(wanted: list[str], console: Console) -> dict[str, Figures]:
    """Run the cases that are wanted, one after the other."""
    found: dict[str, Figures] = {}
    async with running_cluster(os.environ.get("BENCH_DATABASE_URL", "")) as cluster, Client(cluster.address) as client:
        for name in wanted:
            with console.status(f"{name} …"):
                found[name] = await cases[name](client)
            console.print(f"{name}: " + ", ".join(f"{key} {value:,.2f}" for key, value in found[name].items()))
    return found


def machine() -> Mapping[str, object]:
    """Say what this was measured on."""
    return {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def main() -> int:
    """Measure and print."""
    wanted = sys.argv[1:] or list(cases)
    unknown = [name for name in wanted if name not in cases]
    console = Console(stderr=True)
    if unknown:
        console.print(f"there is no case {unknown[0]!r}; there are {', '.join(cases)}")
        return 2
    found = asyncio.run(measure(wanted, console))
    table = Table("case", "figure", "value", title="Mainspring, from the outside")
    for name, figures in found.items():
        for key, value in figures.items():
            table.add_row(name, key, f"{value:,.2f}")
    Console().print(table)
    target = os.environ.get("BENCH_JSON")
    if target:
        report = {"cases": found, "machine": machine(), "settings": {**settings, "workers": workers, "slots": slots}}
        Path(target).write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
