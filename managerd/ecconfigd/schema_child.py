"""A process that applies JSON Schemas (draft 2020-12): patterns of a schema can take for ever, and then it dies alone.

A script on its own, run by ``schema.SchemaChecks``: it knows nothing of the rest of the project.

    a line in    {"schema": …, "value": …, "errors_max": 100, "time_s": 5.0}
    a line out   {"schema_fault": [[KEY, …], TEXT]}            the schema itself is unsound
                 {"errors": [[[KEY, …], TEXT, KEYWORD], …]}    where in the value, what, by which keyword

No reference is ever fetched: only those within the schema are known.
"""

import itertools
import json
import signal
import sys
from typing import Any, Final, TextIO

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry

TEXT_MAX: Final = 300  # of an error: jsonschema repeats the whole value
KNOWN_MAX: Final = 256

_known: dict[str, Draft202012Validator] = {}  # by the schema's text


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """See the module."""
    try:
        validator = _validator(request["schema"])
        found = itertools.islice(validator.iter_errors(request["value"]), request["errors_max"])
        return {"errors": [[_place(error), _cut(error.message), str(error.validator)] for error in found]}
    except SchemaError as error:
        return {"schema_fault": [list(error.absolute_path), _cut(error.message)]}
    except RecursionError:
        return {"schema_fault": [[], "it refers to itself without end"]}
    except Exception as error:  # noqa: BLE001 - unresolvable references, patterns that are none: all the schema's
        return {"schema_fault": [[], _cut(f"{type(error).__name__}: {error}")]}


def _validator(schema: Any) -> Draft202012Validator:
    text = json.dumps(schema)
    if text not in _known:
        if len(_known) >= KNOWN_MAX:
            _known.clear()
        Draft202012Validator.check_schema(schema)
        _known[text] = Draft202012Validator(schema, registry=Registry())
    return _known[text]


def _place(error: ValidationError) -> list[str | int]:
    """Where it is; for keys that may not be there, the first of them."""
    place = list(error.absolute_path)
    if (
        error.validator == "additionalProperties"
        and isinstance(error.schema, dict)
        and isinstance(error.instance, dict)
    ):
        extra = [key for key in error.instance if key not in error.schema.get("properties", {})]
        place += extra[:1]
    return place


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]} …"


def serve(requests: TextIO, answers: TextIO) -> None:
    """Until the end of ``requests``."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["time_s"])  # the alarm ends the process, whatever it does
        result = json.dumps(answer(request))
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(result + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
