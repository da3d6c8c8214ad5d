"""Writers as child processes, from the side of the test that lets them write, stops them and cuts their files."""

import json
import os
import random
import subprocess

from tests.support.daemon import STOP_S, die_with_parent
from tests.support.fleet import REPOSITORY
from tests.support.writers import Plan, arguments, not_rotating


class WriterProcess:
    """One writer of ``plan``; it writes as far as ``allow`` says. Not thread-safe."""

    def __init__(self, plan: Plan) -> None:
        """Start it; it waits."""
        self.plan = plan
        self._allowed = 0
        self._process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.plan.truth.mkdir(parents=True, exist_ok=True)
        (self.plan.truth / "rotating").touch()
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(
            arguments(self.plan),
            stdin=subprocess.PIPE,
            cwd=REPOSITORY,
            env=environment,
            preexec_fn=die_with_parent,  # noqa: PLW1509 -- one libc call
        )

    def allow(self, end: int) -> None:
        """Let it write up to line ``end``, exclusive."""
        self._allowed = end
        assert self._process.stdin is not None
        self._process.stdin.write(b"UNTIL %d\n" % end)
        self._process.stdin.flush()

    def kill(self) -> None:
        """``kill -9``, between two rotations."""
        with not_rotating(self.plan.truth):
            self._process.kill()
            self._process.wait(STOP_S)
        assert self._process.stdin is not None
        self._process.stdin.close()

    def cut_power(self, rng: random.Random) -> int:
        """``kill``, and take a random part of the live file's un-synced end; returns how many bytes."""
        self.kill()
        durable = self.plan.truth / "durable"
        spared = json.loads(durable.read_text())["bytes"] if durable.exists() else 0
        size = self.plan.path.stat().st_size
        kept = rng.choice([spared, size, rng.randint(spared, size)])
        os.truncate(self.plan.path, kept)
        return size - kept

    def restart(self) -> None:
        """Go on after ``kill`` or ``cut_power``."""
        self._process = self._spawn()
        self.allow(self._allowed)

    def finish(self, timeout_s: float) -> None:
        """Let it write everything, and wait for its end. AssertionError when it does not end well."""
        self.allow(self.plan.lines)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"writer of {self.plan.path} still writes after {timeout_s:g} s") from error
        assert code == 0, f"writer of {self.plan.path} ended with {code}"

    def close(self) -> None:
        """Make sure that it is gone."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_S)
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
