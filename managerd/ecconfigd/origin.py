"""Where in the repository a key of a view's file comes from."""

from collections.abc import Sequence

from jlogd.confrepo import formats, layering
from jlogd.confrepo.formats import KeyPath
from jlogd.confrepo.layering import ViewFile
from jlogd.confrepo.model import Fault, File


class Origin:
    """Of one file of a view: finds the layer's file and line for its keys."""

    def __init__(self, path: str, sources: Sequence[tuple[str, File]], made: ViewFile) -> None:
        """``sources``: the file in each layer that has it, the least specific first; ``made``: what they make."""
        self._path = path
        self._kind = formats.kind_of(path)
        self._sources = [(layer, file) for layer, file in sources if layer in made.layers] or list(sources)
        self._made = made

    def key_at(self, line: int) -> KeyPath:
        """The outermost key that stands in that line of the view's file."""
        if self._kind is None:
            return ()
        lines = formats.locate(self._kind, self._made.content)
        return min((key for key, at in lines.items() if at == line), key=len, default=())

    def fault(self, key: KeyPath, problem: str) -> Fault:
        """A fault of that key."""
        layer, file = self._source(key)
        line = formats.line_of(formats.locate(self._kind, file.content), key) if self._kind is not None else 0
        return Fault(f"{layer}/{self._path}", line, problem)

    def _source(self, key: KeyPath) -> tuple[str, File]:
        """The layer that gives the key, or the most specific one that gives something in or around it."""
        if len(self._sources) > 1:
            text = tuple(str(part) for part in key)
            leaves = layering.explain(self._path, self._sources)
            layers = {leaf.layer for leaf in leaves if all(a == b for a, b in zip(leaf.key, text, strict=False))}
            found = [source for source in self._sources if source[0] in layers]
            if found:
                return found[-1]
        return self._sources[-1]
