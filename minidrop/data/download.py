"""Downloading a file of known md5 over HTTP: several mirrors, resuming, a progress bar."""

import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from minidrop.errors import DataError
from minidrop.files import open_to_append, write_all

PIECE = 1 << 18
SIZE_LIMIT = 256 << 20      # a server that never stops must not fill the disk
ATTEMPTS = 4                # at one mirror, each resuming where the last one broke off
TIMEOUT = 30                # seconds without a byte
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PAUSE = 0.2                 # seconds before the second attempt, doubled each time


def download(file_name: str, md5: str, mirrors: Any, folder: Any) -> Any:
    """Download a file of known md5 to `folder`, from the first mirror that delivers it; return its path.

    Bytes are written to `folder`/FILE.part, which survives a failure; the file is renamed only once its md5
    is right. Raises DataError with every mirror's reason.
    """
    folder = Path(folder)
    part, path = folder / f"{file_name}.part", folder / file_name
    reasons = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{file_name}"
            try:
                fetch(url, part, md5)
                os.replace(part, path)
                return path
            except DataError as error:
                reasons.append(str(error))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); check the free space and "
                        "the permissions there, or set MINIDROP_CACHE to another folder") from error
    raise DataError(f"{file_name}: no mirror delivered it ({'; '.join(reasons)}); check the network and run "
                    "this again (it goes on where it stopped), or fetch the file by other means and name "
                    "its folder with --from")


def fetch(url: str, part: Any, md5: str) -> Any:
    """Download `url` to the file `part`, resuming it, until the md5 is right. Raises DataError otherwise."""
    reason = ""
    for attempt in range(ATTEMPTS):
        begin = part.stat().st_size if part.exists() else 0
        if begin and md5_of(part) == md5:
            return
        try:
            _receive(url, part, begin)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416 and begin:     # ours is as long as theirs or longer, but wrong: start over
                part.unlink()
                continue
            if error.code < 500 and error.code not in (408, 429):
                break
        except (http.client.HTTPException, OSError) as error:
            on_disk = getattr(error, "filename", None) or getattr(error, "errno", None) in DISK_FULL
            if on_disk:
                raise
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        except ValueError as error:
            reason = str(error)
            break
        else:
            got = md5_of(part)
            if got == md5:
                return
            reason = f"expected the md5 {md5}, got {got}"
            part.unlink()
            # An older part may be to blame; without one the mirror has a different file.
            if not begin:
                break
            continue
        grown = part.exists() and part.stat().st_size > begin
        if not grown and attempt:
            break
        time.sleep(PAUSE * 2**attempt)
    raise DataError(f"{url}: {reason}")


def _receive(url, part, begin):
    """Append to `part` what the server sends from byte `begin` on; start over if it ignores ranges."""
    from tqdm import tqdm

    headers = {"User-Agent": "minidrop", "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status == 206:
            got = response.headers.get("Content-Range", "no range")
            if not got.startswith(f"bytes {begin}-"):
                raise ValueError(f"asked for the bytes from {begin} on, got {got}")
        else:
            begin = 0
        length = response.headers.get("Content-Length", "")
        total = begin + int(length) if length.isdigit() else None
        size = begin
        with (open_to_append(part) as file,
              tqdm(desc=part.stem, total=total, initial=begin, unit="B", unit_scale=True,
                   disable=None) as bar):
            file.truncate(begin)
            while piece := response.read(PIECE):
                size += len(piece)
                if size > SIZE_LIMIT:
                    raise ValueError(f"it sends more than {SIZE_LIMIT >> 20} MiB")
                write_all(file, piece)
                bar.update(len(piece))
    if total is not None and size < total:
        raise http.client.HTTPException(f"broke off after {size} of {total} bytes")


def md5_of(path: Any) -> Any:
    """Return the md5 of a file: it guards against damage, not against malice."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
