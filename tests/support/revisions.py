"""Revisions made in a line or two, and git as the judge of what is on the disk."""

import os
import subprocess
from pathlib import Path

from jlogd.confrepo.model import Changes, Commit, CommitId, File
from jlogd.confrepo.repository import MAIN, Repository

NOON = 1_764_072_000  # any time


def files(**contents: str) -> dict[str, File | None]:
    """Path → text, with ``__`` for "/" and ``_toml`` for ".toml"."""
    return {name.replace("__", "/").replace("_toml", ".toml"): File(text.encode()) for name, text in contents.items()}


def put(path: str, text: str) -> dict[str, File | None]:
    """One changed file."""
    return {path: File(text.encode())}


def store(
    repo: Repository,
    changes: Changes,
    message: str = "change",
    *,
    parent: Commit | None,
    author: str = "operator:alice",
) -> CommitId:
    """A stored commit after ``parent``; no ref points to it."""
    draft = repo.draft(parent, changes, author=author, message=message, time_s=NOON)
    commit_id, commit = repo.seal(draft.content)
    repo.store.add([*draft.objects, commit])
    return commit_id


def commit(repo: Repository, changes: Changes, message: str = "change", *, ref: str = MAIN) -> Commit:
    """A new revision at the end of ``ref``."""
    before = repo.ref(ref)
    commit_id = store(repo, changes, message, parent=repo.commit(before) if before else None)
    repo.advance({ref: (before, commit_id)})
    return repo.commit(commit_id)


def git(path: Path, *arguments: str, stdin: bytes = b"") -> str:
    """What ``git ARGUMENTS`` says in ``path``; it must succeed, and leave no word of complaint."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Bob",
        "GIT_AUTHOR_EMAIL": "bob@example.org",
        "GIT_COMMITTER_NAME": "Bob",
        "GIT_COMMITTER_EMAIL": "bob@example.org",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    done = subprocess.run(
        ["git", *arguments], cwd=path, env=env, input=stdin, capture_output=True, check=False, timeout=60
    )
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"git {' '.join(arguments)}: {said}{done.stdout.decode(errors='replace')}"
    return done.stdout.decode(errors="replace")


def fsck(path: Path) -> None:
    """Git finds nothing wrong: no missing, broken or badly formed object, no bad ref. Unreachable ones are fine."""
    said = git(path, "fsck", "--full", "--strict", "--no-dangling", "--no-progress")
    assert said == "", said
