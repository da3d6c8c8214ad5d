"""The configuration's storm; the long form, ten minutes, with JLOGD_LONG=1 (``make fault``)."""

import os
import random
from pathlib import Path

import pytest

from tests.fault.config_storm import Storm, run_storm

LONG = os.environ.get("JLOGD_LONG") == "1"
SEED = int(os.environ.get("JLOGD_SEED", random.randrange(1 << 31)))


@pytest.mark.fault
@pytest.mark.timeout(3600 if LONG else 110)
def test_everybody_agrees_after_the_storm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Confirmed revisions stay, the line is one, nodes converge, and no reader sees two revisions mixed."""
    storm = (
        Storm(SEED, 600.0, nodes=4, committers=4, settle_s=180.0)
        if LONG
        else Storm(SEED, 12.0, nodes=2, committers=2, pause_s=1.0)
    )
    report = run_storm(storm, tmp_path / "storm")
    with capsys.disabled():
        print(f"\n{report}")
