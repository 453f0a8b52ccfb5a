"""What Numba makes of minidrop/kernels is kept between runs, too: a fresh checkout has none of it.

Numba looks for its files beside the sources, and `cpu.jit` has it tell by a hash of all of them whether they
are still right. So an archive is that of one state of all sources; only a checkout without any loops is
filled from it, and only what was made there is kept.
"""

import hashlib
import os
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "minidrop" / "kernels"


def archive(folder, sources=SOURCES):
    """Return the path in `folder` of the archive for what is in the sources now."""
    parts = [sys.version, *map(version, ("numba", "llvmlite", "numpy")),
             *(path.read_text(encoding="utf-8") for path in sorted(sources.glob("*.py")))]
    return folder / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:40]}.loops"


def restore(kept, place):
    """Fill a folder without loops from an archive, if there is one; return whether what comes to be there is
    to be kept."""
    if made(place) or not os.access(place.parent, os.W_OK):
        return False
    if kept.is_file():
        with zipfile.ZipFile(kept) as packed:
            packed.extractall(place)
        os.utime(kept)
    return True


def keep(kept, place):
    """Make an archive of the loops in a folder, unless the one that there is has as many."""
    names = made(place)
    if kept.is_file():
        with zipfile.ZipFile(kept) as packed:
            names = names if len(names) > len(packed.namelist()) else []
    if names:
        unfinished = kept.with_name(f"{kept.stem}-{os.getpid()}.part")
        with zipfile.ZipFile(unfinished, "w") as packed:
            for name in names:
                packed.write(place / name, name)
        os.replace(unfinished, kept)        # what others find is whole


def made(place):
    """Return the names of Numba's files in a folder: indices first, whose variants are then there as well."""
    return [path.name for kind in ("*.nbi", "*.nbc") for path in sorted(place.glob(kind))]
