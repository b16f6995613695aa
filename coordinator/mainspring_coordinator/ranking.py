"""Who should own which shard: a pure, deterministic ranking with a bounded load and little movement.

Every coordinator computes it for itself from what it sees; those that see the same agree, without a word between them.
Its rules:

* Shares differ by at most one shard.
* A shard stays where it is unless the balance or its owner's death moves it.
* A newcomer counts only after a while, so that a process that crashes at start moves nothing.
* A coordinator without workers ranks last while a peer has workers: it gets nothing.
* Whoever is left after these rules gets everything; a lone coordinator owns all.

Views differ for moments. That is harmless: a shard is taken only when it is free, by a statement that only one can win,
and the epoch decides about every write.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live coordinator."""

    incarnation: str
    established: bool
    """It has been seen for long enough to count, or owns a shard already."""
    with_workers: bool
    """Workers are attached to it, or were a moment ago."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one coordinator should do."""

    take: Sequence[int]
    """Free shards that are its own by the ranking, in order."""
    release: Sequence[int]
    """Shards that it holds and that are another's by the ranking, in order."""


def wanted(candidates: Iterable[Candidate], holders: Mapping[int, str | None], me: str) -> Wanted:
    """Return what `me` should take and release.

    `holders` has all shards; the holder of a free one, dead holders included, is None.
    """
    owners = assign(candidates, holders)
    return Wanted(
        take=[shard for shard in sorted(holders) if owners.get(shard) == me and holders[shard] is None],
        release=[shard for shard in sorted(holders) if holders[shard] == me and owners.get(shard, me) != me],
    )


def assign(candidates: Iterable[Candidate], holders: Mapping[int, str | None]) -> dict[int, str]:
    """Return the owner of every shard by the ranking; empty when there are no candidates."""
    eligible = _eligible(list(candidates))
    if not eligible:
        return {}
    owners: dict[int, str] = {}
    room = _quotas(eligible, holders)
    for incarnation, quota in room.items():
        held = [shard for shard, holder in holders.items() if holder == incarnation]
        kept = sorted(held, key=partial(_score, incarnation), reverse=True)[:quota]
        owners.update(dict.fromkeys(kept, incarnation))
        room[incarnation] -= len(kept)
    for shard in sorted(holders):
        if shard not in owners:
            owner = max((_score(who, shard), who) for who, left in room.items() if left > 0)[1]
            owners[shard] = owner
            room[owner] -= 1
    return owners


def _eligible(candidates: Sequence[Candidate]) -> list[str]:
    counted = [candidate for candidate in candidates if candidate.established] or candidates
    serving = [candidate for candidate in counted if candidate.with_workers] or counted
    return sorted(candidate.incarnation for candidate in serving)


def _quotas(eligible: Sequence[str], holders: Mapping[int, str | None]) -> dict[str, int]:
    """Share the shards out; those that hold most keep the odd ones.

    What one holds beyond the larger share does not count. So a coordinator on its way down to its quota stays where
    it is in this order, and the quotas do not change while shards move.
    """
    share, odd = divmod(len(holders), len(eligible))
    held = {who: min(share + 1, sum(holder == who for holder in holders.values())) for who in eligible}
    order = sorted(eligible, key=lambda who: (-held[who], _score(who, -1)))
    return {who: share + (place < odd) for place, who in enumerate(order)}


def _score(incarnation: str, shard: int) -> bytes:
    """Rank a coordinator for a shard: the highest wins (rendezvous hashing)."""
    return hashlib.blake2b(f"{shard}/{incarnation}".encode(), digest_size=8).digest()
