"""What tests do to journals that no program should."""

from jlogd.journal import Journal


def abandon(journal: Journal) -> None:
    """What a kill -9 does to a journal's files: the kernel closes them, nothing more is written."""
    if journal._live is not None:
        journal._live.close()
    journal._store.close()
    journal._mark.close()
    journal._lock.release()
