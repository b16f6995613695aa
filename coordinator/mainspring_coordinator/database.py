"""`mainspring db upgrade` and `mainspring db check`: the acts on a database that need no coordinator."""

import sys
from collections.abc import Sequence
from typing import Final

import orjson

from mainspring.errors import SettingsError
from mainspring.settings import CoordinatorSettings
from mainspring_coordinator.store.doctor import check_database
from mainspring_coordinator.store.schema import upgrade

_failed: Final = 1
_bad_usage: Final = 2
_help: Final = """Usage: mainspring db upgrade [--json] [--database-url URL]
       mainspring db check [--json] [--database-url URL]

Acts on the database that DATABASE_URL names; none of them needs a coordinator.

  upgrade  make the tables, or bring them to this release; run it before the new coordinators start
  check    tell whether the server, its settings, the user's rights and the tables are as coordinators need them

  --json              print one JSON document
  --database-url URL  the database, else DATABASE_URL, else {default}
  --config FILE       a TOML file with settings (MAINSPRING_CONFIG)

Example: mainspring db upgrade --database-url mysql://mainspring:secret@127.0.0.1/mainspring
"""


def main(words: Sequence[str]) -> int:
    """Do what the words say; return the exit status: 0, 1 when a check failed, 2 when no act is named."""
    as_json = "--json" in words
    rest = [word for word in words if word != "--json"]
    if not rest:
        sys.stderr.write(usage())
        return _bad_usage
    if rest[:1] == ["upgrade"]:
        return _upgrade(CoordinatorSettings.load(rest[1:]).database_url, as_json=as_json)
    if rest[:1] == ["check"]:
        return _check(CoordinatorSettings.load(rest[1:]).database_url, as_json=as_json)
    raise SettingsError(f"db {' '.join(words)}: there is no such act; there are upgrade and check")


def usage() -> str:
    """Return the help text."""
    return _help.format(default=CoordinatorSettings.reference()["DATABASE_URL"].default)


def _upgrade(url: str, *, as_json: bool) -> int:
    before, after = upgrade(url)
    if as_json:
        sys.stdout.write(orjson.dumps({"before": before, "after": after}).decode() + "\n")
    elif before == after:
        sys.stdout.write(f"The schema is at revision {after} already.\n")
    else:
        sys.stdout.write(f"The schema went from {before or 'nothing'} to revision {after}.\n")
    return 0


def _check(url: str, *, as_json: bool) -> int:
    findings = check_database(url)
    if as_json:
        rows = [{"name": f.name, "ok": f.ok, "detail": f.detail, "next_step": f.next_step} for f in findings]
        sys.stdout.write(orjson.dumps(rows).decode() + "\n")
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            sys.stdout.write(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:{width}}  {finding.detail}\n")
            if not finding.ok:
                sys.stdout.write(f"{'':6}{'':{width}}  → {finding.next_step}\n")
    return 0 if all(finding.ok for finding in findings) else _failed
