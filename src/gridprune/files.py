"""Files that are written: whole or not at all, by one process at a time, and refused before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from .errors import BusyError, GridPruneError, OutputError

IMAGES = (".png", ".jpg", ".jpeg", ".webp")  # endings of images that are written
FIGURES = (".png", ".jpg", ".jpeg", ".svg", ".pdf")


def check_output(path: Path | None, endings: Sequence[str] = ()) -> None:
    """Whether a file can be written to `path`; None is no file. Nothing is made or left behind.

    Args:
        endings: those that are known, in lower case with their dot; any if empty.

    Raises:
        OutputError: a folder, a device, another ending, or a place where nothing can be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file in it.")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no ordinary file.")
    if endings and path.suffix.lower() not in endings:
        known = " or ".join([", ".join(endings[:-1]), endings[-1]] if endings[1:] else endings)
        raise OutputError(f"{path.name} must end in {known}.")
    check_folder(path.resolve().parent)


def check_folder(folder: Path) -> None:
    """Whether files can be written to a folder, or it can be made. Nothing is made or left behind.

    Raises:
        OutputError: they cannot.
    """
    with _named(folder):
        there = folder.resolve()
        while not there.exists():
            there = there.parent
        with TemporaryFile(dir=there):
            pass


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when the block ends, and goes if the block fails.

    Raises:
        OutputError: it cannot be written: no permission, a full disk.
    """
    target = Path(path).resolve()  # a link stays a link
    partial = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    with _named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Nobody else writes to a folder, or to a file and its companions, while the block runs: a lock lies beside it.

    Raises:
        BusyError: somebody does.
        OutputError: no lock can be put there.
    """
    from filelock import FileLock, Timeout

    file = path.resolve()
    lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=0)
    try:
        with _named(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        raise BusyError(
            f"Another process is writing to {path}. Wait until it has ended, or write somewhere else with --output."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the system refuses, in one line with the path."""
    try:
        yield
    except (GridPruneError, TimeoutError):
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
