"""Workers come, go, and say what they have.

What a worker runs is the truth; what we believe is corrected by its inventory. A worker gets work of a shard only after it has stated
its inventory of that shard on this stream and under our epoch, so what a current inventory omits is not there. One that was given up
and comes back is like any other: it keeps what was not offered elsewhere, and is told to stop the rest.
"""

from collections.abc import Mapping, Sequence

from mainspring import ids, limits
from mainspring.errors import Failure
from mainspring.failures import start_to_close_timeout
from mainspring_coordinator.engine import crowding, eviction, nodes, workflows
