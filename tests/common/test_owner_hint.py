"""Hints where an owner is: what is written is read, and what is no hint is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.owner_hint import OwnerHint

hint = OwnerHint(5, 16, "0123456789abcdef" * 2, "db-1.internal:7320")


def test_a_hint_is_read_as_it_was_written() -> None:
    assert hint.to_text() == "5/16 0123456789abcdef0123456789abcdef db-1.internal:7320"
    assert OwnerHint.from_text(hint.to_text()) == hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5/16",
        "5/16 0123456789abcdef0123456789abcdef",
        "16/16 0123456789abcdef0123456789abcdef h:1",
        "0/2048 0123456789abcdef0123456789abcdef h:1",
        "-1/16 0123456789abcdef0123456789abcdef h:1",
        "5/16 else h:1",
        "5/16 0123456789abcdef0123456789abcdef h",
        "5/16 0123456789abcdef0123456789abcdef :1",
        "5/16 0123456789abcdef0123456789abcdef h:one",
        "5/16 0123456789abcdef0123456789abcdef " + "h" * 400 + ":1",
    ],
)
def test_what_is_no_hint_is_none(text: str) -> None:
    assert OwnerHint.from_text(text) is None


@given(st.text(max_size=100))
def test_nothing_that_comes_from_outside_raises(text: str) -> None:
    OwnerHint.from_text(text)
