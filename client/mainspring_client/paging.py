"""Lists that come page by page, read as one."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from mainspring.limits import page_size_max


class Page(Protocol):
    """What each answer of a list has beside its rows."""

    next_page_token: str
    """Empty: there is no more."""


PageT = TypeVar("PageT", bound=Page)
RowT = TypeVar("RowT")


async def rows(
    read: Callable[[int, str], Awaitable[PageT]],
    rows_of: Callable[[PageT], Iterable[RowT]],
    *,
    limit: int | None = None,
    size: int = page_size_max,
) -> AsyncGenerator[RowT]:
    """Read the rows of all pages, at most `limit`.

    `read` gets the size and the token of a page. size: of each page, unless fewer are left to read; 0: the server chooses.
    """
    token = ""
    left = limit
    while left is None or left > 0:
        page = await read(size if left is None else min(left, page_size_max), token)
        count = 0
        for row in rows_of(page):
            yield row
            count += 1
        token = page.next_page_token
        if not token:
            return
        left = None if left is None else left - count
