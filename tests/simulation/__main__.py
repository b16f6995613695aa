"""`make simulate`: many runs, each from a seed of its own, in some processes.

A run that breaks a law prints its seed, the law and the end of its story; the same seed tells the same story again.
"""

import argparse
import gc
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Final

from tests.simulation.mutations import mutations
from tests.simulation.run import Outcome, run
from tests.simulation.silence import silent

_a_batch: Final = 20
_shown_lines: Final = 60


def run_seeds(seeds: list[int], events: int, mutation: str = "") -> list[Outcome]:
    """Run some seeds, one after the other, in this process."""
    gc.freeze()
    with silent(), mutations[mutation].at_work() if mutation else nullcontext():
        return [run(seed, events) for seed in seeds]


def all_runs(first: int, runs: int, events: int, jobs: int, mutation: str) -> Iterator[Outcome]:
    """Yield the outcomes of all runs, in the order of their seeds."""
    seeds = list(range(first, first + runs))
    batches = [seeds[at : at + _a_batch] for at in range(0, runs, _a_batch)]
    work = partial(run_seeds, events=events, mutation=mutation)
    if jobs == 1 or len(batches) == 1:
        for batch in batches:
            yield from work(batch)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for outcomes in pool.map(work, batches):
            yield from outcomes


def main() -> int:
    """Run what the arguments say; 1 if a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="the first seed; a random one unless given")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--events", type=int, default=2_000, help="how many events a run has before it settles")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    parser.add_argument("--mutation", choices=sorted(mutations), default="", help="a safety net to be taken away")
    parser.add_argument("--story", action="store_true", help="print each event as it happens; of one run")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if arguments.seed is None else arguments.seed
    if arguments.story:
        with silent(), mutations[arguments.mutation].at_work() if arguments.mutation else nullcontext():
            outcomes: Iterator[Outcome] = iter([run(seed, arguments.events, echo=print)])
            return _report(outcomes, seed, 1)
    print(f"simulating {arguments.runs} runs from seed {seed}, {arguments.events} events or more each", flush=True)
    return _report(
        all_runs(seed, arguments.runs, arguments.events, arguments.jobs, arguments.mutation), seed, arguments.runs
    )


def _report(outcomes: Iterator[Outcome], seed: int, runs: int) -> int:
    began = time.monotonic()
    done: list[Outcome] = []
    failed: list[Outcome] = []
    shown = began
    for outcome in outcomes:
        done.append(outcome)
        if outcome.broken:
            failed.append(outcome)
            print(f"\nseed {outcome.seed} breaks a law:")
            for line in (*outcome.story[-_shown_lines:], *outcome.broken):
                print(f"  {line}")
            print(f"  to see it again: make simulate SEED={outcome.seed} RUNS=1", flush=True)
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(f"{len(done)} of {runs} runs, {len(failed)} broke a law", flush=True)
    poor = [outcome.seed for outcome in done if not outcome.broken and outcome.is_poor]
    seconds = time.monotonic() - began
    print(
        f"{len(done)} runs in {seconds:.0f} s: {sum(o.events for o in done)} events, {sum(o.faults for o in done)} faults, "
        f"{sum(o.takeovers for o in done)} takeovers, {sum(o.workflows for o in done)} workflows, "
        f"{sum(o.seconds for o in done) / 3_600:.1f} hours of their time"
    )
    events, faults = min(o.events for o in done), min(o.faults for o in done)
    print(f"of each at least {events} events, {faults} faults, {min(o.takeovers for o in done)} takeovers")
    if poor:
        print(f"too little happened with seeds {poor}")
    print(f"{len(failed)} broke a law" + (f": seeds {[outcome.seed for outcome in failed]}" if failed else ""))
    return 1 if failed or poor else 0


if __name__ == "__main__":
    sys.exit(main())
