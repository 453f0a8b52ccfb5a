"""Caffe's way of writing a command line, turned into ours: `caffe -solver=s.prototxt -gpu 0 train` is
understood."""

import re
from typing import Any

# Caffe's flags; each takes a value.
VALUED = {"solver", "model", "weights", "snapshot", "gpu", "iterations", "phase", "level", "stage",
          "sigint-effect", "sighup-effect"}
BEFORE_COMMAND = {"import"}     # of minidrop itself, with a value too
_FLAG = re.compile(r"--?([A-Za-z][\w-]+)(=.*)?", re.DOTALL)


def normalise(arguments: list[str]) -> list[str]:
    """Return the arguments with two dashes before every flag, '-' for '_' in its name, and Caffe's flags
    after the command.

    What follows "--" stays as it is, and so do flags of one letter.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    spelled = [_spelled(argument) for argument in arguments[:end]]
    own, before, rest = _split(spelled)
    return [*own, *rest[:1], *before, *rest[1:], *arguments[end:]]


def _spelled(argument):
    found = _FLAG.fullmatch(argument)
    return f"--{found[1].replace('_', '-')}{found[2] or ''}" if found else argument


def _split(arguments):
    """Return (flags that stay before the command, Caffe's flags before it, the rest, which begins with the
    command)."""
    at, own, caffe = 0, [], []
    while at < len(arguments):
        found = _FLAG.fullmatch(arguments[at])
        if not found or found[1] not in VALUED | BEFORE_COMMAND:
            break
        end = at + (1 if found[2] else 2)
        (own if found[1] in BEFORE_COMMAND else caffe).extend(arguments[at:end])
        at = end
    if at >= len(arguments):        # flags without a command: click says what is missing
        return [], [], arguments
    return own, caffe, arguments[at:]


def without(arguments: list[str], *names: Any) -> Any:
    """Return the normalised arguments less the flags `names` and their values."""
    left, skip = [], False
    for argument in arguments:
        found = _FLAG.fullmatch(argument)
        if skip:
            skip = False
        elif found and found[1] in names:
            skip = not found[2]
        else:
            left.append(argument)
    return left
