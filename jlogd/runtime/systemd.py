"""sd_notify(3): tell the service manager what the daemon is doing. Silent when nobody listens."""

import contextlib
import os
import socket
import time


def notify(*assignments: str) -> bool:
    """Send ``KEY=VALUE`` lines to $NOTIFY_SOCKET; False when there is none or it does not take them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # abstract name
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto("\n".join(assignments).encode(), address)
        return True
    return False


def ready(status: str = "running") -> None:
    """Start or reload is complete."""
    notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    """A reload begins; systemd wants to know when (Type=notify-reload)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The shutdown begins."""
    notify("STOPPING=1", "STATUS=stopping")


def watchdog() -> None:
    """Still alive."""
    notify("WATCHDOG=1")


def watchdog_interval_s() -> float | None:
    """How often ``watchdog`` must be called (half of WatchdogSec), None when nobody asks for it."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2_000_000 if microseconds.isdigit() and int(microseconds) > 0 else None
