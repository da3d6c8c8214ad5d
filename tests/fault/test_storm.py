"""Kill storms and power cuts over the real daemons; the long form with JLOGD_LONG=1 (``make fault``)."""

import os
import random
from pathlib import Path

import pytest

from tests.fault.storm import Storm, run_storm

LONG = os.environ.get("JLOGD_LONG") == "1"
SEED = int(os.environ.get("JLOGD_SEED", random.randrange(1 << 31)))


@pytest.mark.fault
@pytest.mark.timeout(3600 if LONG else 110)
def test_kill_storm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Node and both managers killed -9 again and again: both archives equal what was written, byte for byte."""
    storm = Storm(SEED, 2_000_000, 22, settle_s=300.0) if LONG else Storm(SEED, 80_000, 4)
    outcome = run_storm(storm, tmp_path / "storm")
    with capsys.disabled():
        print(f"\n{outcome}")


@pytest.mark.fault
@pytest.mark.timeout(3600 if LONG else 110)
def test_power_cuts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Un-synced bytes of journal, archive and source go: what the source still has stands exactly once."""
    storm = Storm(SEED, 2_000_000, 22, power=True, settle_s=300.0) if LONG else Storm(SEED, 60_000, 4, power=True)
    outcome = run_storm(storm, tmp_path / "storm")
    with capsys.disabled():
        print(f"\n{outcome}")


@pytest.mark.fault
@pytest.mark.skipif(not LONG, reason="long form only (make fault)")
@pytest.mark.timeout(3600)
def test_kill_storm_with_xz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same with siblings in xz."""
    outcome = run_storm(Storm(SEED, 400_000, 20, files=("mail", "old", "app"), settle_s=300.0), tmp_path / "storm")
    with capsys.disabled():
        print(f"\n{outcome}")
