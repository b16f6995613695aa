"""A coordinator steps down: for a while it gives its shards to the others, and stays, so that it can be worked on or watched.

It tells the others that it has no workers. By the ranking's own rule it then gets nothing as long as one of them has some, and each shard
moves in the ordinary way: one by one, after what is under way. Its workers stay attached, and work for the others; clients' calls are
passed on. When the time is over it counts its workers again and gets its share back. Nothing is stored: one that is started again is back.
"""

from collections.abc import Callable

from mainspring import limits
from mainspring.clock import Clock
from mainspring.errors import BadRequestError, PreconditionError


class Withdrawal:
    """Whether this coordinator has stepped down. `attached` is safe from any thread."""

    def __init__(self, clock: Clock, peers_have_workers: Callable[[], bool]) -> None:
        """`peers_have_workers`: whether another live coordinator could take over."""
        self._clock = clock
        self._peers_have_workers = peers_have_workers
        self._until_us = 0

    @property
    def left_us(self) -> int:
        """For how long it has stepped down from now on; 0: it has not."""
        return max(0, self._until_us - self._clock.now_us())

    def begin(self, seconds: int) -> bool:
        """Step down for so many seconds, or, 0, no longer; return whether it had stepped down before.

        Raises `BadRequestError` beyond the bound, `PreconditionError` when nobody is there who could take over.
        """
        if seconds > limits.step_down_s_max:
            raise BadRequestError(
                f"seconds: {seconds} are over the bound of {limits.step_down_s_max}; for longer than that stop the coordinator",
                field="seconds",
            )
        if seconds and not self._peers_have_workers():
            raise PreconditionError(
                "no other live coordinator has workers, so that nobody could take over; start one, see that workers attach to it "
                "(mainspring coordinators), and try again"
            )
        before = self.left_us > 0
        self._until_us = self._clock.now_us() + seconds * 1_000_000 if seconds else 0
        return before

    def attached(self, workers: int) -> int:
        """Return how many workers the others are to know of."""
        return 0 if self.left_us else workers
