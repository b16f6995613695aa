"""Log lines: JSON on stderr for machines, readable in a terminal; the same for our own lines and those of libraries.

No line carries a payload or a secret. Callers name things (workflow, node, shard) instead of showing them; should one pass a payload
or a secret after all, it is replaced here, and every text is cut to its bound.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, Protocol, TextIO, cast

import structlog

from mainspring.limits import log_value_bytes_max
from mainspring.log_stream import LogStream
from mainspring.printable import printable
from mainspring.settings_model import mask
from mainspring.wire import clip

_PAYLOADS: Final = frozenset({"input", "output", "payload", "progress"})
_SECRETS: Final = ("password", "passwd", "secret", "token", "authorization", "cookie", "credential")
_log: Final = structlog.get_logger(__name__)
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Task(Protocol):
    """What code runs on behalf of."""

    def log_facts(self) -> Mapping[str, object]:
        """Return what each of its log lines is to name."""
        ...


current_task: Final[ContextVar[Task | None]] = ContextVar("current_task", default=None)
"""Log lines that are written meanwhile, by ours and by others' code, name it."""


def configure_logs(level: str = "info", stream: TextIO | None = None) -> None:
    """Send all log lines of `level` and above to `stream`, stderr unless set; call it once, before the first line."""
    out = LogStream(stream or sys.stderr)
    render: list[structlog.typing.Processor]
    if out.isatty():
        show = structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
        render = [structlog.processors.format_exc_info, _tame, show]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    shared: list[structlog.typing.Processor] = [
        _add_task,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _keep_private,
    ]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", out)),
        cache_logger_on_first_use=False,
    )
    _bring_in_libraries(shared, render, out, _LEVELS[level])


def _bring_in_libraries(
    shared: list[structlog.typing.Processor], render: list[structlog.typing.Processor], out: LogStream, level: int
) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    handler.addFilter(_matters)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    _set_library_level(level)


def _set_library_level(level: int) -> None:
    # A library's chatter is not ours: only what it warns of, unless everything is asked for.
    logging.getLogger().setLevel(level if level == logging.DEBUG else max(level, logging.WARNING))


def set_level(level: str) -> None:
    """From now on log the lines of `level` and above; `configure_logs` must have been called."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))
    _set_library_level(_LEVELS[level])


def is_debugging() -> bool:
    """Tell whether debug lines are logged; for those that would cost something even if they are not."""
    return logging.getLogger().level == logging.DEBUG


def change_level_by_signals(level: str) -> None:
    """Log everything from SIGUSR1 on, and what `level` says again from SIGUSR2 on. For the running event loop."""
    loop = asyncio.get_running_loop()

    def change(to: str) -> None:
        set_level(to)
        _log.warning("log_level_changed", log_level=to)

    loop.add_signal_handler(signal.SIGUSR1, change, "debug")
    loop.add_signal_handler(signal.SIGUSR2, change, level)


def _add_task(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> Mapping[str, Any] | str | bytes | bytearray | tuple[Any, ...]:
    del logger, method  # a processor gets them
    task = current_task.get()
    if task is not None:
        for name, value in task.log_facts().items():
            event.setdefault(name, value)
    return event


def _matters(record: logging.LogRecord) -> bool:
    """Leave out that a caller was gone before its answer could be sent, which gRPC reports as an error with a stack."""
    return not (record.name == "grpc._cython.cygrpc" and record.getMessage().startswith("ExecuteBatchError raised in"))


def _keep_private(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> Mapping[str, Any] | str | bytes | bytearray | tuple[Any, ...]:
    del logger, method  # a processor gets them
    for key, value in event.items():
        name = key.lower()
        if name in _PAYLOADS or isinstance(value, bytes | bytearray | memoryview):
            event[key] = f"<{len(value)} left out>" if hasattr(value, "__len__") else "<left out>"
        elif any(word in name for word in _SECRETS):
            event[key] = "****"
        elif isinstance(value, str):
            text = mask(value) if name.endswith("url") else value
            event[key] = clip(text, log_value_bytes_max)
    return event


def _tame(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> Mapping[str, Any] | str | bytes | bytearray | tuple[Any, ...]:
    """Leave nothing in the texts of others, such as a worker's name, that a terminal would obey; JSON escapes it by itself."""
    del logger, method  # a processor gets them
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event
