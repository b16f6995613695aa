"""The committed Python side of the contract is what the protos give."""

import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parents[2]


def test_the_generated_files_are_those_that_the_protos_give(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="the generator is a tool for development; the wheel is tested without it")
    pytest.importorskip("mypy_protobuf", reason="as above")
    protos = sorted((root / "protos/mainspring/v1").glob("*.proto"))
    outputs = [f"--{kind}={tmp_path}" for kind in ("python_out", "grpc_python_out")]
    typed = [f"--{kind}=quiet:{tmp_path}" for kind in ("mypy_out", "mypy_grpc_out")]
    plugins = [f"--plugin={p}={Path(sys.executable).parent / p}" for p in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", root / "protos", *outputs, *typed, *plugins, *protos],
        check=True,
    )
    made = {path.name: path.read_bytes() for path in (tmp_path / "mainspring/v1").iterdir()}
    committed = {path.name: path.read_bytes() for path in (root / "common/mainspring/v1").glob("*_pb2*")}
    assert made.keys() == committed.keys()
    assert [name for name in made if made[name] != committed[name]] == [], "run `make protos` and commit what it wrote"
