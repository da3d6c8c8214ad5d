"""Which paths and which files a repository may hold. Decisions about names and sizes only; nothing is read or written.

Invariant: what passes here can be laid out below one directory of any Linux file system without leaving it, and a plain
``git clone`` of it works on systems that fold case or Unicode forms. Two layers of a view that contradict each other
(a file in one, a directory in the other) are for ``layering``.
"""

from collections.abc import Callable, Iterable, Mapping

from jlogd.confrepo import model as m

Siblings = Callable[[str], Mapping[str, bool]]  # directory ("" = top level) → name → whether it is a directory


def check_path(path: str) -> str | None:
    """What is wrong with ``path``, which is relative to the repository; None when nothing is."""
    raise NotImplementedError


def check_target(path: str, target: bytes) -> str | None:
    """What is wrong with a symlink at ``path`` to ``target``: it must stay inside its layer. None when nothing is."""
    raise NotImplementedError


def layer_of(path: str) -> str | None:
    """The directory of the layer: ``global``, ``web/default``, ``web/web1``, ``schemas``, ``running/web1``; None when in none."""
    raise NotImplementedError


def in_view(path: str) -> str:
    """``path`` without its layer's directory; as it is when it is in none."""
    raise NotImplementedError


def tree_faults(changed: Mapping[str, m.File | None], siblings: Siblings) -> list[m.Fault]:
    """Each rule that a changed path breaks, sorted by path. ``siblings`` tells what a directory holds after the change."""
    raise NotImplementedError


def totals_fault(sizes: Iterable[int]) -> str | None:
    """What is wrong with the number of files and their ``sizes`` in bytes, of a whole tree after the change."""
    raise NotImplementedError
