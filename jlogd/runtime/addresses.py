"""Network addresses as people write them: ``host:port``, ``[::1]:7440``."""

import ipaddress
import re
from dataclasses import dataclass

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%A-Za-z0-9]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address, and a port (0 to 65535; 0 = the system chooses one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True for ``localhost`` and loopback IP addresses; other names are not looked up."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(value: object) -> Address:
    """``value`` as an address. ``ValueError`` says what is wrong."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"not an address: {value!r}; give HOST:PORT or [IPV6]:PORT")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"port {port} is above 65535")
    if match["v6"]:
        ipaddress.IPv6Address(match["v6"])
        return Address(match["v6"], port)
    if not _HOST.fullmatch(match["host"]):
        raise ValueError(f"not a host name or IP address: {match['host']!r}")
    return Address(match["host"], port)
