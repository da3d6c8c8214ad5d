"""Validation: faults stand at the file and line that they come from, and only what a change affects is judged."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from jlogd.confrepo.model import SYMLINK, Fault, File, Scope
from jlogd.confrepo.repository import Repository
from jlogd.confrepo.secrets import encrypt
from jlogd.runtime.clock import ManualClock
from managerd.ecconfigd import validate
from managerd.ecconfigd.candidate import Candidate
from managerd.ecconfigd.schema import SchemaChecks
from managerd.ecconfigd.validate import Validation
from tests.support.revisions import commit

PORT = '{"type": "object", "properties": {"server": {"properties": {"port": {"type": "integer"}}}}}'


@pytest.fixture(scope="module")
def validation() -> Iterator[Validation]:
    validation = Validation()
    yield validation
    validation.close()


class Tree:
    """A repository, and what is said of changes to it."""

    def __init__(self, home: Path, validation: Validation) -> None:
        self.repository = Repository.open(home / "r.git")
        self._validation = validation

    def commit(self, changes: Mapping[str, str]) -> None:
        commit(self.repository, {path: File(text.encode()) for path, text in changes.items()})

    def faults(self, changes: Mapping[str, str | None], *nodes: Scope, links: bool = False) -> list[str]:
        mode = SYMLINK if links else 0o100644
        files = {path: None if text is None else File(text.encode(), mode) for path, text in changes.items()}
        candidate = Candidate(self.repository, self.repository.head(), files)
        return [str(fault) for fault in self._validation.faults(candidate, lambda: nodes)]


@pytest.fixture
def tree(tmp_path: Path, validation: Validation) -> Iterator[Tree]:
    tree = Tree(tmp_path, validation)
    yield tree
    tree.repository.close()


# ---------------------------------------------------------------------- each file


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("global/a.toml", "x = 1\ny = = 2\n", "global/a.toml:2: "),
        ("web/default/a.yaml", "x: 1\ny: [\n", "web/default/a.yaml:"),
        ("web/web1/a.json", '{"x": 1,\n "x": 2}', "web/web1/a.json:"),
        ("global/a.toml", 'x = 1\n[y]\n"$unset" = 3\n', "global/a.toml:"),
        ("global/a.toml", 'x = 1\ny = "$age:!!"\n', "global/a.toml:2: "),
        ("schemas/a.json", "{", "schemas/a.json:"),
        ("global/access.toml", '[[rule]]\nwho = ["x"]\n', "global/access.toml:2: 'x' is nobody"),
        ("global/rollout.toml", '[[require]]\npaths = ["/x"]\n', "global/rollout.toml:2: "),
    ],
)
def test_a_file_by_itself(tree: Tree, path: str, text: str, said: str) -> None:
    assert any(fault.startswith(said) for fault in tree.faults({path: text})), tree.faults({path: text})


def test_sound_files_pass(tree: Tree) -> None:
    secret = encrypt("hush", ["age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"])
    sound = {
        "global/a.toml": f'x = 1\npassword = "{secret}"\n',
        "web/default/a.toml": 'x = {"$unset" = true}\n',
        "global/plain.txt": "= = =",
        "global/list.json": "[1, 2]",
        "running/web1/what.toml": "= not toml =",
        "README.md": "hello",
        "global/rollout.toml": '[[require]]\npaths = ["web/**"]\n',
    }
    assert tree.faults(sound) == []
    assert tree.faults({"global/a.toml": None}) == []
    assert tree.faults({"global/b.toml": "a.toml"}, links=True) == []
    assert tree.faults({"global/access.toml": "a.toml"}, links=True) != []


# ---------------------------------------------------------------------- layers against each other


def test_a_file_in_one_layer_and_a_directory_in_another(tree: Tree) -> None:
    tree.commit({"global/etc/app/x": "1", "web/default/run": "1", "web/web1/z": "1", "db/db1/run/deep/x": "1"})
    clashes = {
        "web/web1/etc": "global/etc",
        "web/default/etc/app": "global/etc/app",
        "global/run/pid": "web/default/run",
        "web/web2/run/x": "web/default/run",
        "global/z/y": "web/web1/z",
        "web/default/z/y": "web/web1/z",
        "global/run": "db/db1/run",
    }
    for path, other in clashes.items():
        (fault,) = tree.faults({path: "1"})
        assert fault.startswith(f"{path}: clashes with {other}"), path
    for path in (
        "db/db2/run/x",
        "web/web2/z/y",
        "schemas/etc",
        "running/web1/etc",
        "global/etc/app/y",
        "web/web1/etc/app/x",
    ):
        assert tree.faults({path: "{}"}) == [], path
    assert tree.faults({"web/web1/etc": "1", "global/etc/app/x": None}) == []


def test_clashes_of_a_large_change_are_found_in_time(tree: Tree) -> None:
    tree.commit({f"web/web{n}/etc/own": "1" for n in range(200)})
    many = {f"global/etc/app/{n % 50}/{n}": "1" for n in range(5000)}
    begin = time.monotonic()
    assert tree.faults(many) == []
    assert time.monotonic() - begin < 10


# ---------------------------------------------------------------------- schemas


def test_what_results_for_a_node_fits_its_schema(tree: Tree) -> None:
    tree.commit({"schemas/app.toml.json": PORT, "global/app.toml": "[server]\nport = 1\n", "web/web1/x": ""})
    assert tree.faults({"web/web1/app.toml": "[server]\nport = 2\n"}) == []
    (fault,) = tree.faults({"web/web1/app.toml": '# mine\n[server]\nname = "x"\nport = "two"\n'})
    assert fault.startswith("web/web1/app.toml:4: server.port: 'two' is not of type 'integer'")
    assert "schemas/app.toml.json" in fault
    assert "web/web1" in fault
    (fault,) = tree.faults({"global/app.toml": '[server]\nport = "one"\n'})
    assert fault.startswith("global/app.toml:2: server.port: ")


def test_the_fault_stands_in_the_layer_that_gives_the_value(tree: Tree) -> None:
    tree.commit({"global/app.toml": '[server]\nport = "one"\n', "web/web1/app.toml": "[server]\nname = 1\n"})
    (fault,) = tree.faults({"schemas/app.toml.json": PORT})
    assert fault.startswith("global/app.toml:2: server.port: ")
    assert tree.faults({"schemas/app.toml.json": PORT, "web/web1/app.toml": "[server]\nport = 3\n"}) == []


def test_keys_that_are_too_many_are_named_with_their_line(tree: Tree) -> None:
    tree.commit({"schemas/a.json.json": '{"properties": {"x": {}}, "additionalProperties": false}', "web/web1/y": ""})
    (fault,) = tree.faults({"web/web1/a.json": '{\n"x": 1,\n"z": 2}'})
    assert fault.startswith("web/web1/a.json:3: z: ")


def test_every_different_result_is_judged_once(tree: Tree) -> None:
    tree.commit({"schemas/a.toml.json": PORT, **{f"web/web{n}/other": "" for n in range(50)}})
    tree.commit({"web/web7/a.toml": "[server]\nname = 1\n"})
    faults = tree.faults({"web/default/a.toml": '[server]\nport = "x"\n'})
    assert len(faults) == 2, "one as web7 gets it, one as the others do"


def test_nodes_that_are_only_known_count(tree: Tree) -> None:
    """What every node's own layer replaces is not judged: only what somebody gets counts."""
    tree.commit({"schemas/a.toml.json": PORT, "web/web1/a.toml": "[server]\nport = 1\n"})
    bad = {"global/a.toml": '[server]\nport = "x"\n'}
    assert tree.faults(bad) == []
    assert len(tree.faults(bad, Scope("web", "web2"))) == 1
    assert tree.faults({"web/default/a.toml": bad["global/a.toml"]}, Scope("db", "db1")) == []


def test_where_there_is_no_node_yet_what_one_would_get_is_judged(tree: Tree) -> None:
    """What is missing may come with the node's own layer, what is wrong is wrong already."""
    schema = '{"required": ["x"], "properties": {"y": {"type": "integer"}}}'
    tree.commit({"schemas/a.toml.json": schema})
    assert tree.faults({"global/a.toml": "y = 1\n"}) == []
    (fault,) = tree.faults({"global/a.toml": 'y = "1"\n'})
    assert fault.startswith("global/a.toml:1: y: ")
    tree.commit({"db/db1/other": "", "global/a.toml": "x = 1\n"})
    (fault,) = tree.faults({"web/default/a.toml": 'y = "1"\n'})
    assert fault.startswith("web/default/a.toml:1: y: ")
    assert "a node of web would get it" in fault


def test_a_node_that_is_new_has_everything_judged(tree: Tree) -> None:
    tree.commit({"schemas/a.toml.json": PORT, "global/a.toml": '[server]\nport = "x"\n'})  # as nobody checked it
    (fault,) = tree.faults({"web/web1/other": "1"})
    assert fault.startswith("global/a.toml:2: ")


def test_encrypted_values_fit_what_texts_may_be(tree: Tree) -> None:
    secret = encrypt("hush", ["age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"])
    schema = {"properties": {"a": {"type": "string", "maxLength": 5}, "b": {"type": "integer"}}}
    tree.commit({"schemas/a.toml.json": json.dumps(schema)})
    node = Scope("web", "web1")
    assert tree.faults({"global/a.toml": f'a = "{secret}"\n'}, node) == []
    (fault,) = tree.faults({"global/a.toml": f'b = "{secret}"\n'}, node)
    assert fault.startswith("global/a.toml:1: b: ")
    assert len(fault) < 600


def test_times_and_yaml_are_values_too(tree: Tree) -> None:
    tree.commit({"schemas/a.toml.json": '{"properties": {"t": {"type": "string"}}}', "schemas/b.yaml.json": PORT})
    node = Scope("web", "web1")
    assert tree.faults({"global/a.toml": "t = 2020-01-01\n", "global/b.yaml": "server:\n  port: 1\n"}, node) == []
    (fault,) = tree.faults({"global/b.yaml": "server:\n  port: no\n"}, node)
    assert fault.startswith("global/b.yaml:2: server.port: ")
    (fault,) = tree.faults({"schemas/c.txt.json": "{}", "global/c.txt": "x"}, node)
    assert fault.startswith("global/c.txt: schemas/c.txt.json cannot be applied")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ('{\n"type": "nonsense"}', "schemas/a.toml.json:2: is not a JSON Schema"),
        ("[]", "schemas/a.toml.json: is not a JSON Schema"),
        ('{"$ref": "https://example.org/schema.json"}', "schemas/a.toml.json"),
        ('{"$ref": "other.json"}', "schemas/a.toml.json"),
        ('{"$ref": "#"}', "schemas/a.toml.json"),
        ('{"properties": {"x": {"pattern": "("}}}', "schemas/a.toml.json"),
    ],
)
def test_schemas_that_are_none_are_faults_of_the_schema(tree: Tree, schema: str, said: str) -> None:
    tree.commit({"web/web1/a.toml": 'x = "1"\n'})
    faults = tree.faults({"schemas/a.toml.json": schema})
    assert faults
    assert all(fault.startswith(said) for fault in faults), faults


def test_a_pattern_that_takes_for_ever_is_a_fault_and_the_next_schema_works(tmp_path: Path) -> None:
    validation = Validation(schema_s=1.5)
    tree = Tree(tmp_path, validation)
    tree.commit({"web/web1/a.toml": f'x = "{"a" * 60}!"\n'})
    (fault,) = tree.faults({"schemas/a.toml.json": '{"properties": {"x": {"pattern": "^(a|a)*$"}}}'})
    assert fault.startswith("schemas/a.toml.json: it takes too long")
    assert tree.faults({"schemas/a.toml.json": '{"properties": {"x": {"pattern": "^a"}}}'}) == []
    validation.close()
    tree.repository.close()


def test_the_process_of_schemas_may_die() -> None:
    """Whatever killed it, the question is asked again; only one that outlives its time is a fault of the schema."""
    checks = SchemaChecks()
    assert checks.check({"type": "object"}, {}, errors_max=1) == []
    assert checks._process is not None
    checks._process.kill()
    checks._process.wait()
    (misfit,) = checks.check({"type": "object"}, [], errors_max=1)
    assert not misfit.of_schema
    assert misfit.problem == "[] is not of type 'object'"
    checks.close()
    checks.close()


# ---------------------------------------------------------------------- settings of our own


def test_our_own_settings_are_judged_as_nodes_get_them(tree: Tree) -> None:
    node = Scope("web", "web1")
    assert tree.faults({"global/jlogd.toml": '[journal]\nsegment_bytes = "1MiB"\n'}, node) == []
    (fault,) = tree.faults({"global/jlogd.toml": '[journal]\n\nsegment_bites = "1MiB"\n'}, node)
    assert fault.startswith("global/jlogd.toml:3: journal.segment_bites: unknown key (did you mean 'segment_bytes'?)")
    tree.commit({"global/jlogd.toml": '[journal]\nsegment_bytes = "1MiB"\n'})
    (fault,) = tree.faults({"web/web1/jlogd.toml": '# x\n[journal]\ncodec = "best"\n'})
    assert fault.startswith("web/web1/jlogd.toml:3: journal.codec: ")
    (fault,) = tree.faults({"global/managerd.toml": "[manager]\nname = 3\n"}, node)
    assert fault.startswith("global/managerd.toml:2: manager.name: ")
    assert tree.faults({"global/sub/jlogd.toml": "[nonsense]\n"}) == []


# ---------------------------------------------------------------------- bounds


def test_faults_and_time_are_bounded(tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(tree.faults({f"global/{n}.toml": "=" for n in range(300)})) == validate.FAULTS_MAX

    class Hurried(ManualClock):
        def monotonic_s(self) -> float:
            self.advance(1.0)
            return super().monotonic_s()

    slow = Validation(clock=Hurried())
    candidate = Candidate(tree.repository, None, {f"global/{n}.toml": File(b"") for n in range(300)})
    assert slow.faults(candidate) == [Fault("", 0, "it takes longer than 30 s to validate: make smaller commits")]
