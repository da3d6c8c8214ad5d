"""Layers of one view against each other: where one has a file, no other has a directory, and the other way round.

A commit can only bring a clash with a path that was not there: those are looked at, against what each other layer has
at that place and above it.
"""

from collections.abc import Iterator, Mapping, Sequence

from jlogd.confrepo.model import DEFAULT, GLOBAL, RESERVED, RUNNING, SCHEMAS, Fault
from jlogd.confrepo.paths import in_view, layer_of
from managerd.ecconfigd.candidate import Candidate


def clashes(candidate: Candidate) -> Iterator[Fault | None]:
    """Each clash that a change brings; None only says that time went by."""
    names = _Names(candidate)
    for path, file in candidate.changes.items():
        yield None
        layer = layer_of(path)
        if file is None or layer is None or layer.partition("/")[0] in {SCHEMAS, RUNNING}:
            continue
        if candidate.repository.entry(candidate.commit, path) is not None:
            continue  # it was there: nothing new can stand in its way
        rest = in_view(path)
        for other in names.layers_beside(layer):
            clash = names.clash(other, rest.split("/"))
            if clash is not None:
                yield Fault(
                    path, 0, f"clashes with {clash} in the views that have both: one is a file, one a directory"
                )


class _Names:
    """What directories hold, each asked for once."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._known: dict[str, Mapping[str, bool]] = {}
        self._beside: dict[str, list[str]] = {}

    def of(self, directory: str) -> Mapping[str, bool]:
        if directory not in self._known:
            self._known[directory] = self._candidate.names(directory)
        return self._known[directory]

    def layers_beside(self, layer: str) -> list[str]:
        """Every other layer that is in a view together with ``layer``."""
        if layer not in self._beside:
            self._beside[layer] = list(self._find_beside(layer))
        return self._beside[layer]

    def _find_beside(self, layer: str) -> Iterator[str]:
        subcluster, _, node = layer.partition("/")
        if layer == GLOBAL:
            for each in subclusters(self.of("")):
                yield from (f"{each}/{name}" for name, directory in self.of(each).items() if directory)
            return
        yield GLOBAL
        if node == DEFAULT:
            yield from (
                f"{subcluster}/{name}" for name, down in self.of(subcluster).items() if down and name != DEFAULT
            )
        else:
            yield f"{subcluster}/{DEFAULT}"

    def clash(self, layer: str, parts: Sequence[str]) -> str | None:
        """What in ``layer`` a file of these parts of a path cannot stand beside."""
        at = layer
        for number, part in enumerate(parts):
            directory = self.of(at).get(part)
            if directory is None:
                return None
            at = f"{at}/{part}"
            if directory == (number == len(parts) - 1):
                return at
        return None


def subclusters(top: Mapping[str, bool]) -> list[str]:
    """Of the names at the top of a tree, those that are subclusters."""
    return [name for name, directory in top.items() if directory and name not in RESERVED]
