"""What to tell people of a revision that nodes do not get yet: what holds it back, and which command goes on.

A revision is held back from the nodes that are told to run an older one although it is confirmed. The manager says that
of each node; which rollout it is for is told by the rollout's state. Pure, but for ``reason_now``.
"""

import time
from collections.abc import Iterable
from contextlib import suppress

from jlogd.runtime.errors import NotPermittedError
from managerd.eccfg.client import Client
from managerd.v1 import config_pb2 as pb

SETTLE_S = 0.3  # a revision is confirmed a moment before nodes are told of it: that is not held back
_ACTIVE = ("running", "paused")


def told_older(revision: int, nodes: Iterable[pb.Node]) -> list[int]:
    """What those of ``nodes`` are told to run that are kept from ``revision``, the oldest first."""
    return sorted({node.target for node in nodes if 0 < node.target < revision})


def reason(revision: int, told: list[int], rollout: pb.RolloutState | None) -> str:
    """One line for people. ``told``: as ``told_older`` has it, not empty."""
    older = " or ".join(f"r{target}" for target in told)
    begins = f"r{revision} is held back, nodes are told to run {older}"
    if rollout is not None and rollout.state in _ACTIVE and rollout.baseline <= told[0]:
        return f"{begins}: {_active(revision, rollout)}"
    begin, undo = (
        f"'eccfg rollout start r{revision}'",
        f"'eccfg revert r{told[0] + 1} -m MSG' undoes what was held first",
    )
    if rollout is not None and rollout.state in {"failed", "aborted"} and rollout.revision > told[0]:
        why = f" ({rollout.reason})" if rollout.reason else ""
        ended = f"rollout {rollout.number} of r{rollout.revision} {rollout.state}"
        return f"{begins}: {ended}{why}; {begin} tries again, {undo}"
    return f"{begins}: global/rollout.toml asks for a rollout; {begin} begins it, {undo}"


def _active(revision: int, rollout: pb.RolloutState) -> str:
    stage = f"stage {rollout.stage + 1} of {len(rollout.stages)}"
    name = f"rollout {rollout.number} of r{rollout.revision} is {rollout.state} ({stage})"
    if revision > rollout.revision:
        name += f", and r{revision} waits until it is over"
    if rollout.state == "paused":
        return f"{name}; 'eccfg rollout resume' goes on, 'eccfg rollout abort' takes it back"
    return f"{name}; it goes on by itself, 'eccfg rollout status' shows how far"


def reason_now(client: Client, revision: pb.Revision, names: Iterable[str] | None = None) -> str:
    """Asks the manager; empty when nothing keeps the revision from any node, or from none of ``names``."""
    if not revision.confirmed:
        return ""  # that is another reason, and told elsewhere
    wanted = None if names is None else set(names)
    told, rollout = _look(client, revision.revision, wanted)
    if told and (rollout is None or rollout.state not in _ACTIVE):
        time.sleep(SETTLE_S)
        told, rollout = _look(client, revision.revision, wanted)
    return reason(revision.revision, told, rollout) if told else ""


def _look(client: Client, revision: int, names: set[str] | None) -> tuple[list[int], pb.RolloutState | None]:
    told = told_older(revision, (node for node in client.nodes().nodes if names is None or node.name in names))
    rollout = None
    if told:
        with suppress(NotPermittedError):  # a node may not see rollouts
            answer = client.rollout(pb.RolloutRequest(action=pb.RolloutRequest.ACTION_STATUS))
            rollout = answer.rollout if answer.HasField("rollout") else None
    return told, rollout
