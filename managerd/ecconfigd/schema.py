"""JSON Schema, applied to values in a process of its own (``schema_child``), which is started when first needed.

A schema whose patterns take too long costs that process, never the manager. Any thread may ask; one at a time.
"""

import contextlib
import datetime as dt
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jlogd.confrepo.formats import KeyPath
from jlogd.confrepo.secrets import is_secret
from jlogd.runtime.errors import StorageError

ATTEMPTS: Final = 2  # somebody may have killed the process
REQUEST_S: Final = 5.0  # what one schema may take for one file

_LACKING: Final = {"required", "minProperties", "dependentRequired"}
_CHILD: Final = Path(__file__).with_name("schema_child.py")


@dataclass(frozen=True, slots=True)
class Misfit:
    """A value that is not as the schema says, or what is wrong with the schema itself (``of_schema``).

    ``missing``: it lacks something, so with another layer it may be well.
    """

    key: KeyPath
    problem: str
    of_schema: bool = False
    missing: bool = False


class SchemaChecks:
    """See the module."""

    def __init__(self, request_s: float = REQUEST_S) -> None:
        """No process runs yet."""
        self._request_s = request_s
        self._lock = threading.Lock()  # guards the process; held while it works, which is bounded there
        self._process: subprocess.Popen[str] | None = None

    def check(self, schema: object, value: object, *, errors_max: int) -> list[Misfit]:
        """What does not fit. StorageError when there can be no process."""
        if not isinstance(schema, dict | bool):
            return [Misfit((), "a schema is an object, or true or false", of_schema=True)]
        what = {"schema": plain(schema), "value": plain(value), "errors_max": errors_max, "time_s": self._request_s}
        with self._lock:
            answer = self._ask(json.dumps(what))
        if answer is None:
            return [Misfit((), "it takes too long to apply: simplify its patterns", of_schema=True)]
        if "schema_fault" in answer:
            place, text = answer["schema_fault"]
            return [Misfit(tuple(place), text, of_schema=True)]
        found = ((tuple(place), text, keyword) for place, text, keyword in answer["errors"])
        return [
            Misfit(key, text, missing=keyword in _LACKING)
            for key, text, keyword in found
            if keyword == "type" or not _hidden(value, key)
        ]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, request: str) -> dict[str, Any] | None:
        """The answer; None when it took too long. StorageError when the process dies of something else."""
        for _ in range(ATTEMPTS):
            process = self._process or self._start()
            line = _exchange(process, request)
            if line.endswith("\n"):
                answer = json.loads(line)
                assert isinstance(answer, dict)
                return answer
            self._end()
            if process.returncode == -signal.SIGALRM:
                return None
        raise StorageError(f"schemas cannot be applied: {_CHILD.name} ends with status {process.returncode}")

    def _start(self) -> "subprocess.Popen[str]":
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_CHILD)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                encoding="utf-8", start_new_session=True, cwd="/",
            )  # fmt: skip
        except OSError as error:
            raise StorageError(f"schemas cannot be applied: {sys.executable}: {error.strerror}") from error
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # no effect on one that ended
            with contextlib.suppress(BrokenPipeError), process:  # closes the pipes and waits
                pass


def _exchange(process: "subprocess.Popen[str]", request: str) -> str:
    """Its answer; no whole line when it died."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(request + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    except OSError:
        return ""


def plain(value: object) -> object:
    """``value`` as JSON has it: times as texts, keys as texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    return value


def _hidden(value: object, key: KeyPath) -> bool:
    """Whether an encrypted value stands there: nobody but its node knows whether it fits."""
    for part in key:
        if isinstance(value, Mapping):
            value = next((each for name, each in value.items() if str(name) == str(part)), None)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
    return is_secret(value)
