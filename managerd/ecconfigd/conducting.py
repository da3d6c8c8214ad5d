"""Rollout calls: rights on what the rollout changes, then the conductor. Anything but ``status`` runs on the writer."""

from typing import TYPE_CHECKING

from jlogd.confrepo.model import Revision
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import RefusedError, UsageError
from managerd.ecconfigd.calls import Call, Caller
from managerd.ecconfigd.committing import READY_S
from managerd.ecconfigd.conductor import StartRequest
from managerd.ecconfigd.forwarding import Forwarding
from managerd.ecconfigd.rollout import Status
from managerd.ecconfigd.seeing import Seeing
from managerd.ecconfigd.wire import rollout_of
from managerd.v1 import config_pb2 as pb

if TYPE_CHECKING:
    from managerd.ecconfigd.service import Parts

_Action = pb.RolloutRequest


class Conducting:
    """See the module."""

    def __init__(self, parts: "Parts", seeing: Seeing, forwarding: Forwarding) -> None:
        """``forwarding``: to the writer."""
        self._parts = parts
        self._seeing = seeing
        self._forwarding = forwarding

    async def rollout(self, call: Call, request: pb.RolloutRequest) -> pb.RolloutResponse:
        """``ConfigService.Rollout``."""
        who = call.for_whom(request.on_behalf_of)
        if who.role == "node":
            (await self._seeing.gate(who)).require_role("operator", "see or change rollouts")
        if request.action == _Action.ACTION_STATUS:
            status = self._parts.conductor.status()
            return pb.RolloutResponse(rollout=rollout_of(status) if status is not None else None)
        if not self._parts.replication.is_writer:
            answer = await self._forwarding.unary(call, who, "Rollout", request)
            assert isinstance(answer, pb.RolloutResponse)
            return answer
        return pb.RolloutResponse(rollout=rollout_of(await self._change(request, who)))

    async def _change(self, request: pb.RolloutRequest, who: Caller) -> Status:
        conductor = self._parts.conductor
        await self._parts.replication.wait_ready(READY_S)
        if request.action == _Action.ACTION_START:
            return await self._start(request, who)
        status = conductor.status()
        if status is None:
            raise RefusedError("there is no rollout: 'eccfg rollout start' begins one")
        await self._require(who, Revision(status.baseline), f"r{status.revision}")
        match request.action:
            case _Action.ACTION_PAUSE:
                return await conductor.pause(who.identity)
            case _Action.ACTION_RESUME:
                return await conductor.resume(who.identity)
            case _Action.ACTION_ABORT:
                return await conductor.abort(who.identity)
        raise UsageError("an action that this manager does not know: is it older than eccfg?")

    async def _start(self, request: pb.RolloutRequest, who: Caller) -> Status:
        picture = self._parts.targets.picture
        baseline = Revision(picture.baseline.revision) if picture is not None else Revision(0)
        await self._require(who, baseline, request.revision)
        return await self._parts.conductor.start(
            StartRequest(
                revision=request.revision,
                stages=tuple(request.stages),
                hold_s=request.hold_ms / 1000 if request.HasField("hold_ms") else None,
                health=tuple(request.health),
                max_failed=request.max_failed if request.HasField("max_failed") else None,
            ),
            who.identity,
        )

    async def _require(self, who: Caller, baseline: Revision, revision: str) -> None:
        """Whoever rolls out must have that right on all that changes for the nodes."""
        gate = await self._seeing.gate(who)

        def changed(repository: Repository) -> list[str]:
            before = repository.at(baseline) if baseline else None
            return [path for path, _, _ in repository.diff(before, repository.resolve(revision))]

        gate.require("rollout", await self._seeing.read(changed))
