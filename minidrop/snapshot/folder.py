"""The snapshots in a run's folder."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from minidrop.errors import SnapshotError
from minidrop.files import sweep
from minidrop.snapshot.reader import read_header
from minidrop.snapshot.seal import Seal, open_regular, read_seal


def list_snapshots(folder: str | os.PathLike, skipped: list[str] | None = None) -> list[Path]:
    """Return the paths of the snapshots (*.h5) in `folder`, latest iteration first; [] if it does not exist.

    Only seals and lengths are checked. A message for every broken *.h5 file is added to the list `skipped`.
    """
    return [path for _, path in sealed(_files(folder, ".h5"), skipped)]


def under_prefix(prefix: str | os.PathLike, skipped: list[str] | None = None) -> list[tuple[Seal, Path]]:
    """Return (seal, path) of the snapshots PREFIX_iter_N.h5 and PREFIX_best.h5, latest iteration first.

    Otherwise as `list_snapshots`. Longer names that begin with the prefix belong to another prefix.
    """
    folder, name = os.path.split(prefix)
    own = re.compile(re.escape(name) + r"_(iter_\d+|best)\.h5")
    return sealed([path for path in _files(folder or ".", ".h5") if own.fullmatch(path.name)], skipped)


def sealed(paths: Iterable[Path], skipped: list[str] | None = None) -> list[tuple[Seal, Path]]:
    """Return (seal, path) of the files that are snapshots, sorted by iteration, latest first."""
    found = []
    for path in paths:
        try:
            with open_regular(path) as file:
                found.append((read_seal(file, path), path))
        except (SnapshotError, OSError) as error:
            if skipped is not None:
                skipped.append(str(error))
    return sorted(found, key=lambda one: (one[0].iteration, one[1]), reverse=True)


def newest_valid(folder: str | os.PathLike, skipped: list[str] | None = None) -> Path | None:
    """Return the path of the intact snapshot of the latest iteration in `folder`, or None.

    A message for every broken file on the way is added to the list `skipped`.
    """
    for path in list_snapshots(folder, skipped):
        try:
            read_header(path)
            return path
        except SnapshotError as error:
            if skipped is not None:
                skipped.append(str(error))
    return None


def prune(folder: str | os.PathLike, keep: int, protect: Iterable[str | os.PathLike] = (),
          prefix: str = "", own: Callable[[Seal], bool] = lambda seal: True) -> list[Path]:
    """Delete all but the `keep` latest snapshots in `folder` whose names begin with `prefix`.

    Those that are not `own(seal)` neither count nor are deleted. Also deletes leftovers of writers that were
    killed. keep = 0 keeps all. Paths in `protect` (the best, the one resumed from) are never deleted;
    nor are broken files, files that are no snapshots, and symbolic links. Returns the deleted paths. Raises
    SnapshotError.
    """
    protected = {os.path.realpath(path) for path in protect}
    wanted = [path for path in _files(folder, ".h5") if path.name.startswith(prefix)] if keep else []
    numbered = [path for seal, path in sealed(wanted) if own(seal)]
    doomed = [path for path in numbered[keep:]
              if not path.is_symlink() and os.path.realpath(path) not in protected]
    try:
        for path in doomed:
            path.unlink(missing_ok=True)
        doomed += sweep(folder)
    except OSError as error:
        raise SnapshotError(f"{folder}: old snapshots could not be deleted: {error.strerror}") from error
    return doomed


def _files(folder, suffix):
    try:
        return [path for path in Path(folder).iterdir() if path.name.endswith(suffix) and path.is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SnapshotError(f"{folder}: the folder cannot be listed: {error.strerror or error}") from error
