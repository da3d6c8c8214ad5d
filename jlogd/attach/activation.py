"""Makes a laid-out revision the one that counts: swap, jlogd's own settings, reload command, health check; and back.

Blocks as long as the operator's programs may; belongs to the configurer's thread.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from jlogd.attach import hook
from jlogd.attach.discretion import without_secrets
from jlogd.attach.events import Activated, GoneBack, HealthChecked, NotActivated
from jlogd.attach.memory import Point, Trial
from jlogd.confrepo.manifest import changed_paths
from jlogd.confrepo.model import CommitId
from jlogd.confrepo.replica import Replica
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import JlogdError, StorageError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.settings import OVERLAY_FILE, ConfigSettings

log = logging.getLogger(__name__)

ApplySettings = Callable[[Path | None], list[str]]

RELOAD_LOG: Final = "reload.log"  # of the last run that went well
RELOAD_FAILED_LOG: Final = "reload.failed.log"  # of the last one that did not: the way back runs the command again
HEALTH_S: Final = 30.0  # for one check
CHANGED_MAX: Final = 100  # paths in JLOGD_CHANGED_PATHS; a command's environment is bounded


class Activation:
    """See the module. ``last``: how the reload command went the last time."""

    def __init__(
        self,
        replica: Replica,
        settings: ConfigSettings,
        apply_settings: ApplySettings,
        stopping: threading.Event,
        *,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> None:
        """``stopping``: programs that run are killed when it is set."""
        self._replica = replica
        self._settings = settings
        self._apply_settings = apply_settings
        self._stopping = stopping
        self._fs = fs
        self._clock = clock

    def activate(self, trial: Trial, old: Point | None) -> Activated | NotActivated:
        """Whatever does not work is in the answer; nothing is taken back here."""
        views = self._replica.views
        try:
            views.swap(trial.point.id)
        except JlogdError as error:
            swapped = views.current() == trial.point.id
            return NotActivated(str(error), swapped, again=isinstance(error, StorageError))
        log.info("configuration: r%d (%s) is current", trial.point.revision, trial.point.id[:8])
        try:
            notes = self._apply_settings(self._overlay())
        except JlogdError as error:
            return NotActivated(self._told(_one_line(error)), again=isinstance(error, StorageError))
        problem = self._reload(trial.point, old) or self.check(trial.point, trial.health).error
        return NotActivated(problem) if problem else Activated(tuple(notes))

    def go_back(self, to: Point | None, old: Point) -> GoneBack:
        """As far as it goes: what still does not work is in the answer."""
        problems = []
        try:
            if to is not None:
                self._replica.prepare_again(to.id, to.revision)
            self._replica.views.swap(to.id if to is not None else None)
        except JlogdError as error:
            problems.append(str(error))
        log.warning("configuration: back to %s", f"r{to.revision} ({to.id[:8]})" if to is not None else "none at all")
        problems += self.again(to, old)
        return GoneBack("; ".join(problems))

    def again(self, point: Point | None, old: Point | None) -> list[str]:
        """Settings and reload command with what is current; what does not work."""
        problems = []
        try:
            self._apply_settings(self._overlay())
        except JlogdError as error:
            problems.append(self._told(_one_line(error)))
        problem = self._reload(point, old)
        return [*problems, problem] if problem else problems

    def check(self, point: Point, words: Sequence[str]) -> HealthChecked:
        """Run the rollout's health check, if there is one."""
        if not words:
            return HealthChecked()
        view = self._replica.views.path(point.id)
        manifest = self._replica.views.manifest(point.id)
        if manifest is None or words[0] not in manifest.files:
            return HealthChecked(f"health check: {words[0]} is not in the view")
        argv = (str(view / words[0]), *words[1:])
        ran = hook.run(argv, view, self._environment(point, None), HEALTH_S, self._stopping, clock=self._clock)
        return HealthChecked(f"health check: {self._told(ran.error)}" if ran.error else "")

    def _overlay(self) -> Path | None:
        path = self._replica.directory / "current" / OVERLAY_FILE
        return path if path.is_file() else None

    def _reload(self, point: Point | None, old: Point | None) -> str:
        """What went wrong; empty: nothing."""
        argv = self._settings.reload_argv
        if not argv:
            return ""
        views = self._replica.views
        directory = views.path(point.id) if point is not None else self._replica.directory
        environment = self._environment(point, old)
        ran = hook.run(argv, directory, environment, self._settings.reload_timeout, self._stopping, clock=self._clock)
        log_file = self._replica.directory / (RELOAD_FAILED_LOG if ran.error else RELOAD_LOG)
        try:
            revision = point.revision if point is not None else 0
            hook.keep_output(log_file, ran, revision, fs=self._fs, clock=self._clock)
        except JlogdError as error:
            log.warning("configuration: %s", error)
        if not ran.error:
            return ""
        problem = self._told(ran.error, *([old.id] if old is not None else []))
        log.error("configuration: reload: %s (output: %s)", problem, log_file)
        return f"reload: {problem}"

    def _told(self, text: str, *others: CommitId) -> str:
        """``text`` without the secrets of what is current, and of ``others``."""
        current = self._replica.views.current()
        known = {*others, current} if current is not None else {*others}
        return without_secrets(text, self._replica.views, *known) if text else ""

    def _environment(self, point: Point | None, old: Point | None) -> dict[str, str]:
        views = self._replica.views
        if point is None:
            return {"JLOGD_REVISION": "0", "JLOGD_REVISION_ID": "", "JLOGD_CONFIG": ""}
        environment = {
            "JLOGD_REVISION": str(point.revision),
            "JLOGD_REVISION_ID": point.id,
            "JLOGD_CONFIG": str(views.path(point.id)),
        }
        before = views.manifest(old.id) if old is not None else None
        now = views.manifest(point.id)
        if now is not None and old != point:
            changed = changed_paths(before, now)
            environment["JLOGD_CHANGED"] = str(len(changed))
            environment["JLOGD_CHANGED_PATHS"] = "\n".join(changed[:CHANGED_MAX])
        return environment


def _one_line(error: JlogdError) -> str:
    return "; ".join(str(error).splitlines())
