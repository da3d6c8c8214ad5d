"""What happens to a node's configuration (events), and what is to be done about it (effects), for ``decide``."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from jlogd.attach.choose import Asked
from jlogd.attach.memory import Point, Trial
from jlogd.attach.messages import State, Target

# ---------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Looked:
    """Who is attached now, and what each asks for; all managers of the node."""

    asked: Asked
    managers: Collection[str]


@dataclass(frozen=True, slots=True)
class Brought:
    """The revision is whole, verified and laid out here."""

    warning: str = ""


@dataclass(frozen=True, slots=True)
class NotBrought:
    """It is not. ``final``: not before another serial asks for it. ``state``: pending or refused."""

    error: str
    state: State = "pending"
    final: bool = False


@dataclass(frozen=True, slots=True)
class Activated:
    """It is the current one, everybody was told to read it, and it is healthy."""

    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NotActivated:
    """It could not be made that. ``again``: the disk is to blame, not the revision."""

    error: str
    swapped: bool = True
    again: bool = False


@dataclass(frozen=True, slots=True)
class GoneBack:
    """The old one is current again, as well as that went."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class HealthChecked:
    """``error`` empty: well."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """A manager has what the last Say that asked for it said."""


@dataclass(frozen=True, slots=True)
class Due:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Retry:
    """What stood in the way may be gone: try at once."""


Event: TypeAlias = (
    Looked | Brought | NotBrought | Activated | NotActivated | GoneBack | HealthChecked | Heard | Due | Retry
)

# ---------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Remember:
    """Write the memory down. ``first``: when that fails, nothing else of this step happens.

    ``later``: there is a moment's time; whoever dies before then only does again what the memory has as under way.
    """

    first: bool = False
    later: bool = False


@dataclass(frozen=True, slots=True)
class Bring:
    """Have the revision here, laid out beside the others. Answer: Brought or NotBrought."""

    target: Target


@dataclass(frozen=True, slots=True)
class Activate:
    """Swap, settings, reload command, health. Answer: Activated or NotActivated."""

    trial: Trial
    old: Point | None


@dataclass(frozen=True, slots=True)
class GoBack:
    """The same with ``to`` (None: no view), whatever goes wrong. Answer: GoneBack."""

    to: Point | None
    old: Point


@dataclass(frozen=True, slots=True)
class CheckHealth:
    """Answer: HealthChecked."""

    point: Point
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Say:
    """Report the memory's state to every manager. ``confirm``: Heard when one of them has it."""

    confirm: bool = False


@dataclass(frozen=True, slots=True)
class Tidy:
    """Old revisions may go."""


Effect: TypeAlias = Remember | Bring | Activate | GoBack | CheckHealth | Say | Tidy
