"""Restarts: a training that ends as it should not is begun again at its newest snapshot."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from minidrop.cli.caffe_flags import without
from minidrop.cli.console import echo
from minidrop.cli.run_folder import fresh_folder, run_name
from minidrop.cli.watched import CAN_WATCH, watched
from minidrop.errors import ParallelError
from minidrop.solver.mpi import launch_line, launched_size

log = logging.getLogger(__name__)

_REQUESTS = {128 + getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
             if hasattr(signal, name)}      # exit codes of a training that was asked to stop
_STOPS = ("SIGINT", "SIGTERM", "SIGQUIT")       # after others a training goes on, or ends at once
_WRONG_USAGE = 2
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0      # seconds before a restart; each is twice that before


def with_restarts(arguments: list[str], solver: Any, out: Any, resume: Any, restarts: int,
                  launcher: str) -> int:
    """Run `minidrop train` as a process of its own, or behind a launcher, until it is done; its exit code.

    arguments: of the whole command line, without the program's name. An end that nobody asked for is followed
    by a restart with --resume auto, at most `restarts` times, if the training had begun: what is wrong before
    that stays wrong. Raises UsageError, and ParallelError when no restart is left.
    """
    if not CAN_WATCH:
        raise click.UsageError("--restarts needs Linux")
    if launched_size() > 1:
        raise click.UsageError(f"--restarts goes around the launcher, not behind it: minidrop train "
                               f"--restarts {restarts} --launcher '{launch_line(launched_size())}' ...")
    if resume not in (None, "auto"):
        raise click.UsageError("--restarts goes on from the newest snapshot in the run folder: it takes no "
                               "--resume FILE (Caffe's -snapshot); --resume auto does")
    if resume and not out:
        raise click.UsageError("--restarts with --resume auto needs --out DIR: which run folder it is")
    try:
        start = shlex.split(launcher)
    except ValueError as error:
        raise click.UsageError(f"--launcher {launcher}: is no command: {error}") from error
    folder = Path(out or fresh_folder(run_name(solver)))
    first = [*without(arguments, "restarts", "launcher", "out"), "--out", str(folder)]
    program = [*start, sys.executable, "-m", "minidrop"]
    left, pause, command = restarts, FIRST_PAUSE, [*program, *first]
    while True:
        begun = _begun(folder)
        ended = _run(command)
        if ended.code in (0, _WRONG_USAGE) or ended.code in _REQUESTS:
            return ended.code
        if ended.passed_on & {*_STOPS, ended.signal}:
            return 128 - ended.code if ended.code < 0 else ended.code
        if _begun(folder) == begun:
            if not out:
                with suppress(OSError):     # the empty folder of a run that never began
                    folder.rmdir()
            if ended.code == 1:
                return 1        # it has said why
            raise ParallelError(f"the training {ended.how} before it began; it is not started again")
        if not left:
            raise ParallelError(f"the training {ended.how}, and no restart of {restarts} is left; go on "
                                f"with: {shlex.join(_typed(arguments, folder))}")
        log.warning("the training %s; restart %d of %d in %g s, at the newest snapshot of %s", ended.how,
                    restarts - left + 1, restarts, pause, folder)
        time.sleep(pause)
        left, pause = left - 1, min(LONGEST_PAUSE, 2 * pause)
        command = [*program, *without(first, "resume", "snapshot"), "--resume", "auto"]


def _run(command):
    sys.stdout.flush()
    sys.stderr.flush()
    ended = watched()
    if ended is None:       # the child
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)     # a process in the background may not read from its terminal
        try:
            os.execvp(command[0], command)
        except OSError as error:
            echo(f"error: --launcher {command[0]}: cannot be started: {error.strerror or error}", err=True)
            sys.stderr.flush()
            os._exit(1)
    return ended


def _begun(folder):
    """Return what changes whenever a training begins in a run folder."""
    try:
        stat = os.stat(folder / "run.json")
        return stat.st_ino, stat.st_mtime_ns
    except OSError:
        return None


def _typed(arguments, folder):
    return ["minidrop", *without(arguments, "out", "resume", "snapshot"), "--out", str(folder), "--resume",
            "auto"]
