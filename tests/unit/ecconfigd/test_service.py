"""The configuration service's reading calls, over gRPC, on a real store: history and files."""

from pathlib import Path
from typing import Any

import pytest

from jlogd.confrepo.model import EXECUTABLE, REGULAR, SYMLINK, File
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import JlogdError, RefusedError
from managerd.v1 import config_pb2 as pb
from tests.support.config_service import error_of, serving, tree
from tests.support.serving import run

# ---------------------------------------------------------------------- history


def test_the_log_has_every_revision_newest_first_with_its_paths(tmp_path: Path) -> None:
    """As git would show it."""

    async def ask() -> pb.LogResponse:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/a": "1", "web/web1/b": "1"}, "First")
            await m1.commit({"global/a": "2"}, "Second\n\nMore", author="operator:bob", time_s=1_700_000_500)
            await m1.commit({"web/web1/b": None}, "Third")
            return await m1.stub.Log(pb.LogRequest())  # type: ignore[no-any-return]

    answer = run(ask())
    assert [(r.revision, r.message, list(r.paths)) for r in answer.revisions] == [
        (3, "Third", ["web/web1/b"]),
        (2, "Second\n\nMore", ["global/a"]),
        (1, "First", ["global/a", "web/web1/b"]),
    ]
    second = answer.revisions[1]
    assert (second.author, second.time_s, second.confirmed) == ("operator:bob", 1_700_000_500, True)
    assert not answer.more


def test_the_log_of_a_path_has_what_changed_it_page_by_page(tmp_path: Path) -> None:
    """Files and directories; `until` goes on where a page ended."""

    async def ask() -> list[list[int]]:
        async with serving(tmp_path) as m1:
            for i in range(6):
                await m1.commit({f"web/web{i % 2}/a": str(i)})

            async def page(**request: Any) -> pb.LogResponse:
                return await m1.stub.Log(pb.LogRequest(**request))  # type: ignore[no-any-return]

            first = await page(path="web/web1", limit=2)
            assert first.more
            second = await page(path="web/web1", limit=2, until=f"r{first.revisions[-1].revision - 1}")
            assert not second.more
            whole, file = await page(path="web"), await page(path="web/web0/a")
            return [[r.revision for r in answer.revisions] for answer in (first, second, whole, file)]

    assert run(ask()) == [[6, 4], [2], [6, 5, 4, 3, 2, 1], [5, 3, 1]]


def test_a_log_that_would_not_fit_a_message_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says that there is more."""
    monkeypatch.setattr("managerd.ecconfigd.history.ANSWER_BYTES", 1000)

    async def ask() -> pb.LogResponse:
        async with serving(tmp_path) as m1:
            for i in range(5):
                await m1.commit({"global/a": str(i)}, "x" * 400)
            return await m1.stub.Log(pb.LogRequest())  # type: ignore[no-any-return]

    answer = run(ask())
    assert (len(answer.revisions), answer.more) == (2, True)


def test_an_empty_repository_has_an_empty_log_and_refuses_the_rest(tmp_path: Path) -> None:
    """Not an internal error."""

    async def ask() -> tuple[pb.LogResponse, list[JlogdError]]:
        async with serving(tmp_path) as m1:
            calls = [
                m1.stub.Cat(pb.CatRequest(path="global/a")),
                m1.stub.Tree(pb.TreeRequest()),
                m1.stub.Effective(pb.EffectiveRequest(node="web1")),
                m1.stub.Explain(pb.ExplainRequest(path="a", node="web1")),
                m1.stub.Blame(pb.BlameRequest(path="global/a")),
                m1.stub.Export(pb.ExportRequest()),
                m1.stub.Cat(pb.CatRequest(path="global/a", revision="r7")),
            ]
            return await m1.stub.Log(pb.LogRequest()), [await error_of(call) for call in calls]

    log, errors = run(ask())
    assert not log.revisions
    assert {type(error) for error in errors} == {RefusedError}, errors


def test_what_a_revision_changed_is_found_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second log costs nothing; what is remembered is bounded by the number of paths."""
    compared: list[int] = []
    real = Repository.diff

    def counted(*arguments: Any) -> Any:
        compared.append(1)
        return real(*arguments)

    monkeypatch.setattr(Repository, "diff", counted)

    async def ask() -> list[int]:
        async with serving(tmp_path) as m1:
            for i in range(20):
                await m1.commit({"global/a": str(i), "global/b": str(i)})

            async def log() -> int:
                compared.clear()
                answer = await m1.stub.Log(pb.LogRequest())
                assert {len(revision.paths) for revision in answer.revisions} == {2}
                return len(compared)

            counts = [await log(), await log()]
            monkeypatch.setattr("managerd.ecconfigd.history.PATHS_KEPT", 10)
            await m1.commit({"global/a": "new", "global/b": "new"})
            return [*counts, await log()]

    first, again, bounded = run(ask())
    assert (first, again) == (20, 0)
    assert bounded > 10  # at most three are still known


# ---------------------------------------------------------------------- files


def test_a_tree_has_every_file_with_its_mode_and_exact_bytes(tmp_path: Path) -> None:
    """Large ones in pieces, empty ones without any."""
    large = bytes(range(256)) * 10_000

    async def ask() -> tuple[pb.Revision, dict[str, tuple[int, bytes]]]:
        async with serving(tmp_path) as m1:
            await m1.commit(
                {
                    "global/a": large,
                    "global/empty": "",
                    "global/run": File(b"#!/bin/sh\n", EXECUTABLE),
                    "global/link": File(b"a", SYMLINK),
                }
            )
            return await tree(m1.stub)

    revision, files = run(ask())
    assert revision.revision == 1
    assert files == {
        "global/a": (REGULAR, large),
        "global/empty": (REGULAR, b""),
        "global/link": (SYMLINK, b"a"),
        "global/run": (EXECUTABLE, b"#!/bin/sh\n"),
    }


def test_a_tree_since_a_revision_has_only_what_differs(tmp_path: Path) -> None:
    """Deleted files with mode zero; a path limits it; names come without contents."""

    async def ask() -> list[dict[str, tuple[int, bytes]]]:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/a": "1", "global/b": "1", "web/web1/c": "1"})
            await m1.commit({"global/a": "2", "global/b": None, "web/web1/c": "2"})
            requests: list[dict[str, Any]] = [
                {"since": "r1"}, {"since": "r1", "path": "web"}, {"names_only": True}, {"since": "HEAD"},
                {"revision": "r1", "since": "r2", "path": "global/b"},
            ]  # fmt: skip
            return [(await tree(m1.stub, **request))[1] for request in requests]

    assert run(ask()) == [
        {"global/a": (REGULAR, b"2"), "global/b": (0, b""), "web/web1/c": (REGULAR, b"2")},
        {"web/web1/c": (REGULAR, b"2")},
        {"global/a": (REGULAR, b""), "web/web1/c": (REGULAR, b"")},
        {},
        {"global/b": (REGULAR, b"1")},
    ]


def test_many_files_come_in_several_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None twice, none missing."""
    monkeypatch.setattr("managerd.ecconfigd.reading.BATCH_FILES", 7)

    async def ask() -> dict[str, tuple[int, bytes]]:
        async with serving(tmp_path) as m1:
            await m1.commit({f"global/f{i}": str(i) for i in range(50)})
            return (await tree(m1.stub))[1]

    assert run(ask()) == {f"global/f{i}": (REGULAR, str(i).encode()) for i in range(50)}


def test_cat_gives_a_file_as_at_a_revision(tmp_path: Path) -> None:
    """By number, HEAD~N, or the beginning of an id."""

    async def ask() -> list[bytes]:
        async with serving(tmp_path) as m1:
            first = await m1.commit({"global/a": "1"})
            await m1.commit({"global/a": "2"})
            found = [
                (await m1.stub.Cat(pb.CatRequest(path="global/a", revision=rev))).content
                for rev in ("", "r1", "HEAD~1", first.id[:10])
            ]
            for path, said in (("global/b", "not there"), ("global", "a directory")):
                error = await error_of(m1.stub.Cat(pb.CatRequest(path=path)))
                assert isinstance(error, RefusedError)
                assert said in str(error)
            return found

    assert run(ask()) == [b"2", b"1", b"1", b"1"]


def test_blame_tells_each_line_s_revision(tmp_path: Path) -> None:
    """With author and time."""

    async def ask() -> list[tuple[int, str, bytes]]:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/a": "one\ntwo\n"})
            await m1.commit({"global/a": "one\n2\n"}, author="operator:bob")
            answer = await m1.stub.Blame(pb.BlameRequest(path="global/a"))
            return [(line.revision, line.author, line.text) for line in answer.lines]

    assert run(ask()) == [(1, "operator:alice", b"one\n"), (2, "operator:bob", b"2\n")]
