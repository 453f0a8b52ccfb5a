"""Upgrades files: networks and solvers of Caffe's earlier years, as text or binary, to today's form."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError, EncodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from minidrop.config.check import check_strings, is_repeated
from minidrop.config.load import MAX_BYTES, NetConfig, SolverConfig, is_text, parse_message, read_text
from minidrop.config.minidrop_pb2 import NetParameter, SolverParameter
from minidrop.config.source_map import SourceMap, scan
from minidrop.config.upgrade import upgrade_net, upgrade_solver
from minidrop.errors import ConfigError
from minidrop.files import replace

MOST_BINARY = (1 << 31) - 1     # protobuf's limit
_NETS = ("net_param", "train_net_param", "test_net_param")


def upgrade_file(source: str | os.PathLike, target: str | os.PathLike,
                 ignore_unknown: bool = False) -> list[str]:
    """Write the network or solver in the file `source`, in today's form, to `target`; returns what changed.

    What `source` holds, and whether as text or binary, its content decides; `target` has the same format, but
    of a text no comments. It is replaced as a whole or not at all. Raises ConfigError, also if both are one
    file, or OSError. ignore_unknown: fields of a text that minidrop lacks are left out, each with a warning;
    a binary keeps them.
    """
    path, out = os.fspath(source), os.fspath(target)
    if os.path.realpath(path) == os.path.realpath(out) or (os.path.exists(out) and os.path.exists(path)
                                                           and os.path.samefile(path, out)):
        raise ConfigError(f"{out}: is the file that is read; name another one to write to")
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ConfigError(f"{path}: is a pipe or a device, expected a file")
    raw = _binary(path)
    config = _of_text(read_text(path), path, ignore_unknown) if raw is None else _of_binary(raw, path)
    before = type(config.message)()
    before.CopyFrom(config.message)
    if isinstance(config, NetConfig):
        upgrade_net(config)
        changes = net_changes(before, config.message)
    else:
        upgrade_solver(config)
        changes = _upgrade_nets(config)
        if before.HasField("solver_type"):
            changes.insert(0, f"solver_type: {before.SolverType.Name(before.solver_type)} is type: "
                              f"\"{config.message.type}\" now")
    try:
        changes += _fate_of_unknown(before, config.message)
        replace(out, text_format.MessageToString(config.message, as_utf8=True) if raw is None
                else config.message.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ConfigError(f"{out}: cannot be written: {error}") from None
    return changes


def net_changes(old: NetParameter, new: NetParameter) -> list[str]:
    """Return a line for each kind of change that upgrading made of `old`."""
    lines = []
    oldest = sum(layer.HasField("layer") for layer in old.layers)
    if old.layers:
        forms = [f"{count} `layers` of the form {form}" for form, count in (
            ("V0", oldest), ("V1", len(old.layers) - oldest)) if count]
        folded = len(old.layers) - sum(layer.type != "Input" or not old.input for layer in new.layer)
        lines.append(f"{' and '.join(forms)} became {len(old.layers) - folded} `layer`"
                     + (f"; {folded} that only padded are part of the next one now" if folded else ""))
    if inputs := list(old.input):
        name = new.layer[0].name
        lines.append(f"input {', '.join(map(repr, inputs))} became the Input layer {name!r}")
    before: Iterable[Any] = old.layer or old.layers
    moved, statistics = [], []
    by_name: dict[str, deque] = {}      # those of two phases may have one name
    for layer in before:
        by_name.setdefault(layer.name, deque()).append(layer)
    for layer in new.layer:
        own = by_name.get(layer.name)
        was = own.popleft() if own else None
        if layer.HasField("transform_param") and (was is None or not was.HasField("transform_param")):
            moved.append(layer.name)
        if layer.type == "BatchNorm" and was is not None and len(was.param) == 3 and any(
                one.HasField("lr_mult") or one.HasField("decay_mult") for one in was.param):
            statistics.append(layer.name)
    if moved:
        lines.append(f"scale, mean_file, crop_size or mirror moved into transform_param: "
                     f"{', '.join(dict.fromkeys(moved))}")
    if statistics:
        lines.append(f"the multipliers of statistics are gone: {', '.join(statistics)}")
    return lines


def _upgrade_nets(config):
    """Upgrade the networks written inside a solver, in place; returns what changed."""
    lines = []
    for name in _NETS:
        repeated = is_repeated(config.message.DESCRIPTOR.fields_by_name[name])
        count = len(getattr(config.message, name)) if repeated else int(config.message.HasField(name))
        for index in range(count):
            net = getattr(config.message, name)
            net = net[index] if repeated else net
            new = config.inline_net(name, index).message
            lines += [f"{name}: {line}" for line in net_changes(net, new)]
            net.CopyFrom(new)
    return lines


def _binary(path):
    """Return the content of a file that is no text, else None."""
    try:
        with open(path, "rb") as file:
            start = file.read(MAX_BYTES + 4)
            if is_text(start):
                return None
            rest = file.read(MOST_BINARY + 1 - len(start))
    except OSError:                 # reading it as text will explain this
        return None
    if len(start) + len(rest) > MOST_BINARY:
        raise ConfigError(f"{path}: is larger than 2 GiB, protobuf's limit for a message")
    return start + rest


def _of_text(text, path, ignore_unknown):
    """Return the NetConfig or SolverConfig of a text, not yet upgraded."""
    names = {entry.name for entry in scan(text, path).entries}
    nets, solvers = (sum(name in kind.DESCRIPTOR.fields_by_name for name in names)
                     for kind in (NetParameter, SolverParameter))
    if solvers > nets:
        return SolverConfig(*parse_message(text, path, SolverParameter, NetParameter, ignore_unknown))
    return NetConfig(*parse_message(text, path, NetParameter, SolverParameter, ignore_unknown))


def _of_binary(raw, path):
    """Return the same of a serialized message: of the kind that lacks fewer of its fields.

    A field of a fork has a number of its own; one whose number the kind has for another type speaks against
    that kind.
    """
    found = []
    for kind, config in ((NetParameter, NetConfig), (SolverParameter, SolverConfig)):
        message = kind()
        try:
            message.ParseFromString(raw)
        except DecodeError:
            continue
        known, unknown = len(message.ListFields()), {one.field_number for one in UnknownFieldSet(message)}
        if known and unknown.isdisjoint(kind.DESCRIPTOR.fields_by_number):
            found.append(((-len(unknown), known), config(message, None, SourceMap(path))))
    if not found:
        raise ConfigError(f"{path}: is neither text nor a serialized network or solver; is it whole?")
    config = max(found, key=lambda one: one[0])[1]
    check_strings(config.message, path)
    return config


def _fate_of_unknown(old, new):
    """Return a line each of the fields that the schema lacks and that were kept, and were left out."""
    before, after = _unknown(old), _unknown(new)
    gone = [name for name in before if name not in after]
    return [f"{what}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
            for what, names in (("kept fields that minidrop does not know", after),
                                ("left out fields that minidrop does not know", gone)) if names]


def _unknown(message, place=""):
    """Return the names of all fields that the schema lacks, as "layer.300", each once."""
    names = dict.fromkeys(f"{place}{one.field_number}" for one in UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inside in value if is_repeated(field) else (value,):
                names.update(dict.fromkeys(_unknown(inside, f"{place}{field.name}.")))
    return list(names)
