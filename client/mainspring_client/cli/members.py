"""The commands by which operators act on one worker, or on a coordinator that is dead."""

from typing import Annotated

import typer

from mainspring_client.cli.acting import ReasonOption
from mainspring_client.cli.app import AddressOption, JsonOption, ask, examples, session_of
from mainspring_client.cli.cluster import coordinators, workers
from mainspring_client.cli.output import counted

NameArgument = Annotated[str, typer.Argument(metavar="WORKER", help="Its name.")]
IncarnationOption = Annotated[
    str,
    typer.Option(
        "--incarnation",
        metavar="ID",
        help="Which one, where a name stands for several; mainspring workers --json shows it.",
        show_default=False,
    ),
]
WhyOption = Annotated[str, typer.Option("--reason", help="Why; it is kept.", show_default=False)]


@workers.command(
    epilog=examples(
        "mainspring workers drain worker-3 --reason 'a new kernel'",
        "mainspring workers drain worker-3 --incarnation 5c1f0a9e8d7b6c5a4f3e2d1c0b9a8f7e --json",
    )
)
def drain(
    ctx: typer.Context,
    name: NameArgument,
    incarnation: IncarnationOption = "",
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a worker take no more work, finish what it runs, and stay.

    It holds until the worker is undrained or started again: then it is a new incarnation, which is not drained.
    """
    session = session_of(ctx, address, as_json=as_json)
    drained = ask(session, lambda client: client.drain_worker(name, incarnation=incarnation, reason=reason))
    if session.out.as_json:
        session.out.document(drained)
    else:
        runs = f"finishes what it runs ({drained.running})" if drained.running else "runs nothing"
        takes = "is drained already" if drained.already else "takes no more work"
        session.out.line(f"{name} {takes} and {runs}; once it has nothing it is DRAINED: mainspring workers")


@workers.command(epilog=examples("mainspring workers undrain worker-3 --reason 'the kernel is there'"))
def undrain(
    ctx: typer.Context,
    name: NameArgument,
    incarnation: IncarnationOption = "",
    reason: ReasonOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a worker that was drained take work again."""
    session = session_of(ctx, address, as_json=as_json)
    found = ask(session, lambda client: client.undrain_worker(name, incarnation=incarnation, reason=reason))
    if session.out.as_json:
        session.out.document(found)
    else:
        session.out.line(f"{name} was not drained" if found.already else f"{name} takes work again")


@workers.command(
    epilog=examples(
        "mainspring workers evict worker-3 --reason 'its host burned'",
        "mainspring workers evict worker-3 --incarnation 5c1f0a9e8d7b6c5a4f3e2d1c0b9a8f7e --reason 'it hangs'",
    )
)
def evict(
    ctx: typer.Context,
    name: NameArgument,
    reason: WhyOption,
    incarnation: IncarnationOption = "",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Treat a worker as gone: its work goes elsewhere at once, and this incarnation may not come back.

    Its stream is closed and its late results are refused; nothing counts as a redelivery. One that is away need not be waited for
    any longer. A worker that is started again is welcome: stop it where it is started, if it must not come back.
    """
    session = session_of(ctx, address, as_json=as_json)
    evicted = ask(session, lambda client: client.evict_worker(name, reason, incarnation=incarnation))
    if session.out.as_json:
        session.out.document(evicted)
        return
    session.out.line(f"{name} ({evicted.incarnation}) is treated as gone; its work goes elsewhere")
    if not evicted.known:
        lives = f"; attached as {name} is: {', '.join(evicted.others)}" if evicted.others else ""
        session.out.hint(f"no coordinator knows it at the moment; it would be refused if it came{lives}")
    if evicted.unasked:
        session.out.hint(
            f"could not be asked whether they had it, and learn of it from the database: {', '.join(evicted.unasked)}"
        )


@coordinators.command(
    epilog=examples(
        "mainspring coordinators release 5c1f0a9e8d7b6c5a4f3e2d1c0b9a8f7e --name engine-2 --reason 'its host burned'",
        "mainspring coordinators release 5c1f0a9e8d7b6c5a4f3e2d1c0b9a8f7e --name engine-2 --reason 'it hangs' --force",
    )
)
def release(
    ctx: typer.Context,
    incarnation: Annotated[
        str, typer.Argument(metavar="INCARNATION", help="Which one; mainspring coordinators --json shows it.")
    ],
    name: Annotated[str, typer.Option("--name", help="Its name, so that no slip of the pen names another one.")],
    reason: WhyOption,
    force: Annotated[bool, typer.Option("--force", help="Also if it lives: it loses its term.")] = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Free the shards of a dead coordinator, so that the live ones take them.

    With ENABLE_FAILOVER off nobody takes over from the dead: their shards wait for one of their name, or for this. One that lives is
    refused; with --force its database connections are ended first, and it joins again as a new incarnation.
    """
    session = session_of(ctx, address, as_json=as_json)
    released = ask(session, lambda client: client.release_instance(incarnation, name, reason, force=force))
    if session.out.as_json:
        session.out.document(released)
        return
    ended = "; it lived, and was ended" if released.was_live else ""
    session.out.line(
        f"{counted(released.shards, 'shard')} of {name} {'is' if released.shards == 1 else 'are'} free{ended}; see: mainspring shards"
    )
