"""Many nodes' configuration in one process: for each the real Configurer and Attacher, no journals.

python -m tests.bench.config_nodes DIRECTORY MANAGER PKI NAME…       until SIGTERM
"""

import signal
import sys
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
    root, manager, authority, *names = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parts = []
    for name in names:
        home = Path(root) / name
        home.mkdir(parents=True)
        pki.issue("node", name, Path(authority), out=home)
        boot = home / "jlogd.toml"
        boot.write_text(BOOT.format(name=name, ca=Path(authority) / "ca.crt", manager=manager))
        parts.append(_start(boot))
    signal.sigwait({signal.SIGTERM})
    for configurer, attachers in parts:
        for attacher in attachers:
            attacher.stop(0.1)
        configurer.stop(0.1)
    return 0


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
