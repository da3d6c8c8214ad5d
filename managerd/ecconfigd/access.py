"""Who may read, commit and roll out which paths: ``global/access.toml``. Pure.

    [groups]
    web-team = ["operator:alice", "operator:bob"]

    [[rule]]
    who = ["@web-team"]                 # an identity ROLE:NAME, "role:ROLE", or a group "@NAME"
    paths = ["web/**"]                  # `*` and `?` within a part, `**` for any number of parts
    allow = ["read", "commit", "rollout"]

    [members]
    web = ["web*"]                      # nodes that may be of the subcluster without a directory there

Rules only grant; an identity has what any of its rules grants.

* Without the file operators may do everything. With it they have what its rules say.
* Whatever it says: managers read everything, a node reads its own layers and commits to ``running/<node>/``.
* A node that has no directory is of the subcluster that it names; with ``[members]`` only where it is listed, or of
  ``default``.
* It and ``global/rollout.toml`` are committed by operators only; one by which no operator could change it again has a
  fault.
* A file with faults (no commit lets one in) grants operators to read everything, and to repair that file; it lists
  no members.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeAlias, get_args

from jlogd.confrepo.model import ACCESS_FILE, DEFAULT, RESERVED, ROLLOUT_FILE, RUNNING, Scope
from jlogd.runtime import toml
from jlogd.runtime.names import is_name

Right: TypeAlias = Literal["read", "commit", "rollout"]
Judge: TypeAlias = Callable[[str], bool]
Located: TypeAlias = tuple[toml.Path, str]

RIGHTS: Final = frozenset(get_args(Right))
ROLES: Final = frozenset({"operator", "node", "manager"})
EVERY_OPERATOR: Final = "role:operator"
_FOR_OPERATORS: Final = frozenset({ACCESS_FILE, ROLLOUT_FILE})
RULES_MAX: Final = 1000  # of one file: every path is matched against all of an identity's patterns
PATTERNS_MAX: Final = 1000  # of one rule
JUDGES_MAX: Final = 10_000  # remembered answers of one file: identities times rights


def pattern_fault(pattern: object) -> str | None:
    """What is wrong with a pattern for paths of the repository; None = nothing."""
    if not isinstance(pattern, str) or not pattern or len(pattern) > 1024:
        return f"not a pattern for paths: {str(pattern)[:100]!r}"
    for part in pattern.split("/"):
        if part in {"", ".", ".."}:
            return f"{pattern!r} can match no path: paths are relative and have no empty part, '.' or '..'"
        if "**" in part and part != "**":
            return f"{pattern!r}: '**' stands for whole parts, as in 'web/**' or '**/nginx.conf'"
    return None


def compile_globs(patterns: Iterable[str]) -> "re.Pattern[str]":
    """One expression whose ``fullmatch`` says whether a path matches any of the sound ``patterns``.

    It never backtracks into what it matched before: the first place where a piece between two wildcards fits is as
    good as any later one.
    """
    return re.compile("|".join(map(_expression, patterns)) or r"(?!)", re.DOTALL)


def _expression(pattern: str) -> str:
    pieces: list[list[str]] = [[]]
    for part in pattern.split("/"):
        if part == "**":
            pieces.append([])
        else:
            pieces[-1].append(_part(part))
    first, *rest = pieces
    if not rest:
        return "/".join(first)
    *middle, last = rest
    expression = "".join(part + "/" for part in first)
    expression += "".join(f"(?>(?:[^/]+/)*?{'/'.join(piece)}/)" for piece in middle if piece)
    return expression + (f"(?:[^/]+/)*{'/'.join(last)}" if last else ".+")


def _part(part: str) -> str:
    """``*`` and ``?`` of one part; ``a*b*c`` → a, the first b after it, anything, c."""
    first, *rest = ("".join("[^/]" if char == "?" else re.escape(char) for char in text) for text in part.split("*"))
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>[^/]*?{text})" for text in middle if text) + "[^/]*" + last


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[rule]]``, groups resolved. ``who``: identities and ``role:ROLE``."""

    who: frozenset[str]
    paths: tuple[str, ...]
    allow: frozenset[str]


class Rules:
    """What one version of the file says. Any thread may ask: only answers are remembered."""

    def __init__(
        self,
        rules: Iterable[Rule] | None,
        faults: Iterable[tuple[int, str]] = (),
        members: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """``rules`` None: there is no file. ``members``: subcluster → patterns of names; None: nobody is asked."""
        self.faults: tuple[tuple[int, str], ...] = tuple(faults)  # (line, problem)
        self._rules = _WITHOUT_FILE if rules is None else _REPAIR if self.faults else tuple(rules)
        known = {} if self.faults else members
        self._members = known if known is None else {name: compile_globs(known[name]).fullmatch for name in known}
        self._judges: dict[tuple[str, Right, Scope | None], Judge] = {}

    @classmethod
    def parse(cls, content: bytes | None) -> Self:
        """From the file's content; None: it is not there. Never fails: see ``faults``."""
        if content is None:
            return cls(None)
        try:
            text = content.decode()
            tables = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            return cls((), [(1, f"not TOML: {error}")])
        reader = _Reader(tables)
        rules, members = tuple(reader.rules()), reader.members()
        if not reader.faults and not any(_repairs(rule) for rule in rules):
            reader.faults.append(((), f"no operator could change {ACCESS_FILE} again: let one commit it"))
        lines = toml.locate(text) if reader.faults else {}
        return cls(rules, [(_line(lines, place), problem) for place, problem in reader.faults], members)

    def may(self, identity: str, right: Right, path: str, scope: Scope | None = None) -> bool:
        """Whether ``identity`` ("operator:alice") has ``right`` on ``path``. ``scope``: a node's own."""
        return self.judge(identity, right, scope)(path)

    def judge(self, identity: str, right: Right, scope: Scope | None = None) -> Judge:
        """``may`` for many paths."""
        key = (identity, right, scope)
        judge = self._judges.get(key)
        if judge is None:
            if len(self._judges) >= JUDGES_MAX:
                self._judges.clear()
            judge = self._judges[key] = self._make(identity, right, scope)
        return judge

    def may_be_of(self, node: str, subcluster: str) -> bool:
        """Whether ``node`` may be of ``subcluster`` where the tree has no directory for it."""
        if self._members is None or subcluster == DEFAULT:
            return True
        match = self._members.get(subcluster)
        return match is not None and match(node) is not None

    def may_everything(self, identity: str, right: Right) -> bool:
        """Whether ``identity`` has ``right`` on every path there may ever be."""
        if right == "commit" and not identity.startswith("operator:"):
            return False
        return "**" in _patterns(self._granting(identity, right), identity, right, None)

    def _make(self, identity: str, right: Right, scope: Scope | None) -> Judge:
        match = compile_globs(_patterns(self._granting(identity, right), identity, right, scope)).fullmatch
        if right == "commit" and not identity.startswith("operator:"):
            return lambda path: path not in _FOR_OPERATORS and match(path) is not None
        return lambda path: match(path) is not None

    def _granting(self, identity: str, right: Right) -> Iterator[Rule]:
        role = "role:" + identity.partition(":")[0]
        return (rule for rule in self._rules if right in rule.allow and (identity in rule.who or role in rule.who))


def _patterns(rules: Iterable[Rule], identity: str, right: Right, scope: Scope | None) -> list[str]:
    """What the rules grant, and what nobody can take away."""
    found = [pattern for rule in rules for pattern in rule.paths]
    role, _, name = identity.partition(":")
    if role == "manager" and right == "read":
        found.append("**")
    if role == "node" and right == "commit":
        found.append(f"{RUNNING}/{name}/**")
    if role == "node" and right == "read" and scope is not None and scope.node == name != DEFAULT:
        found += [f"{layer}/**" for layer in scope.layers]
    return found


_WITHOUT_FILE: Final = (Rule(frozenset({EVERY_OPERATOR}), ("**",), RIGHTS),)
_REPAIR: Final = (
    Rule(frozenset({EVERY_OPERATOR}), ("**",), frozenset({"read"})),
    Rule(frozenset({EVERY_OPERATOR}), (ACCESS_FILE,), frozenset({"commit"})),
)


def _repairs(rule: Rule) -> bool:
    """Whether an operator may commit the file by this rule."""
    operators = any(who == EVERY_OPERATOR or who.startswith("operator:") for who in rule.who)
    return operators and "commit" in rule.allow and compile_globs(rule.paths).fullmatch(ACCESS_FILE) is not None


def _line(lines: Mapping[toml.Path, int], place: toml.Path) -> int:
    return next((lines[place[:depth]] for depth in range(len(place), 0, -1) if place[:depth] in lines), 1)


class _Reader:
    """The tables as rules; collects what is wrong with them."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self.faults: list[Located] = []
        self._tables = tables
        self._unknown((), tables, {"groups", "rule", "members"})
        self._groups = dict(self._read_groups(tables.get("groups", {})))

    def rules(self) -> Iterator[Rule]:
        found = self._tables.get("rule", [])
        if not isinstance(found, list) or len(found) > RULES_MAX:
            self.faults.append((("rule",), f"must be at most {RULES_MAX} tables [[rule]]"))
            return
        for number, table in enumerate(found):
            rule = self._rule(("rule", number), table)
            if rule is not None:
                yield rule

    def members(self) -> dict[str, tuple[str, ...]] | None:
        """Subcluster → patterns of names; None: there is no such section."""
        table = self._tables.get("members")
        if table is None:
            return None
        if not isinstance(table, dict):
            self.faults.append((("members",), "must be a table SUBCLUSTER = [PATTERN, …]"))
            return {}
        for name in table:
            fault = _subcluster_fault(name)
            if fault is not None:
                self.faults.append((("members", name), fault))
        return {name: tuple(self._sound(self._texts(("members",), table, name), _member_fault)) for name in table}

    def _rule(self, place: toml.Path, table: object) -> Rule | None:
        if not isinstance(table, dict):
            self.faults.append((place, "must be a table"))
            return None
        self._unknown(place, table, {"who", "paths", "allow"})
        who = frozenset(each for at, text in self._texts(place, table, "who") for each in self._identities(at, text))
        paths = tuple(self._sound(self._texts(place, table, "paths"), pattern_fault))
        allow = frozenset(self._sound(self._texts(place, table, "allow"), _right_fault))
        return Rule(who, paths, allow)

    def _read_groups(self, table: object) -> Iterator[tuple[str, frozenset[str]]]:
        if not isinstance(table, dict):
            self.faults.append((("groups",), "must be a table NAME = [IDENTITY, …]"))
            return
        for name in table:
            yield name, frozenset(self._sound(self._texts(("groups",), table, name), _identity_fault))

    def _identities(self, place: toml.Path, text: str) -> Iterator[str]:
        if not text.startswith("@"):
            yield from self._sound([(place, text)], _identity_fault)
        elif text[1:] in self._groups:
            yield from self._groups[text[1:]]
        else:
            self.faults.append((place, f"there is no group {text[1:]!r} in [groups]"))

    def _texts(self, place: toml.Path, table: Mapping[str, Any], key: str) -> Iterator[tuple[toml.Path, str]]:
        found = table.get(key)
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            self.faults.append(
                ((*place, key), f"{key} must be a list of texts" if key in table else f"{key} is missing")
            )
        elif not found and place not in {("groups",), ("members",)}:
            self.faults.append(((*place, key), f"{key} is empty: the rule says nothing"))
        elif len(found) > PATTERNS_MAX:
            self.faults.append(((*place, key), f"more than {PATTERNS_MAX}"))
        else:
            yield from (((*place, key, number), text) for number, text in enumerate(found))

    def _sound(self, found: Iterable[tuple[toml.Path, str]], fault_of: Callable[[str], str | None]) -> Iterator[str]:
        for place, text in found:
            fault = fault_of(text)
            if fault is None:
                yield text
            else:
                self.faults.append((place, fault))

    def _unknown(self, place: toml.Path, table: Mapping[str, Any], known: set[str]) -> None:
        for key in table.keys() - known:
            self.faults.append(((*place, key), f"unknown key {key!r} (there are: {', '.join(sorted(known))})"))


def _identity_fault(text: str) -> str | None:
    role, colon, name = text.partition(":")
    if (role == "role" and name in ROLES) or (role in ROLES and colon and is_name(name)):
        return None
    return f'{text[:100]!r} is nobody: write "ROLE:NAME" ("operator:alice"), "role:ROLE" or "@GROUP"'


def _subcluster_fault(name: str) -> str | None:
    if name == DEFAULT:
        return f"every node may be of {DEFAULT}: leave it out"
    return None if is_name(name) and name not in RESERVED else f"{name[:100]!r} is no subcluster"


def _member_fault(text: str) -> str | None:
    if text and "/" not in text and "**" not in text and is_name(re.sub(r"[*?]", "n", text)):
        return None
    return f"{text[:100]!r} can be no node's name: write one, with `*` and `?` where any letters may stand"


def _right_fault(text: str) -> str | None:
    return None if text in RIGHTS else f"{text[:100]!r} is not a right: read, commit, rollout"
