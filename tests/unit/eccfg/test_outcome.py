"""What people and scripts see of a commit that was accepted with notes."""

import json

import pytest

from managerd.eccfg import outcome
from managerd.v1 import config_pb2 as pb

NOTES = ["node web3 says that it is of subcluster default", "a \x1b[31m name"]


@pytest.mark.parametrize("made", [pb.CommitResponse.OUTCOME_COMMITTED, pb.CommitResponse.OUTCOME_GOOD])
def test_notes_are_told_beside_the_result(
    made: pb.CommitResponse.Outcome.ValueType, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, one line each, printable; with --json in the document; the exit code says that it was accepted."""
    response = pb.CommitResponse(outcome=made, notes=NOTES)
    assert outcome.report(response, as_json=False) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == f"note: {NOTES[0]}"
    assert (len(said.err.splitlines()), "\x1b" in said.err) == (2, False)
    assert outcome.report(response, as_json=True) == 0
    said = capsys.readouterr()
    assert (json.loads(said.out)["notes"], said.err) == (NOTES, "")
