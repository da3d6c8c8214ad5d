"""Many nodes' configuration: for each the real Configurer and Attacher, no journals.

python -m tests.bench.config_nodes PROCESSES DIRECTORY MANAGER PKI NAME…       until SIGTERM

The nodes are dealt to PROCESSES processes, forked once everything is imported and before any thread runs: a process
each as in a real fleet, at the price of one start.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from jlogd.attach.attacher import Attacher
from jlogd.attach.configurer import Configurer
from jlogd.settings import load
from managerd import pki

BOOT = """[node]
name = "{name}"
spool = "spool"
[tls]
ca = "{ca}"
cert = "{name}.crt"
key = "{name}.key"
[config]
[[manager]]
address = "{manager}"
subscriber = "m1"
"""


def main() -> int:
    """The command."""
    processes, root, manager, authority, *names = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    boots = [_settings(Path(root) / name, name, manager, Path(authority)) for name in names]
    count = int(processes)
    gc.freeze()
    children = [child for at in range(count) if (child := _fork(boots[at::count]))]
    signal.sigwait({signal.SIGTERM})
    for child in children:
        os.kill(child, signal.SIGTERM)
    for child in children:
        os.waitpid(child, 0)
    return 0


def _settings(home: Path, name: str, manager: str, authority: Path) -> Path:
    home.mkdir(parents=True)
    pki.issue("node", name, authority, out=home)
    boot = home / "jlogd.toml"
    boot.write_text(BOOT.format(name=name, ca=authority / "ca.crt", manager=manager))
    return boot


def _fork(boots: Sequence[Path]) -> int:
    """The child's process id; the child itself does not return."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _run(boots)
            status = 0
        finally:
            os._exit(status)
    return child


def _run(boots: Sequence[Path]) -> None:
    parts = [_start(boot) for boot in boots]
    signal.sigwait({signal.SIGTERM})
    for configurer, attachers in parts:
        for attacher in attachers:
            attacher.stop(0.1)
        configurer.stop(0.1)


def _start(boot: Path) -> tuple[Configurer, list[Attacher]]:
    settings = load(boot)
    configurer = Configurer.open(settings, lambda _overlay: [], _fail)
    configurer.set_managers({str(link.address) for link in settings.manager})
    attachers = [
        Attacher.from_settings(settings, link, configurer, _fail, recipient=configurer.recipient)
        for link in settings.manager
    ]
    configurer.start()
    for attacher in attachers:
        attacher.start()
    return configurer, attachers


def _fail(error: BaseException) -> None:
    raise error


if __name__ == "__main__":
    sys.exit(main())
