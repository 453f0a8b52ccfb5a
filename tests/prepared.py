"""minidrop as processes of their own that begin with everything loaded.

A process that trains a small net spends most of its time on loading NumPy, Numba and its kernels. Here one
process for each that runs tests has loaded them, and is copied (`fork`) where a test starts another: that one
then does what `python -m minidrop` does after its imports, to the end of the interpreter.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CAN_COPY = sys.platform == "linux" and hasattr(socket, "send_fds")
FIXED = {"PYTHONPATH": str(ROOT), "MINIDROP_DEBUG": "", "MINIDROP_THREADS": "1", "OMP_NUM_THREADS": "1",
         "OPENBLAS_NUM_THREADS": "1"}       # read when it loads, so these are the same for all


def start_minidrop(*arguments, streams=None, folder=None):
    """Start `minidrop arguments` in a folder, like subprocess.Popen: with pipes of text, or three files as
    streams.

    Where processes cannot be copied, one is started anew.
    """
    arguments = list(map(str, arguments))
    if CAN_COPY:
        return Process(arguments, streams, folder)
    pipes = dict(zip(("stdin", "stdout", "stderr"), streams or (None, subprocess.PIPE, subprocess.PIPE),
                     strict=True))
    return subprocess.Popen([sys.executable, "-m", "minidrop", *arguments], text=True,
                            env={**os.environ, **FIXED}, cwd=folder, **pipes)


def run_apart(*arguments, folder=None):
    """Run `minidrop arguments` in a process of its own; return it with what it wrote in place of streams."""
    child = start_minidrop(*arguments, folder=folder)
    child.stdout, child.stderr = child.communicate(timeout=120)
    return child


class Process:
    """A copy of the prepared process, which has been told what to run."""

    def __init__(self, arguments, streams=None, folder=None):
        self.args, self.returncode, self.stdout, self.stderr = arguments, None, None, None
        given = list(streams or ())
        if not given:
            (out, out_end), (err, err_end) = os.pipe(), os.pipe()
            self.stdout, self.stderr = open(out), open(err)
            given = [os.open(os.devnull, os.O_RDONLY), out_end, err_end]
        self._status, end = _pair()
        order = {"arguments": arguments, "folder": os.path.abspath(folder or "."),
                 "environment": {**os.environ, **FIXED}}
        socket.send_fds(_prepared(), [json.dumps(order).encode()], [end.fileno(), *given])
        end.close()
        if not streams:
            for one in given:
                os.close(one)
        self.pid = self._number()

    def poll(self):
        """Return the exit status as Popen does, None while it runs."""
        return self._wait(0)

    def wait(self, timeout=None):
        """Return the exit status when there is one; TimeoutExpired after `timeout` seconds."""
        if self._wait(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _wait(self, timeout):
        if self.returncode is None:
            self._status.settimeout(timeout)
            with suppress(BlockingIOError, TimeoutError):
                self.returncode = self._number()
                self._status.close()
        return self.returncode

    def _number(self):
        """Return what the prepared process says next."""
        said = self._status.recv(20)
        if not said:
            raise RuntimeError("the prepared process, or the one that waits for this copy of it, has ended")
        return int(said)

    def communicate(self, timeout=None):
        """Return what it writes until it ends, (stdout, stderr); after `timeout` seconds it is killed."""
        with ThreadPoolExecutor(2) as readers:
            texts = [readers.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            texts = [text.result() for text in texts]
        self.stdout.close()
        self.stderr.close()
        return texts

    def send_signal(self, number):
        if self.poll() is None:
            with suppress(ProcessLookupError):      # it has ended, and the news of that are on their way
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)      # each message is one


@cache
def _prepared():
    """Return a connection to the prepared process; it ends when this is closed."""
    own, its = _pair()
    process = subprocess.Popen([sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()],
                               env={**os.environ, **FIXED}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
    its.close()

    def end():
        own.close()
        process.wait()
    atexit.register(end)
    return own


# -- the prepared process ------------------------------------------------------------------------------------
def prepare():
    """Load what a training loads. Nothing is run that would leave its traces in the copies."""
    import h5py  # noqa: F401
    import numpy as np

    import minidrop.cli.train
    import minidrop.data.hdf5
    import minidrop.layers
    import minidrop.net
    import minidrop.snapshot
    import minidrop.solver.loop  # noqa: F401
    from minidrop.kernels import cpu, cpu_update
    x, places = np.ones((2, 2), np.float32), np.arange(2)
    cpu.activate(x, x[0].copy(), True, np.float32(1), 0, 2)      # Numba makes itself ready
    cpu_update.sgd_update(x, x.copy(), (x.copy(),), (places,), (places,), *[np.float32(0)] * 3, False,
                          np.float32(1), 0, 2)


def orders(control):
    """Copy this process for every order that comes; return the order in each copy, None when no more come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is for whoever runs the tests
    while True:
        message, files, _, _ = socket.recv_fds(control, 1 << 20, 4)
        if not message:
            return None
        if os.fork() == 0:
            control.close()
            status, *streams = files
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.close(status)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for stream in set(streams):
                    os.close(stream)
                return json.loads(message)
            _report(child, status, streams)
        for file in files:
            os.close(file)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _report(child, status, streams):
    """Say the number of a process, and then how it ended."""
    for stream in set(streams):
        os.close(stream)
    os.write(status, b"%d" % child)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(OSError):         # nobody may want to know
        os.write(status, b"%d" % code)
    os._exit(0)


def become(order):
    """Make this process what `python -m minidrop` is when it has loaded everything."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[0] = order["folder"]
    sys.argv = ["minidrop", *order["arguments"]]
    sys.stdout.reconfigure(line_buffering=os.isatty(1))


if __name__ == "__main__":
    prepare()
    found = orders(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        become(found)
        import minidrop_command
        minidrop_command.main()
