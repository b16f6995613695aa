"""The calendars of the demo: a team moved from a calendar each to shared ones, and the old ones are still there."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

people = (
    "ada", "alan", "annie", "barbara", "claude", "dennis", "donald", "edsger", "frances", "grace", "hedy", "jean",
    "john", "karen", "katherine", "ken", "lynn", "margaret", "niklaus", "radia", "shafi", "sophie", "tim", "tony",
)  # fmt: skip
teams = ("atlas", "borealis", "cygnus", "draco", "equinox", "fornax", "gemini", "hydra")
kept = ("holidays", "rooms")


@dataclass(frozen=True)
class Replaced:
    """An old calendar and the one that took its place."""

    old_id: str
    new_id: str
    owner: str


replaced = tuple(Replaced(f"old-{person}", f"team-{teams[i % len(teams)]}", person) for i, person in enumerate(people))
"""What the table of mappings holds."""

already_gone = replaced[6].old_id
"""Somebody deleted this one by hand last week."""

stumbling = replaced[11].old_id
"""The server answers the first two deletes of this one with 503."""


def on_server() -> dict[str, str]:
    """Return the calendars that the server has at the start: name to iCalendar text."""
    old = [mapping.old_id for mapping in replaced if mapping.old_id != already_gone]
    return {name: icalendar(name, events=3 + i % 5) for i, name in enumerate([*old, *left_at_the_end()])}


def left_at_the_end() -> list[str]:
    """Return the names of the calendars that the clean-up must not touch."""
    return sorted({mapping.new_id for mapping in replaced} | set(kept))


def icalendar(name: str, events: int) -> str:
    """Return a calendar with some events: single ones, weekly and monthly ones, one that lasts all day."""
    monday = datetime(2024, 1, 8, 9, 0, tzinfo=UTC)
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//Mainspring//calendar demo//EN",
        f"NAME:{name}",
        f"X-WR-CALNAME:{name}",
    ]
    for i in range(events):
        start = monday + timedelta(days=i, hours=i % 4)
        lines += ["BEGIN:VEVENT", f"UID:{name}-{i}@example.org", f"DTSTAMP:{monday:%Y%m%dT%H%M%SZ}"]
        if i % 4 == 3:
            lines += [f"DTSTART;VALUE=DATE:{start:%Y%m%d}", f"SUMMARY:Day off ({name})"]
        else:
            rule = (
                "RRULE:FREQ=WEEKLY;BYDAY=MO,TH;COUNT=40",
                "RRULE:FREQ=MONTHLY;BYMONTHDAY=15;UNTIL=20261231T235959Z",
                "",
            )[i % 4]
            lines += [f"DTSTART:{start:%Y%m%dT%H%M%SZ}", f"DTEND:{start + timedelta(minutes=45):%Y%m%dT%H%M%SZ}"]
            lines += [f"SUMMARY:Meeting {i + 1} of {name}", f"LOCATION:Room {i + 1}", *([rule] if rule else [])]
        lines.append("END:VEVENT")
    return "\r\n".join([*lines, "END:VCALENDAR", ""])
