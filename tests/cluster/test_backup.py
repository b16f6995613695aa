"""A dump that was made under load is put back, by the lines of docs/deploying.md, under a worker that has seen more than it holds."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mainspring.errors import NotFoundError
from tests.cluster.checks import all_ended, counted_once
from tests.cluster.flows import gate, load
from tests.cluster.running import RealCluster, so
from tests.servers.mariadb import MariadbServer, program

page = Path(__file__).parents[2] / "docs/deploying.md"
two_s_lease = {"DISTRIBUTED_MODE": "true", "LEASE_TIMEOUT": "2000"}


def lines(first_word: str) -> str:
    """The block of the page that begins with this command."""
    (block,) = re.findall(rf"^```sh\n({first_word} .*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


class Shell:
    """Runs what the page says, as someone whose `~/.my.cnf` is for this server; MariaDB's programs under MySQL's names."""

    def __init__(self, folder: Path, server: MariadbServer, database: str) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        dump = shutil.which("mariadb-dump") or cache / "mainspring/mariadb-client/usr/bin/mariadb-dump"
        if not os.access(dump, os.X_OK):
            reason = "no mariadb-dump here; run .ci/mariadb-dump on Debian or Ubuntu"
            if os.environ.get("MAINSPRING_TEST_MARIADB_CLIENT") == "required":
                pytest.fail(reason)
            pytest.skip(reason)
        self._folder = folder / "shell"
        self._database = database
        (self._folder / "bin").mkdir(parents=True)
        (self._folder / ".my.cnf").write_text(f"[client]\nuser=root\nsocket={server.socket_path}\n")
        for name, runs in (
            ("mysqldump", f'"{dump}" "${{@/--set-gtid-purged=OFF/--quick}}"'),
            ("mysql", f'"{program("mariadb")}" "$@"'),
        ):
            script = self._folder / "bin" / name
            script.write_text(f"#!/bin/bash\nexec {runs}\n")
            script.chmod(0o755)

    def run(self, text: str) -> None:
        done = subprocess.run(
            ["/bin/bash", "-euc", text.replace("workflow_db", self._database)],
            cwd=self._folder,
            env={"PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self._folder)},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def server() -> Iterator[MariadbServer]:
    """One whose administrator the lines may be; on MySQL they are the same but for the client's name."""
    with MariadbServer() as started:
        yield started


def test_a_cluster_goes_on_from_a_dump_and_its_workers_need_not_be_restarted(
    server: MariadbServer, tmp_path: Path
) -> None:
    async def play() -> None:
        database = server.new_database()
        shell = Shell(tmp_path, server, database)
        async with RealCluster(server.url(database), tmp_path, **two_s_lease) as cluster:
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            await cluster.worker("w1")
            client = cluster.client()
            held = await client.submit(gate(), "open")
            await so(lambda: len(cluster.effects.read("start")) == 1)
            expected = await load(client, 10, "before-")
            await so(partial(cluster.effects.done, 40))
            await asyncio.to_thread(shell.run, lines("mysqldump"))
            # What the dump does not know: workflows, results, and epochs that the worker has seen.
            lost = await load(client, 5, "after-")
            await all_ended(client, {**expected, **lost})
            for _ in range(2):
                for name in ("c1", "c2"):
                    await next(one for one in reversed(cluster.processes) if one.name == name).killed()
                    await cluster.coordinator(name)
            for name in ("c1", "c2"):
                await next(one for one in reversed(cluster.processes) if one.name == name).killed()
            await asyncio.to_thread(shell.run, lines("mysql"))
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            for workflow in lost:
                with pytest.raises(NotFoundError):
                    await client.get(workflow)
            cluster.effects.open_gate("open")
            assert await held.result(60)
            await all_ended(client, expected)
            await counted_once(client, expected, cluster.effects)
            # What the dump lacks may be submitted again.
            assert await load(client, 5, "after-") == lost
            await all_ended(client, lost)

    asyncio.run(play())
