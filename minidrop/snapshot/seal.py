"""The file of a snapshot: its seal and its checksum."""

import hashlib
import math
import os
import stat
from dataclasses import dataclass, replace
from io import FileIO

from minidrop.errors import SnapshotError
from minidrop.snapshot.content import is_run_name

FORMATS = ("1", "2")        # 2 adds the run that wrote the snapshot, and its loss
SEAL_SIZE = 512
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Seal:
    """The first lines of a snapshot; the digest covers the lines above it and everything after the seal.

    run: "" if the snapshot names none, as in format 1. loss: NaN if it was not known.
    """

    iteration: int
    size: int
    digest: str = ""
    run: str = ""
    loss: float = math.nan

    @property
    def claims(self) -> bytes:
        """The lines above the digest."""
        run = f"run {self.run}\nloss {self.loss!r}\n" if self.run else ""
        return (f"minidrop snapshot {2 if self.run else 1}\niteration {self.iteration}\nbytes {self.size}\n"
                f"{run}").encode()

    def __bytes__(self):
        return (self.claims + f"sha256 {self.digest}\n".encode()).ljust(SEAL_SIZE, b"\0")


def open_regular(path: str | os.PathLike, what: str = "snapshot") -> FileIO:
    """Open the file `path` for reading; raises SnapshotError for a missing file, a folder or a device.

    what: what messages call the file that is expected.
    """
    path = os.fspath(path)          # a number would be a file that is open already
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would block
            got = "a folder; name a file in it" if stat.S_ISDIR(mode) else (
                "a pipe or a device; save its content as a file first")
            raise SnapshotError(f"{path}: expected a {what}, got {got}")
        return open(path, "rb", buffering=0)
    except FileNotFoundError:
        raise SnapshotError(f"{path}: there is no such {what}; check the name and the folder") from None
    except ValueError as error:  # a NUL in the name
        raise SnapshotError(f"{path!r}: this cannot be the name of a {what} ({error})") from None


def write_seal(file: FileIO, iteration: int, run: str = "", loss: float = math.nan) -> None:
    """Write the seal of a file whose other bytes are complete."""
    seal = Seal(iteration, os.fstat(file.fileno()).st_size, "", run, loss)
    seal = replace(seal, digest=digest_of(file, seal))
    file.seek(0)
    file.write(bytes(seal))


def read_seal(file: FileIO, path: str | os.PathLike) -> Seal:
    """Return the Seal of an open file after checking version and length, but not the digest."""
    raw = file.read(SEAL_SIZE)
    words = [line.split(b" ") for line in raw.split(b"\n")]
    if words[0][:2] != [b"minidrop", b"snapshot"] or len(words[0]) != 3:
        raise SnapshotError(f"{path}: this is no minidrop snapshot")
    version = words[0][2].decode(errors="replace")
    if version not in FORMATS:
        raise SnapshotError(f"{path}: expected snapshot format {' or '.join(FORMATS)}, got {version[:20]!r}; "
                            "use the version of minidrop that wrote it")
    try:
        (_, iteration), (_, size), *of_run, (_, digest) = words[1:4 if version == "1" else 6]
        run, loss = (of_run[0][1].decode(), float(of_run[1][1])) if of_run else ("", math.nan)
        seal = Seal(int(iteration), int(size), digest.decode(), run, loss)
    except (ValueError, IndexError):
        seal = None
    # The digest covers neither its own line nor the padding.
    if seal is None or bytes(seal) != raw or not is_run_name(seal.run or "0" * 16):
        raise SnapshotError(f"{path}: the snapshot is damaged (its first lines); use an older one")
    actual = os.fstat(file.fileno()).st_size
    if actual != seal.size:
        raise SnapshotError(f"{path}: the snapshot is truncated or overlong: expected {seal.size} bytes, "
                            f"got {actual}; use an older one")
    return seal


def digest_of(file: FileIO, seal: Seal) -> str:
    """Return the SHA-256, in hexadecimal digits, of the seal's claims and everything after the seal."""
    digest = hashlib.sha256(seal.claims)
    file.seek(SEAL_SIZE)
    block = bytearray(_BLOCK)
    while count := file.readinto(block):
        digest.update(memoryview(block)[:count])
    return digest.hexdigest()
