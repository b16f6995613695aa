"""The table of docs/settings.md, as the model says that it must be."""

from mainspring.settings import ClientSettings, CoordinatorSettings, WorkerSettings
from mainspring.settings_model import Settings

PARTS: dict[str, type[Settings]] = {
    "coordinator": CoordinatorSettings,
    "worker": WorkerSettings,
    "client": ClientSettings,
}


def rows() -> list[str]:
    """Return one row a setting and set of parts that agree on it, in the model's order."""
    told: dict[tuple[str, ...], list[str]] = {}
    for part, settings in PARTS.items():
        for item in settings.reference().values():
            told.setdefault((item.name, item.meaning, item.default, item.allowed), []).append(part)
    return [
        f"| `{name}` | {', '.join(parts) if len(parts) < len(PARTS) else 'all'} | {meaning} | {default} | {allowed} |"
        for (name, meaning, default, allowed), parts in told.items()
    ]
