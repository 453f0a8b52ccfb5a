"""picture_writer: a Drawing as a file, by graphviz where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from minidrop.apps.drawing import Drawing
from minidrop.apps.pictures import DIRECTIONS, as_dot, as_svg
from minidrop.errors import ConfigError, nearest
from minidrop.files import replace

_SECONDS = 120
_FORMATS = (".dot", ".svg", ".png", ".pdf")


def picture_writer(path: str | os.PathLike, direction: str = "LR") -> Callable[[Drawing], None]:
    """Return what writes a Drawing to a file whose name ends with .dot, .svg, .png or .pdf.

    An .svg is drawn by graphviz where its `dot` is installed, otherwise by minidrop; .png and .pdf need it.
    direction: where arrows point, one of DIRECTIONS. Raises ConfigError, before anything is drawn, for a
    name or direction that is none; what is returned raises it where graphviz fails or the file cannot be
    written.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in _FORMATS:
        raise ConfigError(f"{path}: expected a name that ends with {', '.join(_FORMATS)}")
    if direction not in DIRECTIONS:
        raise ConfigError(f"rankdir: expected one of {', '.join(DIRECTIONS)}, got {direction!r}"
                          f"{nearest(str(direction), DIRECTIONS)}")
    program = shutil.which("dot")
    if ending not in (".dot", ".svg") and program is None:
        raise ConfigError(f"{path}: {ending} needs graphviz, whose program dot is not installed; draw an "
                          f".svg, or install it (apt install graphviz)")

    def write(drawing: Drawing) -> None:
        content: str | bytes
        if ending == ".dot":
            content = as_dot(drawing, direction)
        elif program is None:
            content = as_svg(drawing, direction)
        else:
            content = _by_graphviz(program, as_dot(drawing, direction), ending[1:], path)
        try:
            replace(path, content)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror or error}; give another "
                              f"name") from None
    return write


def _by_graphviz(program, text, kind, out):
    """Return the picture that `dot` draws; raises ConfigError if it fails."""
    try:
        done = subprocess.run([program, f"-T{kind}"], input=text.encode(), capture_output=True,
                              timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{out}: {program} did not draw it within {_SECONDS} s; write a .dot and draw that "
                          f"yourself, or take a smaller net") from None
    except OSError as error:
        raise ConfigError(f"{out}: {program} cannot be run: {error.strerror or error}; reinstall graphviz, "
                          f"or write a .dot") from None
    if done.returncode or not done.stdout:
        words = " ".join(done.stderr.decode("utf-8", "replace").split())[:200]
        raise ConfigError(f"{out}: {program} failed with exit code {done.returncode}: "
                          f"{words or 'no message'}; write a .dot and try it by hand")
    return done.stdout
