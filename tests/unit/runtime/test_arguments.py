"""What people type: offsets, times, ranges; and times written back."""

import time
from collections.abc import Iterator

import pytest

from jlogd.runtime.arguments import RecordRange, format_time, parse_offset, parse_time_ns
from jlogd.runtime.errors import UsageError

NOW_NS = 1_800_000_000_000_000_000


@pytest.fixture
def summer_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local zone two hours ahead of UTC."""
    monkeypatch.setenv("TZ", "XXX-02:00")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01 02:00", 0),
        ("1970-01-01T02:00:01", 10**9),
        ("1970-01-02", 22 * 3600 * 10**9),
        ("1970-01-01t00:00:00.000000001z", 1),
        ("1970-01-01T00:00:00.5Z", 500_000_000),
        ("1969-12-31T23:59:59.25Z", -750_000_000),
        ("10m", NOW_NS - 600 * 10**9),
        ("1.5h", NOW_NS - 5400 * 10**9),
        ("250ms", NOW_NS - 250 * 10**6),
        ("2d", NOW_NS - 2 * 86_400 * 10**9),
        ("0s", NOW_NS),
    ],
)
def test_times(summer_zone: None, text: str, expected: int) -> None:
    """RFC 3339 with or without a zone (local), or a duration ago; to the nanosecond."""
    assert parse_time_ns(text, NOW_NS) == expected


@pytest.mark.parametrize(
    "text", ["", "now", "10", "10 m", "-5m", "2026-13-01", "2026-02-30T00:00Z", "12:00", "٣m", "99:99"]
)
def test_bad_times(text: str) -> None:
    """Everything else is a usage error that names the text."""
    with pytest.raises(UsageError, match=r"is not a time|is an offset"):
        parse_time_ns(text, NOW_NS)


def test_bare_integer_is_an_offset() -> None:
    """A number is never taken for a time, and the message says what to write."""
    with pytest.raises(UsageError, match="use --from or --to, or write 10s"):
        parse_time_ns("10", NOW_NS)
    assert parse_offset("10") == 10
    assert parse_offset(str(2**64 - 1)) == 2**64 - 1
    for text in ("-1", "1.0", "", "ten", "10m", str(2**64), "٣"):
        with pytest.raises(UsageError, match="not an offset"):
            parse_offset(text)


def test_format_time() -> None:
    """UTC with microseconds; what was printed can be given back as a bound that includes it."""
    assert format_time(1_500_000_000_123_456_789) == "2017-07-14T02:40:00.123456Z"
    assert format_time(-1) == "1969-12-31T23:59:59.999999Z"
    assert format_time(None) is None
    assert format_time(1 << 63) is not None
    assert format_time(1 << 90) is None
    printed = format_time(NOW_NS + 999)
    assert printed is not None
    assert parse_time_ns(printed, 0) <= NOW_NS + 999


def test_ranges() -> None:
    """Bounds may be equal (nothing) but not reversed; both kinds are half-open."""
    assert RecordRange.parse("5", "5", None, None) == RecordRange(5, 5)
    with pytest.raises(UsageError, match="--to 4 is before --from 5"):
        RecordRange.parse("5", "4", None, None)
    with pytest.raises(UsageError, match="--until"):
        RecordRange.parse(None, None, "1m", "2m")
    wanted = RecordRange(since_ns=10, until_ns=20)
    assert [wanted.has_time(t) for t in (9, 10, 19, 20)] == [False, True, True, False]
    assert RecordRange.parse(None, None, None, None, "/a\udcff").source == b"/a\xff"
