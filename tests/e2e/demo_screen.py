"""What the demo shows: a live table on a terminal, one line now and then elsewhere."""

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jlogd.runtime.errors import JlogdError
from tests.support.fleet import Fleet, Manager, Node, Served

PLAIN_EVERY_S = 2.0  # without a terminal
RATE_OVER_S = 2.0  # rates are means over this long
NEWS_SHOWN = 6


@dataclass(slots=True)
class Seen:
    """What was last known of one node, to make rates of it."""

    at_s: float = 0.0
    records: int = 0
    source_bytes: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    history: list[tuple[float, int, int]] = field(default_factory=list)  # time, records, source bytes
    status: dict[str, Any] | None = None

    def take(self, status: dict[str, Any]) -> None:
        """Note a new status; a position that fell belongs to a new generation."""
        self.status, self.at_s = status, time.monotonic()
        self.records = sum(journal["end"] for journal in status["journals"])
        for source in status["sources"]:
            before = self.positions.get(source["path"], 0)
            now = source["position"]
            self.source_bytes += now - before if now >= before else now
            self.positions[source["path"]] = now
        self.history.append((self.at_s, self.records, self.source_bytes))
        while self.at_s - self.history[0][0] > RATE_OVER_S and len(self.history) > 2:
            self.history.pop(0)

    def rates(self) -> tuple[float, float]:
        """Lines and bytes a second, lately."""
        (t0, r0, b0), (t1, r1, b1) = self.history[0], self.history[-1]
        return ((r1 - r0) / (t1 - t0), (b1 - b0) / (t1 - t0)) if t1 > t0 else (0.0, 0.0)


class Screen:
    """Shows a fleet; ``refresh`` asks every daemon that runs, ``say`` adds a line of news."""

    def __init__(self, fleet: Fleet) -> None:
        """On a terminal the table stays in place; elsewhere there are plain lines."""
        self.fleet = fleet
        self.console = Console(highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, auto_refresh=False, transient=False) if sys.stdout.isatty() else None
        self._seen = {name: Seen() for name in fleet.nodes}
        self._managers: dict[str, dict[str, Any]] = {}
        self._news: list[Text] = []
        self._began_s = time.monotonic()
        self._plain_s = 0.0

    def __enter__(self) -> Self:
        """Begin to show."""
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the last picture."""
        if self.live:
            self.live.stop()
            self.live = None

    def say(self, text: str, style: str = "") -> None:
        """A line of news, with the time since the start."""
        line = Text(f"{time.monotonic() - self._began_s:5.1f} s  {text}", style=style)
        if self.live:
            self._news.append(line)
            self.refresh()
        else:
            self.console.print(line)

    def pause(self, seconds: float) -> None:
        """Go on showing for that long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.refresh()
            time.sleep(min(left, 0.25))

    def refresh(self) -> None:
        """Ask, and show."""
        for name, node in self.fleet.nodes.items():
            status = ask(node)
            if status:
                self._seen[name].take(status)
        for name, manager in self.fleet.managers.items():
            self._managers[name] = ask(manager) or self._managers.get(name, {})
        if self.live:
            self.live.update(Group(self._table(), Text(), *self._news[-NEWS_SHOWN:]), refresh=True)
        elif time.monotonic() - self._plain_s >= PLAIN_EVERY_S:
            self._plain_s = time.monotonic()
            self.console.print(Text(self._plain()))

    def _table(self) -> Table:
        names = list(self.fleet.managers)
        table = Table(title="every line, exactly once, in both archives", title_justify="left", title_style="bold")
        table.add_column("node")
        for heading in ("files", "lines", "lines/s", "MB/s", *(f"lag {name}" for name in names)):
            table.add_column(heading, justify="right")
        for name, node in self.fleet.nodes.items():
            seen = self._seen[name]
            lines_s, bytes_s = seen.rates() if node.running and seen.history else (0.0, 0.0)
            table.add_row(
                self._state(node),
                str(len(seen.positions)),
                f"{seen.records:,}",
                f"{lines_s:,.0f}",
                f"{bytes_s / 1e6:.2f}",
                *(lag(seen, name) for name in names),
            )
        table.add_section()
        for name, manager in self.fleet.managers.items():
            known = self._managers.get(name, {})
            archived = f"{known.get('bytes', 0) / 1e6:,.1f} MB archived, {known.get('sessions', 0)} sessions"
            table.add_row(self._state(manager), "", archived if manager.running else "", "", "", *("" for _ in names))
        return table

    def _state(self, daemon: Served) -> Text:
        if not daemon.running:
            return Text(f"{daemon.name} killed -9", style="bold red")
        text = Text(f"{daemon.name} pid {daemon.pid}")
        return text.append(f"  restarted {daemon.starts - 1}x", style="yellow") if daemon.starts > 1 else text

    def _plain(self) -> str:
        parts = []
        for name, node in self.fleet.nodes.items():
            seen = self._seen[name]
            if not node.running or not seen.history:
                parts.append(f"{name} {'starting' if node.running else 'down'}")
                continue
            lines_s, bytes_s = seen.rates()
            lags = ", ".join(f"lag {manager} {lag(seen, manager)}" for manager in self.fleet.managers)
            parts.append(f"{name} {seen.records:,} lines, {lines_s:,.0f}/s, {bytes_s / 1e6:.2f} MB/s, {lags}")
        return f"         {' | '.join(parts)}"


def ask(daemon: Node | Manager) -> dict[str, Any] | None:
    """Status of a daemon that may be dead at the moment."""
    if not daemon.running:
        return None
    try:
        return daemon.status()
    except JlogdError:
        return None


def lag(seen: Seen, manager: str) -> str:
    """How far a manager is behind one node."""
    if seen.status is None:
        return "?"
    behind = [item for item in seen.status["subscribers"] if item["name"] == manager]
    records = sum(item["lag_records"] or 0 for item in behind)
    seconds = max((item["lag_s"] or 0.0 for item in behind), default=0.0)
    return f"{records:,} ({seconds:.1f} s)" if records else "0"
