"""Programs run in this process: one of their own would import NumPy, Numba and all of minidrop again."""

import io
import os
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock


def run_here(script, *arguments, folder=None, environment=None):
    """Run a script as `python script arguments` would, in a folder; return returncode, stdout and stderr.

    `environment` is what the process would have, by default this one's. Modules that the script imports from
    beside it are forgotten afterwards.
    """
    modules, beside = set(sys.modules), str(Path(script).parent)

    def run():
        try:
            runpy.run_path(str(script), run_name="__main__")
        finally:
            for name in set(sys.modules) - modules:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(beside + os.sep):
                    del sys.modules[name]
    with (mock.patch.object(sys, "argv", [str(script), *map(str, arguments)]),
          mock.patch.object(sys, "path", [beside, *sys.path])):
        return _run(run, folder, environment)


def run_minidrop(*arguments, folder=None, environment=None):
    """Run `minidrop arguments` as `run_here` runs a script."""
    from minidrop.cli import run
    return _run(lambda: sys.exit(run(list(map(str, arguments)))), folder, environment)


def _run(program: Callable, folder, environment):
    # With a buffer of bytes, as streams of a process have.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    before, code = os.getcwd(), 0
    with (mock.patch.dict(os.environ, environment or {}, clear=environment is not None),
          redirect_stdout(out), redirect_stderr(err)):
        try:
            os.chdir(folder or before)
            program()
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(before)
    if isinstance(code, str):
        err.write(code + "\n")
    written = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return SimpleNamespace(returncode=1 if isinstance(code, str) else code or 0, stdout=written[0],
                           stderr=written[1])
