"""PrefixLock: lets only one process write snapshots with a prefix."""

import logging
import os
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from minidrop.errors import ConfigError, visible_name

fcntl = import_module("fcntl") if find_spec("fcntl") else None      # Windows has none

log = logging.getLogger(__name__)


class PrefixLock:
    """The locked file .NAME.lock, held while a process trains with a prefix; it names the holder."""

    def __init__(self, where: str, prefix: str, holder: str):
        self.where, self.prefix, self.holder = where, Path(prefix), os.path.abspath(holder)
        self.path = self.prefix.with_name(f".{self.prefix.name}.lock")
        self._file: int | None = None

    def take(self) -> None:
        """Lock the prefix, if its folder exists; raises ConfigError if another run holds it."""
        while fcntl and self._file is None:
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            except OSError as error:
                log.debug("%s: not locked: %s", self.path, error)
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._file = file if self._is_ours(file) else None      # else its holder has just deleted it
            except BlockingIOError:
                holder = visible_name(os.pread(file, 1000, 0).decode(errors="replace")) or "another folder"
                raise ConfigError(f"{self.where}: {self.prefix} is in use by the run in {holder}, which is "
                                  f"alive: stop it first, or set another snapshot_prefix") from None
            except OSError as error:        # a file system without locks
                log.debug("%s: not locked: %s", self.path, error)
                return
            finally:
                if self._file is None:
                    os.close(file)
        if self._file is not None:
            with suppress(OSError):         # a full disk: then it does not name the holder
                os.truncate(self._file, 0)
                os.pwrite(self._file, os.fsencode(self.holder), 0)

    def _is_ours(self, file):
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Delete the file while it is locked, then unlock it."""
        if self._file is not None:
            with suppress(OSError):
                self.path.unlink()
            os.close(self._file)
            self._file = None
