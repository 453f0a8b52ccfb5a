"""Reads network and solver files: text -> NetConfig or SolverConfig, or a ConfigError with all mistakes."""

from __future__ import annotations

import difflib
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format

from minidrop.config import minidrop_pb2
from minidrop.config.check import check, check_strings, is_repeated
from minidrop.config.source_map import SourceMap, locate, scan
from minidrop.config.upgrade import upgrade_net, upgrade_solver
from minidrop.errors import ConfigError

MAX_BYTES = 4 << 20        # about twice the size of ten thousand layers


@dataclass
class NetConfig:
    """A network as written: the NetParameter, its file, and the position of each field in it.

    `origins[i]` is the path in `source` of the layer that is now layer i, so that positions stay right after
    rules have removed layers. is_part: these layers are what the rules of another left. told: warnings about
    it that were logged, in any phase.
    """

    message: Any
    path: str | None = None
    source: SourceMap = field(default_factory=lambda: SourceMap("<network>"))
    origins: list = field(default_factory=list)
    is_part: bool = False
    told: set = field(default_factory=set, repr=False, compare=False)

    def __post_init__(self):
        if not self.origins:
            self.origins = [(("layer", i),) for i in range(len(self.message.layer))]

    def where(self, layer_index: int | None = None, *fields: str) -> str:
        """Return "file:line:column" of a layer's field: where(3, "param", "lr_mult"), where(0, "bottom").

        A step may be (name, index). Without a layer index: the network's own fields. A field that is not
        written has the position of the nearest enclosing one.
        """
        origin = () if layer_index is None else self.origins[layer_index]
        return self.source.where(*origin, *fields)

    @classmethod
    def of(cls, message: Any, name: str = "<network>") -> NetConfig:
        """Return the NetConfig of a NetParameter built in memory, which is copied."""
        check_strings(message, name)
        config = cls(_copy(message), None, SourceMap(name))
        upgrade_net(config)
        return config


@dataclass
class SolverConfig:
    """A solver file as written: the SolverParameter, its file, and the position of each field in it."""

    message: Any
    path: str | None = None
    source: SourceMap = field(default_factory=lambda: SourceMap("<solver>"))
    ignore_unknown: bool = False        # in the network files that it names, as in its own
    is_stepped: bool = False            # by a script, iteration by iteration: max_iter may be missing

    def where(self, *fields: Any) -> str:
        """Return "file:line:column" of a field: where("base_lr"), where(("test_iter", 1))."""
        return self.source.where(*fields)

    def inline_net(self, name: str, index: int = 0) -> NetConfig:
        """Return the NetConfig of a network written inside the solver file, e.g. in "net_param"."""
        value = getattr(self.message, name)
        if is_repeated(self.message.DESCRIPTOR.fields_by_name[name]):
            value = value[index]
        config = NetConfig(_copy(value), self.path, self.source.within((name, index)))
        upgrade_net(config)
        return config

    @classmethod
    def of(cls, message: Any, name: str = "<solver>", ignore_unknown: bool = False) -> SolverConfig:
        """Return the SolverConfig of a SolverParameter built in memory, which is copied."""
        check_strings(message, name)
        config = cls(_copy(message), None, SourceMap(name), ignore_unknown)
        upgrade_solver(config)
        return config


def load_net(path: Path | str, ignore_unknown: bool = False) -> NetConfig:
    """Read a network file; raises ConfigError with file, line and column of every mistake.

    `ignore_unknown`: fields that the schema lacks, such as those of forks of Caffe, are passed over, each
    with a warning. Unknown layer types are mistakes all the same.
    """
    path = os.fspath(path)
    config = parse_net(read_text(path), path, ignore_unknown)
    config.path = path
    return config


def load_solver(path: Any, ignore_unknown: bool = False) -> SolverConfig:
    """Read a solver file; raises ConfigError with file, line and column of every mistake.

    `ignore_unknown`: as for `load_net`, also in the network files that the solver names.
    """
    path = os.fspath(path)
    config = parse_solver(read_text(path), path, ignore_unknown)
    config.path = path
    return config


def parse_net(text: str, name: str = "<string>", ignore_unknown: bool = False) -> NetConfig:
    """Return the NetConfig of a text; `name` is the file name in messages."""
    config = NetConfig(*parse_message(text, name, minidrop_pb2.NetParameter, minidrop_pb2.SolverParameter,
                                      ignore_unknown))
    upgrade_net(config)
    return config


def parse_solver(text: str, name: str = "<string>", ignore_unknown: bool = False) -> SolverConfig:
    """Return the SolverConfig of a text; `name` is the file name in messages."""
    message, path, source = parse_message(text, name, minidrop_pb2.SolverParameter, minidrop_pb2.NetParameter,
                                          ignore_unknown)
    config = SolverConfig(message, path, source, ignore_unknown)
    upgrade_solver(config)
    return config


def decimal(x: float) -> float:
    """Return the shortest decimal of a 32-bit float: 0.1, not 0.100000001; 0 for -0.0."""
    return float(str(np.float32(x))) + 0.0


def is_text(raw: bytes) -> bool:
    """Return whether the beginning of a file, which may end within a character, is UTF-8 text.

    Its comments, from # to the end of a line, may be in any encoding.
    """
    if any(byte in raw for byte in range(32) if byte not in b"\t\n\v\f\r"):
        return False
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    return not _NO_CHARACTER.search(_with_readable_comments(raw)[:-3])      # the last may be cut off


def read_text(path: str) -> str:
    """Return the text of a file; raises ConfigError if it is missing, not UTF-8, or larger than 4 MiB."""
    try:
        raw = _read(path)
    except FileNotFoundError:
        folder, name = os.path.split(path)
        raise ConfigError(f"{path}: there is no such file{_nearest_file(folder, name)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, expected a text file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path!r}: cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES >> 20} MiB, expected a network or solver file; "
                          "is it data or a file of weights?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = _with_readable_comments(raw)
    if found := _NO_CHARACTER.search(text):
        at = found.start()
        place = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        raise ConfigError(f"{locate(path, place)}: byte 0x{ord(text[at]) - 0xdc00:02x} is not UTF-8 text; is "
                          "this a network or solver file? Save it as UTF-8")
    return text


# What decoding makes of a byte that is no UTF-8, and what such bytes may stand in.
_NO_CHARACTER = re.compile("[\udc80-\udcff]")
_STRING_OR_COMMENT = re.compile(r""""(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*'|#[^\n]*""")


def _with_readable_comments(raw):
    """Return a text with a mark in comments for each byte that is no UTF-8, elsewhere with a surrogate."""
    return _STRING_OR_COMMENT.sub(
        lambda found: _NO_CHARACTER.sub("\ufffd", found[0]) if found[0][0] == "#" else found[0],
        raw.decode("utf-8-sig", "surrogateescape"))


def _read(path):
    """Return the beginning of a file. A pipe that nobody writes to, where reading waits, is a ConfigError."""
    with open(path, "rb", opener=_without_waiting) as file:
        start = b""
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            with suppress(BlockingIOError):     # of one who will write
                start = os.read(file.fileno(), MAX_BYTES + 1)
                if not start:
                    raise ConfigError(f"{path}: is a pipe that nobody writes to, or that has been read; name "
                                      f"a file, or begin to write first")
        if hasattr(os, "O_NONBLOCK"):       # also of a terminal, which is no pipe, reading is to wait
            os.set_blocking(file.fileno(), True)
        return start + file.read(MAX_BYTES + 1 - len(start))


def _without_waiting(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _nearest_file(folder, name):
    try:
        close = difflib.get_close_matches(name, os.listdir(folder or "."), n=2)
    except OSError:
        return f"; there is no folder '{folder}' either" if folder and not os.path.isdir(folder) else ""
    paths = [repr(os.path.join(folder, other)) for other in close]
    return f"; did you mean {' or '.join(paths)}?" if paths else ""


def parse_message(text: str, name: str, message_class: Any, other: Any,
                  ignore_unknown: bool = False) -> tuple[Any, None, SourceMap]:
    """Return (message, None, SourceMap) of a text as it stands; `other`: the class it may be meant for."""
    if not isinstance(text, str):
        raise ConfigError(f"{name}: expected text (str), got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = text.count("\n", 0, error.start) + 1, error.start - text.rfind("\n", 0, error.start)
        raise ConfigError(f"{locate(name, place)}: holds a lone surrogate, which is no character") from None
    source = scan(text, name)
    text = _with(text, check(source, message_class.DESCRIPTOR, other.DESCRIPTOR, ignore_unknown))
    message = message_class()
    try:
        text_format.Parse(text, message, allow_unknown_field=ignore_unknown)
    except text_format.ParseError as error:      # should not happen: check() is meant to be stricter
        line, column = error.GetLine(), error.GetColumn()
        raise ConfigError(f"{locate(name, line and (line, column))}: {error}") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name}: {error}") from None
    return message, None, source


def _with(text, replaced):
    """Return a text with other words at some places; see `check`."""
    lines = text.split("\n")
    for (line, column), old, new in reversed(replaced):
        own = lines[line - 1]
        lines[line - 1] = own[:column - 1] + new + own[column - 1 + len(old):]
    return "\n".join(lines)


def _copy(message):
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
