"""What became of a commit, as people and scripts see it, and as an exit code.

committed     r12 1a2b3c4d                      0
nothing       Nothing to commit                 0
good          (a check) what the server says    0
refused       path:line: problem on stderr      6
conflict      both sides on stderr              6
unconfirmed   r12 1a2b3c4d, a note on stderr    7
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import click

from jlogd.confrepo import model as m
from jlogd.render import note, print_json, printable
from jlogd.runtime.errors import ConflictError, DeadlineError, RefusedError
from managerd.eccfg import difference
from managerd.v1 import config_pb2 as pb

ID_DIGITS = 8  # of an id in messages
SIDE_LINES_MAX = 20  # of a diff that shows one side of a conflict
IN_A_WORKING_COPY = "'eccfg pull' merges what it can and offers --mine, --theirs, --manual"
ON_THE_SERVER = "later revisions changed the same ('eccfg log PATH'): change it in a working copy, as you want it now"
_Outcome = pb.CommitResponse


def report(response: pb.CommitResponse, *, as_json: bool, conflict_hint: str = IN_A_WORKING_COPY) -> int:
    """Print it; returns the exit code. An outcome of a newer manager that is not known here is RefusedError."""
    outcome = response.outcome
    if outcome in {_Outcome.OUTCOME_COMMITTED, _Outcome.OUTCOME_UNCONFIRMED}:
        return _committed(response, as_json=as_json)
    if outcome == _Outcome.OUTCOME_NOTHING:
        _say("Nothing to commit", {"revision": None, "id": None}, as_json=as_json)
        return 0
    if outcome == _Outcome.OUTCOME_GOOD:
        merged = " after a merge with what changed there meanwhile" if response.merged else ""
        document = {"ok": True, "faults": [], "notes": list(response.notes)}
        _say(f"good{merged}: a commit would be accepted", document, as_json=as_json)
        if not as_json:
            _tell([response.held] if response.held else [])
            _tell(response.notes)
        return 0
    if outcome == _Outcome.OUTCOME_REFUSED:
        return _refused(response, as_json=as_json)
    if outcome == _Outcome.OUTCOME_CONFLICT:
        return _conflict(response, conflict_hint, as_json=as_json)
    raise RefusedError(f"the manager answered outcome {outcome}, which this eccfg does not know: update eccfg")


def short(revision: pb.Revision) -> str:
    """``r12 1a2b3c4d``."""
    return f"r{revision.revision} {revision.id[:ID_DIGITS]}"


def is_stored(response: pb.CommitResponse) -> bool:
    """Whether there is a new revision."""
    return response.outcome in {_Outcome.OUTCOME_COMMITTED, _Outcome.OUTCOME_UNCONFIRMED}


def _committed(response: pb.CommitResponse, *, as_json: bool) -> int:
    confirmed = response.outcome == _Outcome.OUTCOME_COMMITTED
    document = {
        "revision": response.revision.revision,
        "id": response.revision.id,
        "confirmed": confirmed,
        "merged": response.merged,
        "held": response.held or None,
        "notes": list(response.notes),
    }
    _say(short(response.revision), document, as_json=as_json)
    if not as_json:
        if response.merged:
            note("note: merged with what others committed meanwhile; 'eccfg show' has the result")
        if response.held:
            note(f"note: not sent to all nodes at once: {printable(response.held)}")
        _tell(response.notes)
        if not confirmed:
            note(
                "note: stored, but not on enough managers yet: nodes get it once it is; "
                "'eccfg status' shows which manager is missing"
            )
    return 0 if confirmed else DeadlineError.exit_code


def _tell(notes: Iterable[str]) -> None:
    for each in notes:
        note(f"note: {printable(each)}")


def _say(text: str, document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        click.echo(text)


# ---------------------------------------------------------------------- refused


def fault_line(fault: pb.Fault) -> str:
    """``path:line: problem``."""
    return printable(str(m.Fault(fault.path, fault.line, fault.problem)))


def _refused(response: pb.CommitResponse, *, as_json: bool) -> int:
    if as_json:
        faults = [{"path": f.path, "line": f.line or None, "problem": f.problem} for f in response.faults]
        _json_error(RefusedError.reason, "refused: nothing was stored", faults=faults)
    else:
        for fault in response.faults:
            note(fault_line(fault))
        count = len(response.faults)
        note(f"refused: {count} fault{'s' if count != 1 else ''}; nothing was stored")
    return RefusedError.exit_code


def _json_error(reason: str, message: str, **more: Any) -> None:
    note(json.dumps({"error": {"reason": reason, "message": message, **more}}))


# ---------------------------------------------------------------------- conflicts


def _conflict(response: pb.CommitResponse, hint: str, *, as_json: bool) -> int:
    if as_json:
        conflicts = [{"path": each.path, "keys": list(each.keys)} for each in response.conflicts]
        _json_error(ConflictError.reason, "conflict: nothing was stored", conflicts=conflicts)
    else:
        for conflict in response.conflicts:
            for line in conflict_lines(conflict):
                note(line)
        note(f"conflict: nothing was stored; {hint}")
    return ConflictError.exit_code


def conflict_lines(conflict: pb.Conflict) -> Iterator[str]:
    """Both sides of one conflict: the values of its keys, or what each side did to the file."""
    path = printable(conflict.path)
    sides = {name: _side(conflict, name) for name in ("base", "mine", "theirs")}
    deleted = [name for name in ("mine", "theirs") if sides[name] is None]
    if deleted:
        who = {"mine": "you", "theirs": "others"}
        other = "theirs" if deleted == ["mine"] else "mine"
        yield f"{path}: {who[deleted[0]]} deleted it, {who[other]} changed it"
        return
    if conflict.keys:
        values = {name: difference.leaves(conflict.path, side) or {} for name, side in sides.items()}
        yield f"{path}: you and others changed the same keys"
        for key in conflict.keys:
            yield f"  {printable(key)}"
            for label, name in (("before", "base"), ("yours", "mine"), ("theirs", "theirs")):
                yield f"    {label:7} {printable(_value(values[name], key))}"
        return
    yield f"{path}: you and others changed the same lines"
    for label, name in (("yours", "mine"), ("theirs", "theirs")):
        lines = list(
            difference.unified(difference.Difference(conflict.path, sides["base"], sides[name]), "base", label)
        )
        yield from (f"  {line}" for line in lines[:SIDE_LINES_MAX])
        if len(lines) > SIDE_LINES_MAX:
            yield f"  … {len(lines) - SIDE_LINES_MAX} more lines"


def _side(conflict: pb.Conflict, name: str) -> m.File | None:
    return m.File(getattr(conflict, name)) if conflict.HasField(name) else None  # type: ignore[arg-type]


def _value(values: dict[str, str], key: str) -> str:
    """The key's value; of a map its keys; absent keys say so."""
    if key in values:
        return values[key]
    inner = [
        f"{name.removeprefix(key + '.')} = {value}" for name, value in values.items() if name.startswith(key + ".")
    ]
    return difference.shown(", ".join(inner)).strip('"') if inner else "(not set)"
