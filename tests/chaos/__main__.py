"""Chaos on real processes: `python -m tests.chaos --seconds 120`, also `make chaos SECONDS=120`; docs/testing.md says how to read it."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.members import servers
from tests.chaos.story import Settings, play


def main() -> int:
    """Run; 0 if no law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="how long faults come (120)")
    parser.add_argument("--seed", type=int, help="chooses the faults and the load (by chance, and printed)")
    parser.add_argument("--db", choices=sorted(servers), default="mariadb", help="the database (mariadb)")
    parser.add_argument("--every", type=float, default=5, help="seconds between faults, in the mean (5)")
    parser.add_argument("--rate", type=float, default=6, help="workflows a second (6)")
    parser.add_argument("--report", type=Path, help="a file for the report as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the logs and journals of a sound run, too")
    parser.add_argument("--loopback", action="store_true", help="no network namespaces, though there could be")
    options = parser.parse_args()
    if options.seconds <= 0 or options.every <= 0 or options.rate <= 0:
        parser.error("--seconds, --every and --rate are above 0")
    if reason := servers[options.db].missing():
        parser.error(reason)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1, 2**31)
    folder = Path(tempfile.mkdtemp(prefix="mainspring-chaos-"))
    settings = Settings(
        seed, options.seconds, options.every, options.rate, options.db, loopback=options.loopback, folder=folder
    )
    print(f"SEED={seed} DB={options.db} SECONDS={options.seconds:g}; logs and journals: {folder}", flush=True)
    run = asyncio.run(play(settings))
    (folder / "report.json").write_text(run.to_json())
    if options.report is not None:
        options.report.write_text(run.to_json())
    print(run.to_text(), flush=True)
    if run.violations:
        print(
            f"the evidence is kept in {folder}; the same faults again: make chaos SECONDS={options.seconds:g} SEED={seed}"
        )
        return 1
    if not options.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
