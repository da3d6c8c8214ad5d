"""What a node would get of a working copy: the same layering as on the nodes, on the files that are here."""

from collections.abc import Mapping

from jlogd.confrepo import layering
from jlogd.confrepo import model as m
from jlogd.runtime.errors import UsageError
from managerd.eccfg.connection import Connection
from managerd.eccfg.index import blob_id
from managerd.eccfg.working import Kind, WorkingCopy

Files = dict[str, m.File]


def local_views(connection: Connection, copy: WorkingCopy, node: str) -> tuple[Files, Files]:
    """The node's view of the base, and of the files as they are here with unknown ones. UsageError: no such node."""
    scope = m.Scope(_subcluster_of(connection, copy, node), node)
    base = {path: entry.id for path, entry in copy.index.entries.items() if scope.covers(path)}
    before = {path: m.File(copy.metadata.content(blob), copy.index.entries[path].mode) for path, blob in base.items()}
    after = dict(before)
    for each in copy.changes():
        if scope.covers(each.path):
            file = None if each.kind in {Kind.DELETED, Kind.MISSING} else copy.local_file(each.path)
            if file is None:
                after.pop(each.path, None)
            else:
                after[each.path] = file
    return view_of(before, scope), view_of(after, scope)


def view_of(files: Mapping[str, m.File], scope: m.Scope) -> Files:
    """The view that these files make. RefusedError where layers clash."""
    contents: dict[m.ObjectId, bytes] = {}
    layers = []
    for layer in scope.layers:
        entries = {}
        for path, file in files.items():
            if path.startswith(layer + "/"):
                blob = blob_id(file.content)
                contents[blob] = file.content
                entries[path.removeprefix(layer + "/")] = m.Entry(file.mode, blob)
        layers.append((layer, entries))
    return {file.path: m.File(file.content, file.mode) for file in layering.view(layers, contents.__getitem__)}


def _subcluster_of(connection: Connection, copy: WorkingCopy, node: str) -> str:
    """By its directory here, else the manager knows where it belongs."""
    parts = (path.split("/", 2) for path in copy.files.scan().files)
    found = {top[0] for top in parts if len(top) == 3 and top[1] == node and top[0] not in m.RESERVED}
    if len(found) == 1:
        return found.pop()
    with connection.connect() as client:
        known = [each.subcluster for each in client.nodes().nodes if each.name == node]
    if not known:
        raise UsageError(f"there is no node {node!r}: it has no directory here, and never attached; see 'eccfg nodes'")
    return known[0]
