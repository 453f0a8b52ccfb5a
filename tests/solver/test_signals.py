"""StopSignals, in child processes that get real signals."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from minidrop.solver.signals import StopSignals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

CHILD = """
import sys, time
from minidrop.solver.signals import StopSignals
try:
    with StopSignals(*sys.argv[1:]) as signals:
        print("ready", flush=True)
        seen = None
        while True:
            time.sleep(0.01)
            if signals.take_snapshot_request():
                print("snapshot", flush=True)
            if signals.stop_requested and not seen:
                seen = signals.stop_requested
                print("stop", seen, flush=True)
                if sys.stdin.readline() == "leave\\n":
                    break
    print("left", flush=True)
    sys.exit(signals.exit_code)
except KeyboardInterrupt:
    print("at once", flush=True)
    sys.exit(1)
"""


class Child:
    def __init__(self, *effects):
        root = Path(__file__).parent.parent.parent
        self.process = subprocess.Popen([sys.executable, "-c", CHILD, *effects], text=True, cwd=root,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.line() == "ready"

    def line(self):
        return self.process.stdout.readline().strip()

    def send(self, name):
        self.process.send_signal(getattr(signal, name))

    def leave(self):
        out, err = self.process.communicate("leave\n", timeout=20)
        assert err == ""
        return out, self.process.returncode


@pytest.fixture
def child():
    children = []

    def start(*effects):
        children.append(Child(*effects))
        return children[-1]

    yield start
    for started in children:
        started.process.kill()
        started.process.communicate()


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_asks_to_stop(child, name, code):
    child = child()
    child.send(name)
    assert child.line() == f"stop {name}"
    assert child.leave() == ("left\n", code)


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_sigint_while_stopping_stops_at_once(child, first):
    child = child()
    child.send(first)
    assert child.line() == f"stop {first}"
    child.send("SIGINT")
    assert child.line() == "at once"
    assert child.process.wait(20) == 1


def test_without_an_old_handler_a_second_sigint_is_for_who_is_named():
    """As in a process that a script starts in the background."""
    old, calls = signal.signal(signal.SIGINT, signal.SIG_IGN), []
    try:
        with StopSignals(at_once=lambda number, frame: calls.append(number)) as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.stop_requested == "SIGINT" and not calls
            os.kill(os.getpid(), signal.SIGINT)
            assert calls == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)
        StopSignals.asked = False


def test_a_second_sigterm_changes_nothing(child):
    child = child()
    for _ in range(3):
        child.send("SIGTERM")
    assert child.line() == "stop SIGTERM"
    child.send("SIGTERM")
    assert child.leave() == ("left\n", 143)


def test_sighup_asks_for_a_snapshot_each_time_and_goes_on(child):
    child = child()
    for _ in range(2):
        child.send("SIGHUP")
        assert child.line() == "snapshot"
    child.send("SIGTERM")
    assert child.line() == "stop SIGTERM"


def test_effects_can_be_swapped(child):
    child = child("snapshot", "stop")
    for _ in range(3):  # a SIGINT that snapshots never interrupts
        child.send("SIGINT")
        assert child.line() == "snapshot"
    child.send("SIGHUP")
    assert child.line() == "stop SIGHUP"
    assert child.leave() == ("left\n", 128 + signal.SIGHUP)


def test_effect_none(child):
    child = child("none", "none")
    for name in ("SIGINT", "SIGHUP", "SIGINT", "SIGHUP"):
        child.send(name)
    child.send("SIGTERM")
    assert child.line() == "stop SIGTERM"


def test_old_handlers_come_back():
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = [signal.getsignal(getattr(signal, name)) for name in names]
    with pytest.raises(RuntimeError, match="loop"), StopSignals() as signals:
        assert signal.getsignal(signal.SIGTERM) == signals._handle
        raise RuntimeError("loop")
    assert [signal.getsignal(getattr(signal, name)) for name in names] == before


def test_nested_and_used_twice():
    signals = StopSignals()
    before = signal.getsignal(signal.SIGHUP)
    for _ in range(2):
        with StopSignals() as outer, signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.take_snapshot_request() and not signals.take_snapshot_request()
            assert not outer.snapshot_requested
    assert signal.getsignal(signal.SIGHUP) == before
    assert signals.stop_requested is None and signals.exit_code == 0


def test_outside_the_main_thread_nothing_is_caught():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with StopSignals() as signals:
            seen.append((signal.getsignal(signal.SIGINT), signals.stop_requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


def test_unknown_effect():
    with pytest.raises(ValueError, match="one of stop, snapshot, none; got 'halt'"):
        StopSignals(sigint_effect="halt")
