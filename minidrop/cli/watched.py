"""A process that another one watches: somebody is left to say how it ended."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import sys
from typing import Any, NamedTuple

_PASSED_ON = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1",
                                                      "SIGUSR2", "SIGTSTP") if hasattr(signal, name))
_PARENT_DEATH_SIGNAL = 1        # PR_SET_PDEATHSIG of prctl
CAN_WATCH = sys.platform == "linux"     # where a child can ask to end with its parent

_CAUSES = {"SIGKILL": "by hand, by a batch system, or by the system because memory ran out",
           "SIGBUS": "a data file was cut off while it was read? PYTHONFAULTHANDLER=1 shows where",
           "SIGALRM": "other processes of the launcher did not start MPI in time: is one of them another "
                      "program, or one that trains alone?",
           "SIGSEGV": "a crash, mostly in a library; PYTHONFAULTHANDLER=1 shows where"}


class Ended(NamedTuple):
    """How a watched process ended: with an exit code, or by a signal (its name, else "").

    `passed_on`: the names of the signals that the process that watched had passed on to it.
    """

    code: int
    signal: str
    passed_on: frozenset[str] = frozenset()

    @property
    def how(self) -> str:
        """In words: how it ended and what the cause may be."""
        if not self.signal:
            return f"ended with exit code {self.code}"
        cause = _CAUSES.get(self.signal, "")
        return f"was killed by {self.signal}{f' ({cause})' if cause else ''}"


def watched() -> Ended | None:
    """Fork: None in the child, which goes on; in the parent, once the child has ended, how it ended.

    The child has a process group of its own, so that a signal to the group of the parent reaches it once:
    the parent passes it on. It is killed when the parent dies. Call it before any other thread runs Python.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, signal.SIGCHLD))
    parent, child = os.getpid(), os.fork()
    if not child:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:      # it died before it could be asked for
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return None
    # Python writes the number of each signal to the pipe: none is lost between two looks at the child.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _noted) for number in (*_PASSED_ON, signal.SIGCHLD)}
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    done, status, passed_on = 0, 0, set()
    while not done:
        number = os.read(reading, 1)[0]
        if number == signal.SIGCHLD:
            done, status = os.waitpid(child, os.WNOHANG)        # it may only have been stopped
        else:
            os.kill(child, number)
            passed_on.add(number)
            if number == signal.SIGTSTP:        # both stop, as one process would, and go on together
                os.kill(parent, signal.SIGSTOP)
                os.kill(child, signal.SIGCONT)
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    signal.set_wakeup_fd(pipe)
    os.close(writing)
    passed_on |= {*os.read(reading, 1 << 16)} & {*_PASSED_ON}     # that came while it ended
    os.close(reading)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, _name(-code) if code < 0 else "", frozenset(map(_name, passed_on)))


def _name(number):
    try:
        return signal.Signals(number).name
    except ValueError:      # of real time, between the first and the last, which alone have names
        return f"signal {number}"


def _noted(_number, _frame):
    pass


class Reached:
    """How many iterations a training has done, in memory that a watching process reads after its death."""

    def __init__(self):
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)      # shared with children
        self.begin(-1)

    def begin(self, iteration: int) -> None:
        """Say at which iteration the training begins."""
        struct.pack_into("q", self._memory, 0, iteration)

    def __call__(self, event: Any) -> None:
        if event.kind == "step":
            self.begin(event.iteration)

    def __str__(self) -> str:
        iteration, = struct.unpack_from("q", self._memory)
        return "before it trained" if iteration < 0 else f"after iteration {iteration}"
