"""The table of docs/settings.md, as the model says that it must be."""

from mainspring.settings import ClientSettings, CoordinatorSettings, WorkerSettings
from mainspring.settings_model import Settings
from mainspring.settings_security import Serving

PARTS: dict[str, type[Settings]] = {
    "coordinator": CoordinatorSettings,
    "worker": WorkerSettings,
    "client": ClientSettings,
}


def rows() -> list[str]:
    """Return one row a setting and set of parts that agree on it, in the model's order, those on who may connect last."""
    told: dict[tuple[str, ...], list[str]] = {}
    for part, settings in PARTS.items():
        for item in settings.reference().values():
            told.setdefault((item.name, item.meaning, item.default, item.allowed), []).append(part)
    security = Serving.reference()
    return [
        f"| `{name}` | {', '.join(parts) if len(parts) < len(PARTS) else 'all'} | {meaning} | {default} | {allowed} |"
        for (name, meaning, default, allowed), parts in sorted(told.items(), key=lambda row: row[0][0] in security)
    ]
