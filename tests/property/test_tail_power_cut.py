"""A source that lost its end with the power goes on at the cut: nothing twice that did not change, nothing skipped."""

import os
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from tests.unit.tail.harness import Follow, append

LINES = st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"") + b"\n"), min_size=1, max_size=30)


@settings(max_examples=int(os.environ.get("JLOGD_TAIL_EXAMPLES", "100")), deadline=None)
@given(
    before=LINES, after=LINES, cut=st.integers(0, 1300), look_between=st.booleans(), max_line=st.sampled_from([5, 1000])
)
def test_cut_and_grown(before: list[bytes], after: list[bytes], cut: int, look_between: bool, max_line: int) -> None:
    """Generation 2 is the file from the start of the first line that changed, generation 1 all that was read."""
    old = b"".join(before)
    cut = min(cut, len(old))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "app.log"
        log.write_bytes(old)
        follow = Follow(log, max_line=max_line)
        follow.settle(1)
        follow.stop()
        os.truncate(log, cut)
        if look_between:
            follow.start()
            follow.settle(3)
            follow.stop()
        append(log, b"".join(after))
        follow.start()
        follow.settle(5)
        follow.restart()
        follow.settle(5)
        follow.stop()
        now, texts = log.read_bytes(), follow.journal.text()
    assert texts.pop(1)[: len(old)] == old or cut == len(old)
    assert follow.journal.gaps() == []
    if now.startswith(old):
        assert follow.journal.all_text() == now
        return
    common = next(at for at in range(len(old) + 1) if now[: at + 1] != old[: at + 1])
    later = b"".join(text for _, text in sorted(texts.items()))
    earliest = now.rfind(b"\n", 0, min(common, cut)) + 1  # a look in between could not know how the line would go on
    starts = {now.rfind(b"\n", 0, common) + 1, earliest}
    assert later in {now[start:] for start in starts}
