"""The lines of a child, whatever it writes; the life of processes is in tests/e2e/test_supervisor.py."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from daemons.process import bounded_lines


def slow_lines(data: bytes, most_bytes: int) -> list[bytes]:
    """All in memory, then cut."""
    lines = data.split(b"\n")
    return [line[:most_bytes].rstrip(b"\r\n") for line in lines[: -1 if lines[-1] == b"" else None]]


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"x" * 7]), max_size=30).map(b"".join), st.integers(1, 9))
def test_lines_are_cut_as_if_all_had_been_in_memory(data, most_bytes):
    assert list(bounded_lines(io.BytesIO(data), most_bytes=most_bytes)) == slow_lines(data, most_bytes)


def test_a_line_without_end_is_never_held_as_a_whole():
    asked = set()

    class Endless(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            asked.add(size)
            return super().readline(size)

    stream = Endless(b"x" * 1_000_000 + b"\nnext\n")
    assert list(bounded_lines(stream, most_bytes=10)) == [b"x" * 10, b"next"]
    assert asked == {10}
