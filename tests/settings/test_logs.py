"""Log lines are JSON for machines, readable for people, and never carry a payload or a secret."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from mainspring.logs import configure_logs, current_task, is_debugging, set_level


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_for_machines_is_json_with_time_and_level() -> None:
    out = io.StringIO()
    configure_logs("info", out)
    structlog.get_logger().info("shard_taken", shard=3)
    (line,) = lines(out)
    assert line["event"] == "shard_taken"
    assert line["level"] == "info"
    assert line["shard"] == 3
    assert line["timestamp"].endswith("Z")


def test_a_line_for_people_is_not_json() -> None:
    out = Terminal()
    configure_logs("info", out)
    structlog.get_logger().info("shard_taken", shard=3)
    assert "shard_taken" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_nothing_that_others_wrote_is_obeyed_by_a_terminal() -> None:
    out = Terminal()
    configure_logs("info", out)
    structlog.get_logger().info("worker_attached", worker="\x1b]0;owned\x07", executors=["\x1b[2J"])
    structlog.get_logger().error("call_failed", exc_info=ValueError("\x9b31m"))
    logging.getLogger("shop").warning("\x1b[8m")
    told = out.getvalue()
    assert "ValueError" in told
    for obeyed in ("\x1b]", "\x07", "\x1b[2J", "\x9b", "\x1b[8m"):
        assert obeyed not in told


def test_lines_below_the_level_are_left_out() -> None:
    out = io.StringIO()
    configure_logs("warning", out)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


class Attempt:
    def log_facts(self) -> dict[str, object]:
        return {"workflow": "wf-1", "attempt": 2}


def test_lines_written_while_an_attempt_runs_name_it_whoever_writes_them() -> None:
    out = io.StringIO()
    configure_logs("info", out)
    token = current_task.set(Attempt())
    structlog.get_logger().info("ours", attempt=7)
    logging.getLogger("shop").warning("theirs")
    current_task.reset(token)
    structlog.get_logger().info("after")
    assert [(line["event"], line.get("workflow"), line.get("attempt")) for line in lines(out)] == [
        ("ours", "wf-1", 7),
        ("theirs", "wf-1", 2),
        ("after", None, None),
    ]


def test_the_level_changes_while_the_process_runs() -> None:
    out = io.StringIO()
    configure_logs("warning", out)
    log = structlog.get_logger()
    for level in ("warning", "debug", "warning"):
        set_level(level)
        log.debug(f"ours at {level}")
        logging.getLogger("shop").debug("theirs at %s", level)
        assert is_debugging() == (level == "debug")
    assert [line["event"] for line in lines(out)] == ["ours at debug", "theirs at debug"]


def test_libraries_speak_in_the_same_form_when_they_warn() -> None:
    out = io.StringIO()
    configure_logs("info", out)
    logging.getLogger("uvicorn").info("chatter")
    logging.getLogger("uvicorn").warning("port %s", 3000)
    (line,) = lines(out)
    assert (line["event"], line["logger"]) == ("port 3000", "uvicorn")


def test_payloads_and_secrets_are_left_out_and_texts_are_bounded() -> None:
    out = io.StringIO()
    configure_logs("info", out)
    structlog.get_logger().info(
        "all", input=b"hush", raw=b"hush", db_password="hush", database_url="mysql://u:hush@h/d", text="x" * 10_000
    )
    (line,) = lines(out)
    assert "hush" not in out.getvalue()
    assert line["database_url"] == "mysql://u:****@h/d"
    assert len(line["text"].encode()) <= 8_192


def test_a_stack_is_in_the_line() -> None:
    out = io.StringIO()
    configure_logs("info", out)
    try:
        int("boom")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = lines(out)
    assert "ValueError: invalid literal" in line["exception"]


def test_a_caller_that_is_gone_is_no_error_and_other_errors_of_grpc_are() -> None:
    out = io.StringIO()
    configure_logs("info", out)
    grpc = logging.getLogger("grpc._cython.cygrpc")
    grpc.error("ExecuteBatchError raised in core by servicer method [%s]", "/mainspring.v1.WorkflowsService/Submit")
    grpc.error("Unexpected [%s] raised by servicer method", "KeyError")
    (line,) = lines(out)
    assert line["event"] == "Unexpected [KeyError] raised by servicer method"
