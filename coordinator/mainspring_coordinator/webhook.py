"""Alerts to the operators' webhook: one POST an event, signed, in a thread of its own, with a limit on its time.

Nothing here is retried; `record` decides that. The URL may hold a secret, so that no error of ours repeats it.
"""

import asyncio
import hashlib
import hmac
import threading
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

import orjson

from mainspring import limits
from mainspring.failovers import Failover

event_header: Final = "Mainspring-Event-Id"
timestamp_header: Final = "Mainspring-Timestamp"
signature_header: Final = "Mainspring-Signature"


class AlertError(Exception):
    """The receiver did not take an alert; the text says why, without the URL."""


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return what the signature header holds: HMAC-SHA256 over the timestamp header, a dot and the body."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Webhook:
    """Where alerts go."""

    def __init__(self, url: str, secret: str | None, cluster: str) -> None:
        """Without a `secret` the alerts are not signed. `cluster` is named in each of them."""
        self._url = url
        self._secret = secret
        self._cluster = cluster
        self._opener = OpenerDirector()
        # Without the handler of redirects: a redirected POST would arrive as a GET without a body. It counts as refused.
        for handler in (ProxyHandler, HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor):
            self._opener.add_handler(handler())

    async def send(self, event: Failover, now_us: int) -> None:
        """Deliver an alert; `AlertError` when the receiver did not take it. `now_us` is database time."""
        body = orjson.dumps({"cluster": self._cluster, **event.document()})
        headers = {
            "Content-Type": "application/json",
            event_header: event.event_id,
            timestamp_header: str(now_us // 1_000_000),
        }
        if self._secret:
            headers[signature_header] = signature(self._secret, headers[timestamp_header], body)
        request = Request(self._url, body, headers, method="POST")  # noqa: S310  # the setting allows http and https only
        await _in_daemon_thread(lambda: self._post(request))

    def _post(self, request: Request) -> None:
        try:
            with self._opener.open(request, timeout=limits.alert_timeout_ms / 1_000) as answer:
                status = int(answer.status)
        except HTTPError as error:
            error.close()
            raise AlertError(f"the receiver answered {error.code}") from None
        except URLError as error:
            reason = str(error.reason) if isinstance(error.reason, OSError) else type(error.reason).__name__
            raise AlertError(f"the receiver is out of reach: {reason}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise AlertError(f"the receiver gave no answer: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise AlertError(f"the receiver answered {status}")


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    """Run something that may hang, so that neither the event loop nor the end of the process waits for it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: Exception | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        try:
            work()
        except Exception as error:  # handed to who waits
            outcome: Exception | None = error
        else:
            outcome = None
        with suppress(RuntimeError):  # the event loop is closed: the process ends, and nobody is left to be told
            loop.call_soon_threadsafe(tell, outcome)

    threading.Thread(target=run, name="alert", daemon=True).start()
    await done
