"""The peer that we measure against: rsyslog as shipped (file → imfile → TCP → omfile), without TLS, nothing durable.

Two processes on loopback, a main queue in memory, one file at the end: the quickest that rsyslog
does without loss when nothing goes wrong. Ends only the processes that it started.
"""

import os
import shutil
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.fleet import REPOSITORY, free_port

_RECEIVER = """
global(workDirectory="{work}" maxMessageSize="64k")
module(load="imtcp")
template(name="raw" type="string" string="%msg:2:$%\\n")
input(type="imtcp" port="{port}" ruleset="r" address="127.0.0.1")
ruleset(name="r") {{ action(type="omfile" file="{target}" template="raw") }}
"""
_SENDER = """
global(workDirectory="{work}" maxMessageSize="64k")
module(load="imfile" mode="inotify")
input(type="imfile" file="{source}" tag="mail:" ruleset="s")
ruleset(name="s") {{
  action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp"
         action.resumeRetryCount="-1" action.resumeInterval="1")
}}
"""


def find_rsyslogd() -> str | None:
    """From RSYSLOGD, PATH, the system's folders, or where ``make servers`` unpacked it."""
    folders = os.pathsep.join(
        [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(REPOSITORY / ".cache/servers/usr/sbin")]
    )
    return os.environ.get("RSYSLOGD") or shutil.which("rsyslogd", path=folders)


class Rsyslog:
    """A sender and a receiver that are not started yet; ``target`` is the file that fills."""

    def __init__(self, program: str, source: Path, directory: Path) -> None:
        """Write both configurations below ``directory``."""
        self.port = free_port()
        self.target = directory / "target.log"
        self.receiver = self._daemon(program, directory, "receiver", _RECEIVER, source)
        self.sender = self._daemon(program, directory, "sender", _SENDER, source)

    def _daemon(self, program: str, directory: Path, name: str, template: str, source: Path) -> Daemon:
        work = directory / name
        work.mkdir(parents=True)
        settings = directory / f"{name}.conf"
        settings.write_text(template.format(work=work, port=self.port, source=source, target=self.target))
        argv = [program, "-n", "-f", str(settings), "-i", str(directory / f"{name}.pid")]
        unpacked = program.removesuffix("/usr/sbin/rsyslogd")
        if unpacked and unpacked != program:  # its modules and libraries lie beside it, not in the system
            modules = next(Path(unpacked).glob("usr/lib/*/rsyslog"), None)
            argv += ["-M", str(modules)] if modules else []
        libraries = ":".join(str(path) for path in Path(unpacked or "/").glob("usr/lib/*-linux-gnu"))
        return Daemon(name, argv, directory, environment={"LD_LIBRARY_PATH": libraries} if unpacked else {})
