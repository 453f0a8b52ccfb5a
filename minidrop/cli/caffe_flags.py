"""Converts Caffe's command lines to ours, such as `-solver=s.prototxt -gpu 0 train`."""

import re

# Caffe's flags; each takes a value.
VALUED = {"solver", "model", "weights", "snapshot", "gpu", "iterations", "phase", "level", "stage",
          "sigint-effect", "sighup-effect"}
BEFORE_COMMAND = {"import"}     # minidrop's own; takes a value as well
_FLAG = re.compile(r"--?([A-Za-z][\w-]+)(=.*)?", re.DOTALL)


def normalise(arguments: list[str]) -> list[str]:
    """Return the arguments in our form: --flag-name for every flag, and Caffe's flags after the command.

    Everything after "--" is unchanged, and so are flags of one letter.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    spelled = [_spelled(argument) for argument in arguments[:end]]
    own, before, rest = _split(spelled)
    return [*own, *rest[:1], *before, *rest[1:], *arguments[end:]]


def _spelled(argument):
    found = _FLAG.fullmatch(argument)
    return f"--{found[1].replace('_', '-')}{found[2] or ''}" if found else argument


def _split(arguments):
    """Return (our flags before the command, Caffe's flags before it, the rest from the command on)."""
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


def without(arguments: list[str], *names: str) -> list[str]:
    """Return the normalised arguments without the flags `names` and their values."""
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
