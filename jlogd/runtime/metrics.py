"""Every metric's name, and the counters behind them.

Counted per batch, not per line: a count is a dictionary update under a lock. The text
that Prometheus reads is made on request; prometheus-client is imported only then, so
that an agent without HTTP does not carry it.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family


class Kind(Enum):
    """How a metric's values behave."""

    COUNTER = "counter"  # only grows
    GAUGE = "gauge"  # is what it is now
    HISTOGRAM = "histogram"  # how long things took


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name carries the unit last (counters without the ``_total`` that Prometheus adds)."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)  # a sync on NVMe to a stuck disk

READ_RECORDS = Metric("jlogd_read_records", Kind.COUNTER, "Records read from sources.", ("journal",))
READ_BYTES = Metric("jlogd_read_bytes", Kind.COUNTER, "Bytes read from sources.", ("journal",))
GAPS = Metric("jlogd_gaps", Kind.COUNTER, "Gaps written: something was lost, and is said.", ("journal", "kind"))
SOURCES = Metric("jlogd_sources", Kind.GAUGE, "Followed sources by state.", ("journal", "state"))
COMMIT_SECONDS = Metric("jlogd_commit_seconds", Kind.HISTOGRAM, "Duration of commits.", ("journal",))
COMMIT_FAILURES = Metric("jlogd_commit_failures", Kind.COUNTER, "Commits that the disk refused.", ("journal",))
JOURNAL_END = Metric("jlogd_journal_end_records", Kind.GAUGE, "Committed end of a journal, an offset.", ("journal",))
LAG_RECORDS = Metric(
    "jlogd_lag_records", Kind.GAUGE, "Records that a subscriber has not got.", ("subscriber", "journal")
)
SESSION_UP = Metric("jlogd_session_up", Kind.GAUGE, "1 while frames stream to a manager.", ("subscriber",))
SESSION_STARTS = Metric("jlogd_session_starts", Kind.COUNTER, "Sessions begun.", ("subscriber",))
SENT_BYTES = Metric("jlogd_sent_bytes", Kind.COUNTER, "Frame bytes sent.", ("subscriber",))
RELOAD_FAILURES = Metric("jlogd_reload_failures", Kind.COUNTER, "Reloads refused because of the settings file.")

AGENT = (
    READ_RECORDS, READ_BYTES, GAPS, SOURCES, COMMIT_SECONDS, COMMIT_FAILURES, JOURNAL_END, LAG_RECORDS,
    SESSION_UP, SESSION_STARTS, SENT_BYTES, RELOAD_FAILURES,
)  # fmt: skip

RECEIVED_FRAMES = Metric("managerd_received_frames", Kind.COUNTER, "Frames received.")
RECEIVED_BYTES = Metric("managerd_received_bytes", Kind.COUNTER, "Frame bytes received.")
ARCHIVED_RECORDS = Metric("managerd_archived_records", Kind.COUNTER, "Records made durable.")
ARCHIVE_COMMIT_SECONDS = Metric("managerd_commit_seconds", Kind.HISTOGRAM, "Duration of commits.")
ARCHIVE_COMMIT_FAILURES = Metric("managerd_commit_failures", Kind.COUNTER, "Commits that the disk refused.")
NODE_SESSIONS = Metric("managerd_sessions", Kind.GAUGE, "Nodes connected.")
REFUSALS = Metric("managerd_refusals", Kind.COUNTER, "Sessions refused.", ("reason",))
FORKS = Metric("managerd_forks", Kind.COUNTER, "Incarnations begun because histories differ.")
IN_FLIGHT_BYTES = Metric("managerd_in_flight_bytes", Kind.GAUGE, "Bytes received and not durable yet.")

MANAGER = (
    RECEIVED_FRAMES, RECEIVED_BYTES, ARCHIVED_RECORDS, ARCHIVE_COMMIT_SECONDS, ARCHIVE_COMMIT_FAILURES,
    NODE_SESSIONS, REFUSALS, FORKS, IN_FLIGHT_BYTES,
)  # fmt: skip

Labels = tuple[str, ...]


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0


class Metrics:
    """The values of a fixed set of metrics. Thread-safe; label values in the order of ``Metric.labels``."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        """Only ``metrics`` may be counted; another one is a ``KeyError``."""
        self._lock = threading.Lock()  # guards the two dictionaries below
        self._values: dict[Metric, dict[Labels, float]] = {}
        self._histograms: dict[Metric, dict[Labels, _Histogram]] = {}
        self._refresh: list[Callable[[], None]] = []
        for metric in metrics:
            if metric.kind is Kind.HISTOGRAM:
                self._histograms[metric] = {}
            else:
                self._values[metric] = {} if metric.labels else {(): 0.0}

    def count(self, metric: Metric, amount: float, *labels: str) -> None:
        """Add ``amount`` to a counter."""
        with self._lock:
            values = self._values[metric]
            values[labels] = values.get(labels, 0.0) + amount

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[metric][labels] = value

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Count one duration."""
        with self._lock:
            histogram = self._histograms[metric].setdefault(labels, _Histogram())
            histogram.counts[bisect_left(SECONDS, seconds)] += 1
            histogram.total += seconds

    def before_reading(self, refresh: Callable[[], None]) -> None:
        """Call ``refresh`` before each reading, to ``set`` gauges that nobody keeps up to date."""
        self._refresh.append(refresh)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 -- see the module's docstring

        for refresh in self._refresh:
            refresh()
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterable["Family"]:
        """prometheus-client's collector interface."""
        from prometheus_client.core import (  # noqa: PLC0415 -- see the module's docstring
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        families: list[Family] = []
        with self._lock:
            for metric, values in self._values.items():
                kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
                family = kind(metric.name, metric.help, labels=metric.labels)
                for labels, value in values.items():
                    family.add_metric(labels, value)
                families.append(family)
            for metric, histograms in self._histograms.items():
                buckets = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels, histogram in histograms.items():
                    buckets.add_metric(labels, _cumulative(histogram), histogram.total)
                families.append(buckets)
        return families


def _cumulative(histogram: _Histogram) -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    running = 0
    for limit, count in zip([*map(str, SECONDS), "+Inf"], histogram.counts, strict=True):
        running += count
        rows.append((limit, float(running)))
    return rows
