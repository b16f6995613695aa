"""The command that shows the settings as they are in force."""

from enum import StrEnum
from typing import Annotated, Final

import typer

from mainspring.settings import ClientSettings, CoordinatorSettings, WorkerSettings
from mainspring.settings_model import EffectiveSetting, Settings
from mainspring.settings_security import Serving
from mainspring_client.cli.app import JsonOption, app, examples, session_of

_made_at_start: Final = "ENGINE_INSTANCE_ID"
"""Its default has the number of the process that it is for."""


class Part(StrEnum):
    """Whose settings."""

    COORDINATOR = "coordinator"
    WORKER = "worker"
    CLIENT = "client"


_settings: Final[dict[Part, type[Settings]]] = {
    Part.COORDINATOR: CoordinatorSettings,
    Part.WORKER: WorkerSettings,
    Part.CLIENT: ClientSettings,
}


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog=examples(
        "mainspring config coordinator",
        "mainspring config worker --config mainspring.toml --json",
        "mainspring config coordinator --heartbeat-interval 1000 --failure-detection-timeout 3000",
    ),
)
def config(
    ctx: typer.Context,
    part: Annotated[Part, typer.Argument(metavar="[PART]", help="coordinator, worker or client.")] = Part.COORDINATOR,
    as_json: JsonOption = False,
) -> None:
    """Show the settings of a part as they would be in force here, and where each comes from.

    The environment of this terminal is read, the file of --config or MAINSPRING_CONFIG, and the settings' own flags behind the part.
    Values that are not allowed, or do not fit each other, are refused as they would be at a start. Secrets are masked.
    """
    session = session_of(ctx, as_json=as_json)
    settings = _settings[part].load(_flags(ctx, part, session.address))
    if isinstance(settings, Serving):
        settings.demand_closed_doors()
    found = [_shown(one, _settings[part]) for one in settings.effective()]
    if session.out.as_json:
        session.out.document(found)
        return
    session.out.table(["setting", "value", "from"], [[one.name, one.value, one.origin] for one in found])
    session.out.hint("docs/settings.md says what each means and allows")


def _flags(ctx: typer.Context, part: Part, address: str | None) -> list[str]:
    """Return the settings' flags; the address before the command counts as one where the part reads it."""
    given = address is not None and part is not Part.COORDINATOR
    return [*(["--mainspring-address", str(address)] if given else []), *ctx.args]


def _shown(one: EffectiveSetting, settings: type[Settings]) -> EffectiveSetting:
    if one.name == _made_at_start and one.origin == "default":
        return EffectiveSetting(one.name, settings.reference()[one.name].default.strip("`"), one.origin)
    return one
