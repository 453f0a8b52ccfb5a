"""The checksums of HDF5's own structures, so that a mutant gets past them as a forger would."""

import struct
from itertools import pairwise

import numpy as np

SIGNATURES = (b"\x89HDF", b"OHDR", b"OCHK", b"FADB", b"FAHD", b"EAHD", b"EAIB", b"EADB", b"BTHD", b"BTLF",
              b"BTIN", b"FRHP", b"FHDB", b"FHIB")
MOST_BYTES = 800        # of a structure that is looked for
MASK = 0xFFFFFFFF


def lookup3(data):
    """Return Bob Jenkins' lookup3 hash (hashlittle, from 0) of bytes: HDF5's checksum of metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & MASK
    full = max(0, len(data) - 1) // 12
    for x, y, z in struct.iter_unpack("<III", data[:12 * full]):
        a, b, c = _mixed(a + x, b + y, c + z)
    return _final(a, b, c, *struct.unpack("<III", bytes(data[12 * full:]).ljust(12, b"\0"))) if data else c


def lookup3_of_prefixes(data):
    """Return [lookup3(data[:n]) for n in 1 .. len(data)] as an array, all at once."""
    lengths = np.arange(1, len(data) + 1, dtype=np.uint64)
    padded = np.frombuffer(bytes(data) + bytes(24), np.uint8)
    a = b = c = (lengths + np.uint64(0xDEADBEEF)) & np.uint64(MASK)
    full = (lengths - 1) // 12
    for number in range(int(full[-1])):
        x, y, z = padded[12 * number:12 * number + 12].view("<u4").astype(np.uint64)
        mixed = _mixed(a + x, b + y, c + z)
        a, b, c = (np.where(number < full, new, old) for new, old in zip(mixed, (a, b, c), strict=True))
    inside = np.arange(12)
    places = 12 * full[:, None].astype(np.int64) + inside
    rest = np.where(places < lengths[:, None].astype(np.int64), padded[places], 0).astype(np.uint8)
    return _final(a, b, c, *rest.view("<u4").astype(np.uint64).T)


def _mixed(a, b, c):
    a, b, c = a & MASK, b & MASK, c & MASK
    for turn in (4, 6, 8, 16, 19, 4):
        a = ((a - c) & MASK) ^ _turned(c, turn)
        c = (c + b) & MASK
        a, b, c = b, c, a
    return a, b, c


def _final(a, b, c, x, y, z):
    a, b, c = (a + x) & MASK, (b + y) & MASK, (c + z) & MASK
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _turned(b, turn)) & MASK
        a, b, c = b, c, a
    return b


def _turned(x, count):
    return ((x << count) | (x >> (32 - count))) & MASK


def summed_blocks(content):
    """Return [(begin, end)] of the structures of a whole HDF5 file whose checksum stands at `end`."""
    begins = sorted(place for signature in SIGNATURES for place in _places(content, signature))
    blocks = []
    for begin, following in pairwise([*begins, len(content)]):
        most = min(following, begin + MOST_BYTES, len(content) - 4)
        for end, found in enumerate(lookup3_of_prefixes(content[begin:most]).tolist(), begin + 1):
            if found.to_bytes(4, "little") == content[end:end + 4]:
                blocks.append((begin, end))
                break
    return blocks


def repaired(content, blocks):
    """Return the bytes with the checksum of every block made right again."""
    content = bytearray(content)
    for begin, end in blocks:
        if end + 4 <= len(content):
            content[end:end + 4] = lookup3(content[begin:end]).to_bytes(4, "little")
    return bytes(content)


def _places(content, signature):
    place = content.find(signature)
    while place >= 0:
        yield place
        place = content.find(signature, place + 1)
