"""What we change in gRPC is still there to be changed."""

import subprocess
import sys

from grpc import _common

from jlogd.runtime import rpc


def test_grpc_has_the_constant_that_lets_its_threads_sleep() -> None:
    """Another name in a new version, and idle nodes look around ten times a second again."""
    assert rpc.MESSAGE_MAX  # the module is what sets it
    found = subprocess.run(
        [sys.executable, "-c", "import grpc._common as c; print(c.MAXIMUM_WAIT_TIMEOUT)"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert float(found.stdout) < 10.0
    assert _common.MAXIMUM_WAIT_TIMEOUT == 10.0
