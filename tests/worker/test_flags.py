"""The worker's flags: every setting that docs/settings.md says a worker reads, and the short names of some."""

import pytest

from mainspring.settings import WorkerSettings
from mainspring_worker.__main__ import main
from tests.settings.reference import rows


def read_by_workers() -> list[str]:
    """Return the names of the settings whose row of the table names workers."""
    cells = [[cell.strip() for cell in row.split("|")[1:3]] for row in rows()]
    return [name.strip("`") for name, parts in cells if parts == "all" or "worker" in parts]


def flags_of(name: str) -> list[str]:
    """Return what docs/settings.md says that the setting is called on a worker's command line."""
    short = {"MAX_CONCURRENT_NODES": "--slots", "ENGINE_INSTANCE_ID": "--name", "MAINSPRING_ADDRESS": "--address"}
    own = "--config" if name == "MAINSPRING_CONFIG" else f"--{name.lower().replace('_', '-')}"
    return [own, short[name]] if name in short else [own]


@pytest.mark.parametrize(
    ("name", "flag"), [(name, flag) for name in read_by_workers() for flag in flags_of(name)], ids=lambda word: word
)
def test_each_setting_of_a_worker_is_a_flag(name: str, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class LoadedError(Exception):
        pass

    def load(flags: dict[str, object]) -> None:
        raise LoadedError({key: value for key, value in flags.items() if value is not None})

    monkeypatch.setattr(WorkerSettings, "load", load)
    with pytest.raises(LoadedError) as caught:
        main(["--import", "tasks", flag, "7"])
    assert caught.value.args == ({name: "7"},)


def test_a_bad_value_is_refused_in_the_words_of_its_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--import", "tasks", "--heartbeat-interval", "1"]) == 2
    assert "HEARTBEAT_INTERVAL = '1' (flag): allowed is 100 to 3600000" in capsys.readouterr().err


def test_the_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in read_by_workers():
        for flag in flags_of(name):
            assert flag in shown
