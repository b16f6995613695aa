"""Which strategy the cluster's own signals speak for: pure, one decision at a time.

The rules and their thresholds are the deployment guide's, asked in its order; the first that holds wins. What is in force stays unless a
rule speaks for another one, and each rule lets go of its own strategy later than it takes hold of it, so that a signal about a threshold
changes nothing back and forth.
"""

from dataclasses import dataclass
from typing import Final

start: Final = "load-balanced"
"""In force until the first decision."""


@dataclass(frozen=True, slots=True)
class DynamicConfig:
    """The thresholds."""

    cpu_percent: float = 80.0
    """A mean cpu of the workers above this speaks for `load-balanced`."""
    round_trip_us: int = 100_000
    """A mean round trip of heartbeats above this speaks for `locality`."""
    failed_share: float = 0.1
    """A share of failed attempts above this speaks for `affinity`."""
    attempts_min: int = 20
    """Of fewer attempts than this no share is taken."""
    hysteresis: float = 0.1
    """The strategy that a rule brought stays until the signal is below its threshold by this share of it."""
    dwell_us: int = 120_000_000
    """A choice holds for so long at least."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What was measured."""

    workers: int
    """How many are active: attached, and not draining."""
    cpu_percent: float | None
    """The mean over those that have said how busy they are; None when none has."""
    round_trip_us: float | None
    """The mean over those whose heartbeat was answered; None when none was."""
    attempts: int
    """How many ended within the window, in the whole cluster."""
    failed: int
    """How many of them failed."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy, and what speaks for it."""

    strategy: str
    reason: str


def choose(config: DynamicConfig, signals: Signals, chosen: str, since_us: int, now_us: int) -> Choice | None:
    """Return the strategy to change to; None: what is in force stays.

    `chosen` is the last decision, empty before the first, and `since_us` when it was made.
    """
    if chosen and now_us < since_us + config.dwell_us:
        return None
    found = _first_that_holds(config, signals, chosen)
    return found if found is not None and found.strategy != chosen else None


def _first_that_holds(config: DynamicConfig, signals: Signals, chosen: str) -> Choice | None:
    """Ask the rules in their order; None when one of them cannot be asked."""

    def kept(strategy: str) -> float:
        return 1.0 - config.hysteresis if chosen == strategy else 1.0

    cpu, trip_us = signals.cpu_percent, signals.round_trip_us
    if not signals.workers or cpu is None:
        return None
    if cpu > config.cpu_percent * kept("load-balanced"):
        return Choice("load-balanced", f"the workers' mean cpu is {cpu:.0f} % (threshold {config.cpu_percent:g} %)")
    if trip_us is None:
        return None
    if trip_us > config.round_trip_us * kept("locality"):
        reason = f"the mean round trip is {trip_us / 1_000:.0f} ms (threshold {config.round_trip_us / 1_000:g} ms)"
        return Choice("locality", reason)
    share = signals.failed / signals.attempts if signals.attempts else 0.0
    if signals.attempts >= config.attempts_min and share > config.failed_share * kept("affinity"):
        reason = (
            f"{signals.failed} of the last {signals.attempts} attempts failed (threshold {config.failed_share:.0%})"
        )
        return Choice("affinity", reason)
    return Choice("round-robin", "no signal is above its threshold")
