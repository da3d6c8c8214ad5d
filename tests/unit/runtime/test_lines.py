"""Lines are counted right, however long they are."""

from hypothesis import given
from hypothesis import strategies as st

from jlogd.runtime.lines import count_lines


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 40), st.binary(max_size=5))
def test_count_is_that_of_bytes(lengths: list[int], repeat: int, end: bytes) -> None:
    """Short lines, long lines, both, none, and an end without a newline."""
    block = b"".join(b"x" * length + b"\n" for length in lengths) * repeat + end
    assert count_lines(block) == block.count(b"\n")
