"""The README's fifteen minutes as a new user types them: every ``bash`` block, in order, in one shell."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fleet import REPOSITORY, free_port

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STOP = "trap 'kill $(cat *.pid) 2>/dev/null; wait' EXIT\nset -e -o pipefail\n"  # only what the script itself started


def commands(directory: Path) -> Path:
    """A folder with ``jlogd``, ``managerd`` and ``eccfg`` of this checkout."""
    directory.mkdir()
    for name, module in (("jlogd", "jlogd.cli"), ("managerd", "managerd.cli"), ("eccfg", "managerd.eccfg.cli")):
        script = directory / name
        script.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m {module} "$@"\n')
        script.chmod(0o755)
    return directory


@pytest.mark.timeout(120)
def test_the_readme_is_true(tmp_path: Path) -> None:
    """Own authority, own settings, own file; a manager is killed and catches up; both archives equal the file.

    Then a revision arrives, a bad one is refused, one that does harm is taken back.
    """
    blocks = BLOCK.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 5
    one, two = free_port(), free_port()
    script = STOP + "\n".join(blocks).replace("74${n}0", f"$((n == 1 ? {one} : {two}))")
    script = script.replace("127.0.0.1:7410", f"127.0.0.1:{one}").replace("127.0.0.1:7420", f"127.0.0.1:{two}")
    (tmp_path / "try").mkdir()
    environment = {"PATH": f"{commands(tmp_path / 'bin')}:/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path / "try",
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "m2 has the same bytes" in done.stdout
    assert "m1 has every byte, once, in order" in done.stdout
    assert "300 records, 0 gaps: all sound" in done.stdout
    assert re.search(r"^limits\.connections +7 +default/web1 +r2$", done.stdout, re.MULTILINE)
    assert "app.conf:connections = 7" in done.stdout
    assert "exit 6: refused" in done.stdout
    assert "example.toml:2: limits.connections: 'many' is not of type 'integer'" in done.stderr
    assert "exit 6: web1 went back by itself" in done.stdout
    assert "It is needed" in done.stdout
