"""Permits as messages and back; what is beyond its bounds is refused."""

from collections.abc import Iterable, Mapping

from mainspring import limits
from mainspring.errors import BadRequestError
from mainspring.v1 import peers_pb2
from mainspring_coordinator.engine.effects import GrantPermits, StatePermits
from mainspring_coordinator.engine.permits import Group, Reply, Statement
from mainspring_coordinator.ports import PermitEffect


def to_request(effects: Iterable[PermitEffect]) -> peers_pb2.PassPermitsRequest:
    """Return a message for what is said."""
    request = peers_pb2.PassPermitsRequest()
    for effect in effects:
        if isinstance(effect, StatePermits):
            said = effect.statement
            request.statements.add(
                key=said.key,
                shard=said.shard,
                epoch=said.epoch,
                number=said.number,
                home_epoch=said.home_epoch,
                keeps=said.keeps,
                wants=_groups(said.wants),
            )
        else:
            reply = effect.reply
            request.replies.add(
                key=reply.key,
                shard=reply.shard,
                epoch=reply.epoch,
                number=reply.number,
                home_epoch=reply.home_epoch,
                granted=_groups(reply.granted),
                out=reply.out,
                waiting=reply.waiting,
            )
    return request


def to_statement(message: peers_pb2.PermitStatement, shards_total: int) -> StatePermits:
    """Return a statement; `BadRequestError` when something is beyond its bounds."""
    _check(message, shards_total)
    # No shard has more assignments, and a larger number would not fit into the database.
    _bound("keeps", message.keeps, 0, limits.assignment_number_max)
    wants = _counts(message.wants)
    said = Statement(
        message.key, message.shard, message.epoch, message.number, message.home_epoch, message.keeps, wants
    )
    return StatePermits(message.shard, said)


def to_reply(message: peers_pb2.PermitReply, shards_total: int) -> GrantPermits:
    """Return a reply; `BadRequestError` when something is beyond its bounds."""
    _check(message, shards_total)
    granted = _counts(message.granted)
    reply = Reply(
        message.key,
        message.shard,
        message.epoch,
        message.number,
        message.home_epoch,
        granted,
        message.out,
        message.waiting,
    )
    # By its own shard; that of the home is not needed any more.
    return GrantPermits(message.shard, reply)


def _groups(counts: Mapping[Group, int]) -> Iterable[peers_pb2.PermitGroup]:
    return [
        peers_pb2.PermitGroup(priority=group.priority, limit=group.limit, count=count)
        for group, count in counts.items()
    ]


def _counts(groups: Iterable[peers_pb2.PermitGroup]) -> dict[Group, int]:
    found: dict[Group, int] = {}
    for group in groups:
        _bound("priority", group.priority, 0, limits.priority_max)
        _bound("limit", group.limit, 1, limits.concurrency_limit_max)
        _bound("count", group.count, 1, limits.concurrency_limit_max)
        found[Group(group.priority, group.limit)] = group.count
    _bound("groups", len(found), 0, limits.permit_groups_max)
    return found


def _check(message: peers_pb2.PermitStatement | peers_pb2.PermitReply, shards_total: int) -> None:
    _bound("key", len(message.key.encode()), 1, limits.concurrency_key_bytes_max)
    _bound("shard", message.shard, 0, shards_total - 1)
    _bound("epoch", message.epoch, 0, limits.epoch_max)


def _bound(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BadRequestError(f"{field} is {value}, not within {low} to {high}", field=field)
