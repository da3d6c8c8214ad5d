"""Imports go downwards only: the table of docs/design.md, enforced on every module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The longest matching prefix decides. Modules of one prefix may import each other.
LAYERS = {
    "jlogd": 0,  # the empty package itself
    "managerd": 0,
    "jlogd.runtime": 0,
    "jlogd.v1": 0,
    "managerd.v1": 0,
    "jlogd.journal.model": 1,
    "jlogd.journal.frame": 1,
    "jlogd.journal.metadata": 1,
    "jlogd.tail.identity": 1,
    "jlogd.tail.siblings": 1,
    "jlogd.tail.position": 1,
    "jlogd.forward.session": 1,
    "jlogd.forward.events": 1,
    "jlogd.forward.messages": 1,
    "managerd.ingest.session": 1,
    "managerd.ingest.events": 1,
    "managerd.ingest.identity": 1,
    "jlogd.confrepo.model": 1,
    "jlogd.confrepo.paths": 1,
    "jlogd.confrepo.formats": 1,
    "jlogd.confrepo.layering": 1,
    "jlogd.confrepo.merge": 1,
    "jlogd.attach.messages": 1,
    "jlogd.attach.session": 1,
    "jlogd.attach.memory": 1,
    "jlogd.attach.choose": 1,
    "jlogd.attach.events": 1,
    "jlogd.attach.aftermath": 1,
    "jlogd.attach.decide": 1,
    "managerd.ecconfigd.access": 1,
    "managerd.ecconfigd.attach_session": 1,
    "managerd.ecconfigd.sightings": 1,
    "managerd.ecconfigd.rollout": 1,
    "jlogd.journal": 2,
    "jlogd.confrepo": 2,
    "jlogd.attach.wire": 2,
    "jlogd.spool": 2,
    "jlogd.tail": 2,
    "managerd.archive": 2,
    "managerd.ingest.speaker": 2,
    "jlogd.settings": 2,
    "jlogd.overlay": 2,
    "managerd.settings": 2,
    "managerd.pki": 2,
    "jlogd.render": 2,
    "jlogd.subscribers": 2,
    "jlogd.forward": 3,
    "jlogd.intake": 3,
    "managerd.ingest": 3,
    "jlogd.attach": 3,
    "managerd.ecconfigd": 3,
    "jlogd.app": 4,
    "jlogd.status": 4,
    "managerd.app": 4,
    "managerd.status": 4,
    "jlogd.commands": 5,
    "managerd.commands": 5,
    "managerd.eccfg": 5,
    "jlogd.cli": 6,
    "managerd.cli": 6,
    "managerd.eccfg.cli": 6,
}
# A pure core knows errors and the words of the journal; no file, clock, thread or wire.
# runtime.toml finds the lines of keys in a text: pure as well.
PURE_MAY_IMPORT = {"jlogd.runtime.errors", "jlogd.runtime.names", "jlogd.runtime.toml", "jlogd.journal.model"}
PURE_MUST_NOT_IMPORT = {
    "os",
    "io",
    "time",
    "threading",
    "socket",
    "asyncio",
    "grpc",
    "subprocess",
    "pathlib",
    "random",
    "secrets",
}


def layer_of(module: str) -> tuple[int, str]:
    prefix = max((name for name in LAYERS if module == name or module.startswith(name + ".")), key=len)
    return LAYERS[prefix], prefix


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("jlogd", "managerd"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(tree: ast.AST, known: set[str], *, types_only: bool = True) -> Iterator[str]:
    """What is imported anywhere in the module, inside functions as well; without ``types_only`` only what runs."""
    for node in ast.walk(tree) if types_only else _walk_what_runs(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def _walk_what_runs(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _walk_what_runs(node)


MODULES = dict(modules())


def faults(module: str, imported: str) -> Iterator[str]:
    layer, prefix = layer_of(module)
    if imported.partition(".")[0] not in {"jlogd", "managerd"}:
        if layer == 1 and imported.partition(".")[0] in PURE_MUST_NOT_IMPORT:
            yield f"{module} is a pure core and imports {imported}"
        return
    target, target_prefix = layer_of(imported)
    if module.startswith("jlogd") and imported.startswith("managerd"):
        yield f"{module} imports {imported}: jlogd knows nothing of managerd"
    if (
        imported.startswith("jlogd")
        and module.startswith("managerd")
        and target >= 3
        and target_prefix != "jlogd.forward"
    ):
        yield f"{module} imports {imported}: of jlogd, managerd may use layers 0 to 2 and forward"
    aside = target == layer == 3 and target_prefix not in {prefix, "jlogd.forward"}
    if target > layer or aside:
        yield f"{module} (layer {layer}) imports {imported} (layer {target})"
    if layer == 1 and target_prefix != prefix and imported not in PURE_MAY_IMPORT and target == 0:
        yield f"{module} is a pure core and imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = [fault for imported in imports(tree, set(MODULES)) for fault in faults(module, imported)]
    assert found == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("jlogd.runtime.fs", "jlogd.journal.model"),
        ("jlogd.journal.frame", "os"),
        ("jlogd.journal.frame", "jlogd.runtime.fs"),
        ("jlogd.forward.session", "jlogd.v1.deliver_pb2"),
        ("jlogd.tail.follower", "jlogd.forward.forwarder"),
        ("jlogd.forward.forwarder", "jlogd.intake"),
        ("jlogd.intake", "jlogd.app"),
        ("jlogd.app", "managerd.archive"),
        ("managerd.archive.search", "jlogd.intake"),
        ("managerd.ingest.service", "managerd.app"),
        ("managerd.commands.logs", "jlogd.commands.agent"),
        ("jlogd.app", "jlogd.commands.agent"),
        ("managerd.app", "managerd.cli"),
    ],
)
def test_this_test_can_fail(module: str, imported: str) -> None:
    assert list(faults(module, imported))


def test_every_module_has_a_layer_of_its_own() -> None:
    assert {module for module in MODULES if layer_of(module)[1] in {"jlogd", "managerd"}} <= {"jlogd", "managerd"}


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        found = imports(ast.parse(path.read_text(encoding="utf-8")), set(MODULES), types_only=False)
        graph[module] = {name for name in found if name in MODULES}
    while graph:
        free = {module for module, needed in graph.items() if not (needed & graph.keys()) - {module}}
        assert free, f"these modules, or some of them, import each other: {sorted(graph)}"
        graph = {module: needed for module, needed in graph.items() if module not in free}
