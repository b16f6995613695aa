"""A worker needs one address to begin with: of one coordinator, or a name that stands for several, of which not all need to answer."""

import asyncio
import ctypes
import os
from pathlib import Path

import pytest

from tests.cluster.checks import all_ended
from tests.cluster.flows import load
from tests.cluster.running import RealCluster, eventually

_with_own_hosts = """
import ctypes, os, runpy, subprocess, sys
clone_newns = 0x00020000
if ctypes.CDLL(None, use_errno=True).unshare(clone_newns):
    raise OSError(ctypes.get_errno(), "unshare")
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", os.environ["OWN_HOSTS"], "/etc/hosts"], check=True)
module, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(os.geteuid() != 0 or not hasattr(ctypes.CDLL(None), "unshare"), reason="mounts need root")
def test_a_name_may_stand_for_several_coordinators_and_the_cluster_names_the_rest(
    chosen_url: str, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.9 coordinators\n127.0.0.1 coordinators\n")  # at the first one nobody listens

    async def play() -> None:
        async with RealCluster(chosen_url, tmp_path, DISTRIBUTED_MODE="true") as cluster:
            await asyncio.gather(cluster.coordinator("c1"), cluster.coordinator("c2"))
            port = cluster.address("c1").rpartition(":")[2]
            await cluster.worker(
                "w1", through=_with_own_hosts, OWN_HOSTS=str(hosts), MAINSPRING_ADDRESS=f"coordinators:{port}"
            )
            client = cluster.client()

            async def attached_to_both() -> bool:
                return [row.workers for row in await client.coordinators()] == [1, 1]

            await eventually(attached_to_both)
            await all_ended(client, await load(client, 4))

    asyncio.run(play())
