"""Folders that this package fills: which files in them are ours, who is writing, and replacing them as a whole.

A manifest in the folder (`.circuitkit.json`) names the files that this package wrote. No other file is touched, and a
folder with any other file is refused. A lock, which the system takes away from a process that dies, keeps others out
while one process writes.

Files are replaced as a whole: they are written into a temporary folder inside, which is then renamed to `.results`.
From then on they count as written, and are moved to their place; if the process is killed meanwhile, the next one that
opens the folder moves the rest.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock, Timeout

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.interrupts import hold_signals
from circuitkit.storage.files import read_json, to_path, write_atomically
from circuitkit.storage.text import to_json

MANIFEST, LOCK = ".circuitkit.json", ".circuitkit.lock"
WRITING, COMMITTED = ".writing", ".results"
VERSION = 1
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")  # as `write_atomically` names them


class BusyError(UsageError):
    """Another process is writing to a folder."""


class OwnedFolder:
    """A folder of one kind, such as a run's.

    Args:
        path: the folder.
        kind: what the folder holds; a folder of another kind is refused.
        always: names of files and folders that are ours in every such folder, whether its manifest has them or not.
        inside: for folders of ours that are removed as a whole, patterns of the paths of our files in them.

    Raises:
        UsageError: it is not a folder, is of another kind, or holds a file that is not ours.
        CircuitKitError: it cannot be read.
    """

    def __init__(
        self, path: str | Path, kind: str, always: Collection[str], inside: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self.path, self.kind = to_path(path), kind
        self._inside = inside or {}
        self._always = {*always, MANIFEST, LOCK, WRITING, COMMITTED}
        self.check()

    def check(self) -> None:
        """Refuse the folder as the constructor does."""
        if os.path.exists(self.path) and not os.path.isdir(self.path):  # noqa: PTH110, PTH112  no error for long names
            raise UsageError(f"{str(self.path)!r} is not a folder.", "Give another one.")
        names, ours = self._found(), self.names()
        foreign = [name for name in names if not _is_ours(name, ours)] or self._foreign_inside()
        if foreign:
            raise UsageError(
                f"The folder {str(self.path)!r} holds {foreign[0]!r}, which no {self.kind} of this version wrote.",
                "Give an empty or a new folder.",
            )

    def _foreign_inside(self) -> list[str]:
        """List the files in folders of ours that are not ours."""
        found = []
        for name, patterns in self._inside.items():
            folder = self.path / name
            files = (file for file in sorted(folder.rglob("*")) if file.is_symlink() or not file.is_dir())
            for file in files:
                path = file.relative_to(folder)
                temporary = _TEMPORARY.fullmatch(path.name)
                known = path.with_name(temporary[1]) if temporary else path
                if not any(fnmatchcase(known.as_posix(), pattern) for pattern in patterns):
                    found.append(f"{name}/{path.as_posix()}")
        return found

    def names(self) -> set[str]:
        """Return the names of all files and folders that are ours, whether they exist or not."""
        if not (self.path / MANIFEST).exists() and not (self.path / COMMITTED / MANIFEST).exists():
            return {MANIFEST, LOCK}
        listed = [self._listed(folder) for folder in (self.path, self.path / COMMITTED)]
        return self._always.union(*listed)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Create the folder, and keep other processes out; finish what a killed process has left.

        At the end the folder is removed if this created it and nothing is in it.

        Raises:
            BusyError: another process is writing to it.
            UsageError: a file that is not ours has appeared in it.
            CircuitKitError: it cannot be written.
        """
        with ExitStack() as stack:
            with hold_signals():
                try:
                    self._enter(stack)
                except (OSError, ValueError) as error:  # ValueError: a null character in the name
                    raise cannot_write(self.path, error) from error
            try:
                yield
            finally:
                with hold_signals():
                    stack.close()

    def _enter(self, stack: ExitStack) -> None:
        created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        stack.callback(_remove_empty, created)
        self.path.mkdir(parents=True, exist_ok=True)
        lock = _acquire(self.path)
        stack.callback(self._release, lock)
        self.check()
        self.finish()
        for name in self._found():
            if name == WRITING:
                shutil.rmtree(self.path / name)
            elif _TEMPORARY.fullmatch(name):
                (self.path / name).unlink()
        files = sorted(self._listed(self.path))
        write_atomically(self.path / MANIFEST, self._manifest(files))  # also shows that the folder can be written

    def _release(self, lock: FileLock) -> None:
        with suppress(OSError, CircuitKitError):  # the folder was removed meanwhile, or replaced by a file
            if set(self._found()) <= {MANIFEST, LOCK}:
                (self.path / MANIFEST).unlink()
        with suppress(OSError):
            (self.path / LOCK).unlink()
        lock.release()

    def replace(
        self,
        write: Callable[[Path], None],
        last: str,
        obsolete: Collection[str] = (),
        scratch: Collection[str] = (),
    ) -> None:
        """Replace all files of ours by new ones, inside `hold`; a killed process leaves the old ones or the new.

        Args:
            write: writes the files into the folder that it receives.
            last: the file whose presence says that the others are complete.
            obsolete: names of further files of ours to remove if they are not written again.
            scratch: names of folders of ours to remove at the end.

        Raises:
            CircuitKitError: the folder cannot be written.
        """
        try:
            with hold_signals():
                self._commit(write, last=last, obsolete=sorted(obsolete), scratch=sorted(scratch))
                self.finish()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        finally:
            shutil.rmtree(self.path / WRITING, ignore_errors=True)

    def _commit(self, write: Callable[[Path], None], **plan: str | list[str]) -> None:
        writing = self.path / WRITING
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir()
        write(writing)
        files = sorted(file.name for file in writing.iterdir())
        ours = self.names()
        for name in files:
            if name not in ours and (self.path / name).exists():
                raise CircuitKitError(
                    f"{str(self.path / name)!r} was written by someone else meanwhile.", "Move it away."
                )
        write_atomically(writing / MANIFEST, self._manifest(files, **plan))
        _sync(writing)
        writing.rename(self.path / COMMITTED)
        _sync(self.path)

    def finish(self) -> bool:
        """Move committed files to their place, inside `hold`; False if there are none."""
        committed = self.path / COMMITTED
        if not (committed / MANIFEST).exists():  # all but the removal of the folder is done
            shutil.rmtree(committed, ignore_errors=True)
            return False
        new = read_json(committed / MANIFEST)
        files, last = set(self._listed(committed)), str(new["last"])
        if (committed / last).exists():
            (self.path / last).unlink(missing_ok=True)
            for name in self._listed(self.path).union(new["obsolete"]) - files:
                (self.path / name).unlink(missing_ok=True)
        for name in sorted(files, key=lambda name: name == last):
            if (committed / name).exists():
                (committed / name).replace(self.path / name)
        for name in new["scratch"]:
            shutil.rmtree(self.path / name, ignore_errors=True)
        _sync(self.path)
        write_atomically(self.path / MANIFEST, self._manifest(sorted(files)))
        (committed / MANIFEST).unlink()
        shutil.rmtree(committed, ignore_errors=True)
        return True

    def _found(self) -> list[str]:
        try:
            return sorted(file.name for file in self.path.iterdir())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise cannot_write(self.path, error) from error

    def _listed(self, folder: Path) -> set[str]:
        """Read the names of files in a manifest."""
        if not (folder / MANIFEST).exists():
            return set()
        found = read_json(folder / MANIFEST)
        files = found.get("files")
        plain = isinstance(files, list) and all(isinstance(name, str) and Path(name).name == name for name in files)
        if found.get("version") != VERSION or not plain:
            raise CircuitKitError(f"{folder / MANIFEST} is damaged, or of another version.", "Give another folder.")
        if found.get("kind") != self.kind:
            raise UsageError(
                f"The folder {str(self.path)!r} holds a {found.get('kind')}, not a {self.kind}.", "Give another folder."
            )
        return set(files or ())

    def _manifest(self, files: list[str], **more: object) -> bytes:
        return to_json({"version": VERSION, "kind": self.kind, "files": files, **more})


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Keep other processes out of a folder, whatever else is in it.

    Raises:
        BusyError: another process is writing to it.
        CircuitKitError: it cannot be written.
    """
    try:
        lock = _acquire(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        with hold_signals():
            with suppress(OSError):
                (path / LOCK).unlink()
            lock.release()


def _acquire(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(
            f"Another process is writing to the folder {str(folder)!r}.", "Wait for it, or give another folder."
        ) from error
    return lock


def cannot_write(path: Path, error: Exception) -> CircuitKitError:
    """Make the error for a folder that cannot be written."""
    why = getattr(error, "strerror", None) or error
    return CircuitKitError(f"{str(path)!r} cannot be written: {why}.", "Choose another place, or free disk space.")


def _is_ours(name: str, ours: Collection[str]) -> bool:
    temporary = _TEMPORARY.fullmatch(name)
    return name in ours or (temporary is not None and temporary[1] in ours)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # not empty
        for folder in folders:
            folder.rmdir()


def _sync(folder: Path) -> None:
    """Make renames in a folder survive a loss of power, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
