"""minidrop train --restarts: a training that was killed goes on by itself, others end as they did."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from prepared import start_minidrop

from minidrop.cli.watched import CAN_WATCH

pytestmark = pytest.mark.skipif(not CAN_WATCH, reason="a child that ends with its parent is Linux's")
DYING = """
import os, signal
from pathlib import Path
from minidrop.solver import loop
step = loop.Solver._step
def dying(solver):
    flag = Path(f"died {solver.iteration}")
    if solver.iteration in (13, 37) and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    step(solver)
loop.Solver._step = dying
"""
HUNG_UP = """flag.touch()
        if solver.iteration == 37:
            os.kill(os.getppid(), signal.SIGHUP)
            __import__("time").sleep(0.5)"""


def test_a_training_that_is_killed_twice_equals_one_in_peace(tiny, minidrop, weights_of):
    """Behind a launcher of one process, which is any command.

    Before the second time its parent is hung up: that asks for a snapshot, and is no request to stop.
    """
    assert minidrop("train", "--solver", tiny.solver, "--out", "one").code == 0
    Path("dying.py").write_text(DYING.replace("flag.touch()", HUNG_UP))
    child = start_minidrop("--import", "dying.py", "train", "--solver", tiny.solver, "--out", "two",
                           "--restarts", 2, "--launcher", "env")
    out, err = child.communicate(timeout=120)
    lines = err.splitlines()
    assert child.returncode == 0 and len(lines) == 2 and "done: 10 iterations" in out
    for number, line in enumerate(lines, 1):
        assert line.startswith("warning: the training was killed by SIGKILL (")
        assert f"restart {number} of 2 in {number} s, at the newest snapshot of two" in line
    found, expected = (weights_of(f"{run}/snapshots/task_iter_40.h5") for run in ("two", "one"))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert Path("two/metrics.jsonl").read_bytes() == Path("one/metrics.jsonl").read_bytes()


def test_no_restart_is_left(tiny, monkeypatch):
    Path("dying.py").write_text(DYING.replace(" and not flag.exists()", ""))
    child = start_minidrop("--import", "dying.py", "train", "--solver", tiny.solver, "--restarts", 1)
    _, err = child.communicate(timeout=120)
    folder, = Path("runs").iterdir()
    assert child.returncode == 1 and err.splitlines()[-1].startswith(
        "error: the training was killed by SIGKILL (")
    assert err.endswith(f"no restart of 1 is left; go on with: minidrop --import dying.py train --solver "
                        f"{tiny.solver} --restarts 1 --out {folder} --resume auto\n")


@pytest.mark.parametrize("wrong", [("--set", "base_lr=x"), ("--timeline", "none/trace.json")])
def test_what_is_wrong_before_the_training_is_not_tried_again(wrong, tiny):
    child = start_minidrop("train", "--solver", tiny.solver, "--out", "o", "--restarts", 3, *wrong)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 1 and err.count("\n") == 1 and err.startswith("error: ")


def test_a_stop_that_was_asked_for_is_none_to_restart_after(tiny):
    child = start_minidrop("train", "--solver", tiny.solver, "--out", "o", "--restarts", 3, "--set",
                           "max_iter=1000000", "--set", "test_interval=0")
    end = time.monotonic() + 60
    while not Path("o/snapshots/task_iter_10.h5").exists():
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    training = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().strip()

    def wait_for(states):
        while {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
               for pid in (child.pid, training)} - states:
            assert time.monotonic() < end
            time.sleep(0.01)
    child.send_signal(signal.SIGTSTP)       # Ctrl-Z
    wait_for({"T"})
    child.send_signal(signal.SIGCONT)
    wait_for({"R", "S", "D"})
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, err) == (143, "") and out.count("stopped by SIGTERM") == 1


@pytest.mark.parametrize(("arguments", "said"), [
    (["--restarts", "1", "--resume", "x.h5"], "takes no --resume FILE"),
    (["--restarts", "1", "--resume", "auto"], "needs --out DIR"),
    (["--restarts", "1", "--launcher", "mpiexec -n '2"], "--launcher mpiexec -n '2: is no command"),
    (["--rank-timeout", "nan"], "--rank-timeout takes a number of seconds"),
    (["--launcher", "mpiexec -n 2"], "give both, or neither")])
def test_wrong_usage(tiny, minidrop, arguments, said):
    refused = minidrop("train", "--solver", tiny.solver, *arguments)
    assert refused.code == 2 and said in refused.err


def test_restarts_go_around_the_launcher(tiny, minidrop, monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "4")
    refused = minidrop("train", "--solver", tiny.solver, "--restarts", "2")
    assert refused.code == 2 and "--restarts 2 --launcher 'mpiexec -n 4'" in refused.err
