"""The random words of dropout are those of Philox4x32-10, word for word, and Gaussian numbers come from
them."""

import math

import numpy as np
import pytest
from cases import in_turn

from minidrop.backend import Backend, NumpyBackend
from minidrop.backend.generic.random import _philox, dropout_threshold
from minidrop.kernels import cpu

LOW = 0xFFFFFFFF


def philox(counter, key):
    """Philox4x32-10 as Salmon et al. 2011 state it, in plain integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & LOW, (first >> 32) ^ c[3] ^ k[1], first & LOW]
        k = [(k[0] + 0x9E3779B9) & LOW, (k[1] + 0xBB67AE85) & LOW]
    return c


@pytest.mark.parametrize("counter, key, words", [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((LOW,) * 4, (LOW,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ((0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), (0xa4093822, 0x299f31d0), "d16cfe09 94fdcceb 5001e420 "
     "24126ea1"),
])
def test_the_reference_gives_the_published_vectors(counter, key, words):
    """The known answers that Random123 publishes."""
    assert philox(counter, key) == [int(word, 16) for word in words.split()]


def kernel(first, count, key):
    words = np.empty(4 * count, np.uint32)
    cpu.philox_words(first, count, np.uint64(key & LOW), np.uint64(key >> 32), words)
    return words.reshape(count, 4).tolist()


def generic(first, count, key):
    return np.stack(_philox(np, np.arange(first, first + count, dtype=np.uint64), key), axis=1).tolist()


@in_turn("words", [kernel, generic])
@in_turn("first", [0, 1, 2**31, 2**32 - 2, 2**40 + 5])
@in_turn("key", [0, 1, 2**64 - 1, 0x299f31d0a4093822])
def test_both_implementations(words, first, key):
    expected = [philox((b & LOW, b >> 32, 0, 0), (key & LOW, key >> 32)) for b in range(first, first + 4)]
    assert words(first, 4, key) == expected


def test_zero_counter_and_key():
    assert [f"{word:08x}" for word in kernel(0, 1, 0)[0]] == "6627e8d5 e169c58d bc57ac4c 9b00dbd8".split()


@pytest.mark.parametrize("backend", [Backend(), NumpyBackend()], ids=["generic", "kernel"])
def test_gaussian_numbers(backend):
    """Box and Muller's formula, word pair by word pair, in plain floats."""
    key, expected = 0x299f31d0a4093822, []
    for block in range(200):
        words = philox((block, 0, 0, 0), (key & LOW, key >> 32))
        for first, second in (words[:2], words[2:]):
            radius = math.sqrt(-2 * math.log((first + 1) / 2**32))
            angle = 2 * math.pi * (second + 1) / 2**32
            expected += [radius * math.cos(angle), radius * math.sin(angle)]
    np.testing.assert_allclose(backend.gaussian((800,), np.dtype(float), key), expected, rtol=0, atol=1e-14)


def test_threshold():
    assert dropout_threshold(0.5) == 2**31
    assert dropout_threshold(0.25) == 2**30
    assert dropout_threshold(1 - 2**-40) == 2**32 - 1      # a 32-bit word, whatever the rate
