"""Searching whole frames finds exactly the lines that a search in each single line finds."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jlogd.runtime.errors import UsageError
from managerd.archive.pattern import Across, LineByLine, Literal, compile_pattern

ATOMS = [
    "a", "b", "B", "é", " ", "\t", "x1", "ab", ".", r"\s", r"\S", r"\w", r"\W", r"\d", r"\D", r"\b", r"\B", r"\A",
    r"\Z", "^", "$", "[^a]", "[ab]", r"[\s]", r"[^\S]", r"[^\n]", r"[\W]", "[]a]", "[^]a]", r"[^\]]", "[a-c]",
    "[\t-b]", r"\n", r"\x0a", r"\x61", r"\t", r"[\t-b]", r"[\x00-b]", "(?:a|b)", "(a)", r"(a)\1", "(?=a)", "(?!a)",
    r"(?!\s)", "(?<=a)", "(?<!a)", r"(?<!\s)", "(?>a*)", "(?i:a)", "(?s:.)", "(?-i:a)", r"\.", r"\\", "(?:)", "|",
    "a{2}", "a{1,2}", ".{3,}", "a{,2}", "{", "}", "a{b", "(ab)*", "[^a]*", r"\s*", ".*", "a+", "b*+", "a?", r"\s++",
    "(?#c)", "[[a]", r"[\-a]", r"[a\-\t]",
]  # fmt: skip
LINE = st.text(alphabet="aabbB .\t\r\\1x]é{}-", max_size=8).map(str.encode)
PATTERN = st.lists(st.sampled_from(ATOMS), min_size=0, max_size=5).map(lambda atoms: "".join(atoms).encode())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(max_examples=600, deadline=None)
@given(PATTERN, st.lists(LINE, max_size=6), st.booleans(), st.booleans(), st.integers(0, 6), st.integers(0, 6))
def test_same_lines_as_one_by_one(
    pattern: bytes, lines: list[bytes], ignore_case: bool, fixed: bool, first: int, count: int
) -> None:
    """For any expression, any lines and any part of the frame, the spans are those of the lines that match alone."""
    try:
        plain = re.compile(re.escape(pattern) if fixed else pattern, re.IGNORECASE if ignore_case else 0)
    except re.error:
        with pytest.raises(UsageError):
            compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed)
        return
    matcher = compile_pattern(pattern, ignore_case=ignore_case, fixed=fixed)
    body = b"".join(line + b"\n" for line in lines)
    starts = [sum(len(line) + 1 for line in lines[:i]) for i in range(len(lines) + 1)]
    chosen = range(min(first, len(lines)), min(first + count, len(lines)))
    expected = [(starts[i], starts[i + 1] - 1) for i in chosen if plain.search(lines[i])]
    start, end = starts[chosen.start], starts[chosen.stop] if chosen else starts[chosen.start]
    assert list(matcher.lines(body, start, end)) == expected
    assert not expected or matcher.may_match(body)
    assert [matcher.matches(line) for line in lines] == [plain.search(line) is not None for line in lines]


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("failed password", Literal),
        (r"sshd.*Failed", Across),
        (r"timed? ?out|refused", Across),
        (r"user=[^;]*;\s+code=[45]\d\d$", Across),
        (r"(?s).x", LineByLine),
    ],
)
def test_quick_where_it_matters(pattern: str, kind: type) -> None:
    """Common expressions are searched over whole frames; line by line is for the doubtful ones only."""
    assert type(compile_pattern(pattern.encode())) is kind
