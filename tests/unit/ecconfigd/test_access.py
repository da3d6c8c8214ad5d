"""Rights: patterns, defaults, rules, and what no file can take away or give."""

import time

import pytest

from jlogd.confrepo.model import ACCESS_FILE, ROLLOUT_FILE, Scope
from managerd.ecconfigd.access import Rules, compile_globs, pattern_fault

WEB1 = Scope("web", "web1")


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("web/**", ["web/a", "web/web1/x/y.toml"], ["web", "db/web/a", "webs/a"]),
        ("**", ["a", "a/b/c"], [""]),
        ("**/nginx.conf", ["nginx.conf", "a/nginx.conf", "a/b/nginx.conf"], ["a/xnginx.conf", "nginx.conf/a"]),
        ("web/**/x/**/z", ["web/x/z", "web/a/x/b/c/z", "web/x/x/z"], ["web/z", "web/a/z", "x/z"]),
        ("web/*/a?.toml", ["web/web1/ab.toml"], ["web/web1/a.toml", "web/a/b/ab.toml", "web/web1/a/.toml"]),
        ("a*b*c", ["abc", "axxbyyc", "abbcc"], ["ab", "acb", "a/b/c"]),
        ("a.b[c]+", ["a.b[c]+"], ["axbc", "a.bc"]),
        ("a*/**", ["ab/c"], ["ab"]),
    ],
)
def test_patterns(pattern: str, matches: list[str], others: list[str]) -> None:
    match = compile_globs([pattern]).fullmatch
    assert [path for path in matches if not match(path)] == []
    assert [path for path in others if match(path)] == []


def test_no_pattern_makes_matching_slow() -> None:
    """Backtracking over many wildcards would take longer than the universe is old."""
    match = compile_globs(["*a" * 100 + "*b", "/".join(["**", "a"] * 16) + "/b"]).fullmatch
    begin = time.monotonic()
    assert not match("a" * 255)
    assert not match("a/" * 31 + "a")
    assert time.monotonic() - begin < 1.0


@pytest.mark.parametrize("pattern", ["", "/a", "a//b", "a/", "a/../b", "./a", "a**/b", "**b", 3, "a" * 2000])
def test_patterns_that_can_match_nothing_are_faults(pattern: object) -> None:
    assert pattern_fault(pattern)


def test_without_the_file_operators_may_do_everything_and_nodes_their_own() -> None:
    rules = Rules.parse(None)
    assert rules.may("operator:alice", "commit", ACCESS_FILE)
    assert rules.may_everything("operator:alice", "rollout")
    assert rules.may("manager:m1", "read", "db/db1/x")
    assert not rules.may("manager:m1", "commit", "db/db1/x")
    for path in ("global/a", "web/default/a", "web/web1/a"):
        assert rules.may("node:web1", "read", path, WEB1)
        assert not rules.may("node:web1", "commit", path, WEB1)
    for path in ("web/web2/a", "db/default/a", "running/web2/a", "schemas/a.json", "README.md", "web/web11/a"):
        assert not rules.may("node:web1", "read", path, WEB1), path
    assert rules.may("node:web1", "commit", "running/web1/a/b", WEB1)
    assert not rules.may("node:web1", "commit", "running/web2/a", WEB1)
    assert not rules.may("node:web2", "read", "web/web1/a", WEB1), "a scope is its own node's only"
    assert not rules.may_everything("node:web1", "read")


RULES = b"""
[groups]
web = ["operator:alice", "node:web1"]

[[rule]]
who = ["@web", "operator:carol"]
paths = ["web/**", "schemas/*.json"]
allow = ["read", "commit"]

[[rule]]
who = ["role:operator"]
paths = ["global/**"]
allow = ["read"]

[[rule]]
who = ["operator:root"]
paths = ["**"]
allow = ["read", "commit", "rollout"]
"""


def test_rules_replace_what_operators_may_and_add_to_what_nodes_may() -> None:
    rules = Rules.parse(RULES)
    assert rules.faults == ()
    assert rules.may("operator:alice", "commit", "web/web1/x")
    assert not rules.may("operator:alice", "rollout", "web/web1/x")
    assert rules.may("operator:dave", "read", "global/x")
    assert not rules.may("operator:dave", "read", "web/web1/x")
    assert not rules.may("operator:alice", "commit", "global/x")
    assert rules.may("node:web1", "commit", "web/default/x", WEB1)
    assert rules.may("node:web1", "commit", "running/web1/x", WEB1)
    assert rules.may_everything("operator:root", "commit")
    assert not rules.may_everything("operator:alice", "read")


def test_members_say_who_may_be_of_a_subcluster_without_a_directory() -> None:
    """Without the section anybody; with it who is listed; default is everybody's; a file with faults lists nobody."""
    rule = b'[[rule]]\nwho = ["role:operator"]\npaths = ["**"]\nallow = ["read", "commit"]\n'
    for content in (None, rule):
        assert Rules.parse(content).may_be_of("web9", "db")
    listed = Rules.parse(rule + b'[members]\nweb = ["web?", "cache*"]\ndb = []\n')
    assert not listed.faults
    asked = [("web1", "web"), ("cache-12", "web"), ("web1", "default"), ("web12", "web"), ("web1", "db"), ("web1", "x")]
    assert [each for each in asked if listed.may_be_of(*each)] == asked[:3]
    for content in (rule + b"[members]\n", rule + b'[members]\nweb = ["/"]\n', b"[members"):
        assert not Rules.parse(content).may_be_of("web1", "web")
        assert Rules.parse(content).may_be_of("web1", "default")


def test_only_operators_commit_the_policies_themselves() -> None:
    rules = Rules.parse(
        b'[[rule]]\nwho = ["node:web1", "role:manager", "operator:a"]\npaths = ["**"]\nallow = ["commit"]\n'
    )
    assert rules.faults == ()
    assert rules.may("operator:a", "commit", ACCESS_FILE)
    assert rules.may("node:web1", "commit", "global/x")
    assert not rules.may("node:web1", "commit", ACCESS_FILE)
    assert not rules.may("node:web1", "commit", ROLLOUT_FILE)
    assert not rules.may("manager:m", "commit", ACCESS_FILE)
    assert not rules.may_everything("node:web1", "commit")


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        (b"", 1, "no operator"),
        (b'[[rule]]\nwho = ["node:n"]\npaths = ["**"]\nallow = ["commit"]\n', 1, "no operator"),
        (b'[[rule]]\nwho = ["operator:a"]\npaths = ["web/**"]\nallow = ["commit"]\n', 1, "no operator"),
        (b'[[rule]]\nwho = ["operator:a"]\npaths = ["**"]\nallow = ["read"]\n', 1, "no operator"),
        (b"[[rule]\n", 1, "not TOML"),
        (b"\xff", 1, "not TOML"),
        (b'[[rule]]\nwho = ["alice"]\npaths = ["**"]\nallow = ["commit"]\n', 2, "nobody"),
        (b'[[rule]]\nwho = ["@x"]\npaths = ["**"]\nallow = ["commit"]\n', 2, "no group"),
        (b'[[rule]]\nwho = ["role:king"]\npaths = ["**"]\nallow = ["commit"]\n', 2, "nobody"),
        (b'[[rule]]\nwho = ["operator:a"]\npaths = ["a",\n"/b"]\nallow = ["commit"]\n', 4, "can match no path"),
        (b'[[rule]]\nwho = ["operator:a"]\npaths = ["**"]\nallow = ["write"]\n', 4, "not a right"),
        (b'[[rule]]\nwho = ["operator:a"]\npaths = ["**"]\n', 1, "allow is missing"),
        (b'[[rule]]\nwho = []\npaths = ["**"]\nallow = ["commit"]\n', 2, "empty"),
        (b'[[rule]]\nwho = "operator:a"\npaths = ["**"]\nallow = ["commit"]\n', 2, "list of texts"),
        (b"rule = 3\n", 1, "tables"),
        (b"rule = [3]\n", 1, "must be a table"),
        (b"groups = 3\n", 1, "must be a table"),
        (b'[groups]\ng = ["@h"]\n', 2, "nobody"),
        (b"[other]\n", 1, "unknown key"),
        (b"members = 3\n", 1, "must be a table"),
        (b'[members]\nweb = "web1"\n', 2, "list of texts"),
        (b'[members]\nweb = ["web1",\n"web/1"]\n', 3, "no node's name"),
        (b'[members]\nweb = ["**"]\n', 2, "no node's name"),
        (b'[members]\nrunning = ["web1"]\n', 2, "no subcluster"),
        (b'[members]\ndefault = ["web1"]\n', 2, "every node"),
    ],
)
def test_faults_have_their_lines_and_leave_operators_the_repair(content: bytes, line: int, word: str) -> None:
    rules = Rules.parse(content)
    assert any(at == line and word in problem for at, problem in rules.faults), rules.faults
    assert rules.may("operator:a", "commit", ACCESS_FILE)
    assert not rules.may("operator:a", "commit", "web/x")
    assert rules.may("operator:a", "read", "web/x")


def test_ten_thousand_paths_are_judged_at_once() -> None:
    rules = Rules.parse(RULES)
    paths = [f"web/web{n % 200}/etc/app/{n}.toml" for n in range(10_000)]
    begin = time.monotonic()
    assert sum(rules.may("operator:alice", "commit", path) for path in paths) == len(paths)
    assert time.monotonic() - begin < 0.5
