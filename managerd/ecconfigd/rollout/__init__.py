r"""Rollouts: a revision reaches a few nodes first, then more, and goes back by itself where it does harm. Pure.

    state \ asked or seen   pause    resume    abort     too many failed   last stage held
    running                 paused    refused   aborted   failed            done
    paused                  refused  running   aborted   failed            (waits)
    done, failed, aborted   refused  refused   refused   -                 -

* ``policy``: which paths ask for a rollout (``global/rollout.toml``), and the defaults of one.
* ``stages``: "1", "10%", "100%" → how many nodes.
* ``document``: what is durable. Nothing that can be computed stands in it.
* ``fleet``: what was seen of the nodes since this process began. Never durable: after a restart it is seen again.
* ``machine``: document + fleet + time → next document; ``status``: what people see of it.

Always true: what a node should run follows from the document and the refs alone, so every manager says the same; a
revision that is held back reaches no node but those that a rollout released it to.
"""

from managerd.ecconfigd.rollout.document import FILE, Document, Held, Point, Rollout, from_bytes, to_bytes
from managerd.ecconfigd.rollout.fleet import Fleet
from managerd.ecconfigd.rollout.machine import Order, Plan, decide, examine, order, settle, start, void
from managerd.ecconfigd.rollout.policy import FAILED_MAX, Policy, Requirement, health_problem, parse_policy
from managerd.ecconfigd.rollout.stages import DEFAULT, check_stages
from managerd.ecconfigd.rollout.status import Status, describe

__all__ = [
    "DEFAULT",
    "FAILED_MAX",
    "FILE",
    "Document",
    "Fleet",
    "Held",
    "Order",
    "Plan",
    "Point",
    "Policy",
    "Requirement",
    "Rollout",
    "Status",
    "check_stages",
    "decide",
    "describe",
    "examine",
    "from_bytes",
    "health_problem",
    "order",
    "parse_policy",
    "settle",
    "start",
    "to_bytes",
    "void",
]
