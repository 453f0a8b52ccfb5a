"""The wire format of protocol buffers: runs of single numbers, limits, damaged messages."""

import struct

import numpy as np
import pytest
from cases import in_turn

from minidrop.data import wire
from minidrop.data.wire import BYTES, EIGHT, FOUR, VARINT, Wire, as_key, as_varint, varint


def fields(raw):
    return list(Wire().fields(memoryview(raw)))


def single(number, value, form):
    return as_key(number, FOUR if form == "<f" else EIGHT) + struct.pack(form, value)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**63])
def test_numbers_come_back(number):
    raw = as_varint(number)
    assert varint(memoryview(raw), 0) == (number, len(raw))


@pytest.mark.parametrize("form, number", [("<f", 5), ("<d", 8), ("<f", 600)])
@in_turn("count", [1, 2, 15, 16, 17, 18, 1000])
def test_a_run_of_single_numbers_is_one_value(form, number, count):
    values = np.arange(count) + 0.5
    run = b"".join(single(number, value, form) for value in values)
    end = as_key(1, VARINT) + as_varint(7)
    first, *rest = fields(run + end)
    assert first[0] == number and np.array_equal(np.frombuffer(first[2], form), values)
    assert rest == [(1, VARINT, 7)]


def test_runs_end_where_another_field_begins():
    raw = single(5, 1, "<f") + single(5, 2, "<f") + single(6, 3, "<f") + single(5, 4, "<f")
    assert [(number, np.frombuffer(value, "<f").tolist()) for number, _, value in fields(raw)] == [
        (5, [1, 2]), (6, [3]), (5, [4])]


def test_texts_are_views_of_the_file():
    raw = memoryview(as_key(2, BYTES) + as_varint(3) + b"abc")
    (number, kind, value), = Wire().fields(raw)
    assert (number, kind, bytes(value)) == (2, BYTES, b"abc") and value.obj is raw.obj


@pytest.mark.parametrize("raw, message", [
    (b"\x0d\0\0", "ends within a field of 4 bytes"), (b"\x09" + b"\0" * 7, "ends within a field of 8 bytes"),
    (b"\x0d" + b"\0" * 4 + b"\x0d\0", "ends within a field of 4 bytes"), (b"\x0a\x05abc", "field of 5 bytes"),
    (b"\x0b", "unknown kind 3"), (b"\x80", "ends within a number")])
def test_damaged_messages(raw, message):
    with pytest.raises(ValueError, match=message):
        fields(raw)


def test_a_file_of_countless_fields_ends_soon(monkeypatch):
    monkeypatch.setattr(wire, "MOST_FIELDS", 10)
    assert len(fields(b"\x08\x01" * 10)) == 10
    with pytest.raises(ValueError, match="more than 10 fields; if it is yours, MINIDROP_LIMITS=10 allows"):
        fields(b"\x08\x01" * 11)
