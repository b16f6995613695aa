"""Fuzz real coordinators: `python -m tests.fuzz --messages 100000`, also `make fuzz`; docs/testing.md says what is sent and checked."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.run import Settings, play, to_stderr
from tests.servers.mariadb import MariadbServer


def main() -> int:
    """Run; 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, help="draws the messages (by chance, and printed)")
    parser.add_argument(
        "--messages", type=int, default=100_000, help="how many at least, half of them by strangers (100000)"
    )
    parser.add_argument("--jobs", type=int, default=32, help="how many are under way at once (32)")
    parser.add_argument("--coordinators", type=int, default=2, help="how many there are (2)")
    parser.add_argument("--workers", type=int, default=2, help="how many there are (2)")
    parser.add_argument("--report", type=Path, help="a file for the report as JSON")
    options = parser.parse_args()
    if reason := MariadbServer.missing():
        parser.error(reason)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1, 2**31)
    folder = Path(tempfile.mkdtemp(prefix="mainspring-fuzz-"))
    print(f"SEED={seed} MESSAGES={options.messages}; logs: {folder}", flush=True)
    with MariadbServer() as server:
        settings = Settings(
            seed,
            options.messages,
            options.jobs,
            server.url(server.new_database()),
            folder,
            options.coordinators,
            options.workers,
        )
        run = asyncio.run(play(settings, to_stderr))
    print(run.text, flush=True)
    if options.report is not None:
        options.report.write_text(run.to_json())
    if run.tally.findings:
        print(
            f"the logs are kept in {folder}; the same messages again: make fuzz SEED={seed} MESSAGES={options.messages}"
        )
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
