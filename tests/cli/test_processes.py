"""minidrop as a process of its own: signals, kill -9, pipes, the exit codes a shell sees."""

import os
import random
import shlex
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from prepared import start_minidrop

fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")       # needs POSIX

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 180         # no child may take longer


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "MINIDROP_DEBUG": "", "MINIDROP_THREADS": "1",
            "OMP_NUM_THREADS": "1"}


def start_anew(*arguments, **options):
    """Start one that has nothing loaded yet, where that is what a test is about."""
    return subprocess.Popen([sys.executable, "-m", "minidrop", *map(str, arguments)], env=environment(),
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def finish(child):
    out, err = child.communicate(timeout=SECONDS)
    assert "Traceback" not in err
    return out, err


def wait_for(child, path):
    """Wait until the child has written `path`."""
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def train(tiny, out, *more):
    return start_minidrop("train", "--solver", tiny.solver, "--out", out, *more)


LONG = ("--set", "max_iter=1000000", "--set", "display=0", "--set", "test_interval=0", "--set", "snapshot=50",
        "--set", "snapshot_keep=2")


def test_end_to_end(tiny, minidrop):
    """On the CPU, which is what the solver file asks for, nobody waits for CuPy."""
    show = 'import atexit, sys\natexit.register(lambda: print("cupy" in sys.modules))\n'
    Path("loaded.py").write_text(show)
    child = start_anew("--import", "loaded.py", "train", "--solver", tiny.solver, "--out", "o")
    out, err = finish(child)
    assert child.returncode == 0 and err == ""
    done, loaded = out.splitlines()[-2:]
    assert done.startswith("done: 40 iterations") and loaded == "False"
    done = minidrop("-model", tiny.net, "-weights", "o/snapshots/task_iter_40.h5", "test")
    assert done.code == 0 and "accuracy = " in done.out


def test_an_interrupt_while_the_package_is_imported():
    """As users press it who see a mistake in what they have just typed."""
    code = """if True:
        import os, signal, sys
        class Interrupt:
            def find_spec(self, name, path=None, target=None):
                if name == "numpy": os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Interrupt())
        import minidrop_command
        minidrop_command.main()"""
    done = subprocess.run([sys.executable, "-c", code, "--version"], env=environment(), capture_output=True,
                          text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped by SIGINT\n")


def test_the_installed_script(tiny):
    """The console script that pip made trains."""
    script = Path(sys.executable).with_name("minidrop")
    if not script.exists():
        pytest.skip("minidrop is not installed beside this Python: no console script to run")
    done = subprocess.run([script, "train", "--solver", tiny.solver, "--out", "o"], env=environment(),
                          capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "") and "done: 40 iterations" in done.stdout
    assert (tiny.path / "o/snapshots/task_iter_40.h5").exists()


@pytest.mark.parametrize("options", [
    (), pytest.param(("--dropout", "conventional", "--set", "type=Adam", "--set", "momentum=0.9"),
                     marks=pytest.mark.full)])
def test_kill_at_a_random_moment_and_resume(tiny, weights_of, options):
    settings = (*options, "--set", "max_iter=500", "--set", "snapshot=50", "--set", "display=7", "--set",
                "average_loss=10", "--set", "test_interval=70", "--set", "snapshot_best=accuracy")
    whole = train(tiny, "whole", *settings)
    finish(whole)
    assert whole.returncode == 0
    seed = random.SystemRandom().randrange(10**6)
    print("moments drawn with", seed)
    moments, kills = random.Random(seed), 0
    for _ in range(2):
        child = train(tiny, "killed", *settings, "--resume", "auto")
        wait_for(child, tiny.path / "killed/snapshots/task_iter_50.h5")
        time.sleep(moments.uniform(0, 0.15) + 0.4 * kills)           # a resumed one has to start first
        child.kill()
        child.communicate(timeout=SECONDS)
        kills += child.returncode == -signal.SIGKILL
    last = train(tiny, "killed", *settings, "--resume", "auto")
    out, _ = finish(last)
    assert last.returncode == 0 and kills
    assert "going on at iteration " in out
    for name in ("task_iter_500.h5", "task_best.h5"):
        a, b = (weights_of(tiny.path / run / "snapshots" / name) for run in ("whole", "killed"))
        assert set(a) == set(b) and all(a[key].tobytes() == b[key].tobytes() for key in a)
    assert (tiny.path / "killed/metrics.jsonl").read_bytes() == (tiny.path
                                                                 / "whole/metrics.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_signal_snapshots_and_says_how_to_go_on(tiny, minidrop, weights_of, name):
    child = train(tiny, "o o", *LONG)
    wait_for(child, tiny.path / "o o/snapshots/task_iter_50.h5")
    child.send_signal(getattr(signal, name))
    out, err = finish(child)
    assert child.returncode == 128 + getattr(signal, name)
    assert err == ""
    stopped, again = out.splitlines()[-2:]
    assert stopped.startswith(f"stopped by {name} after iteration ")
    iteration = int(stopped.split("iteration ")[1].split(";")[0])
    assert stopped.endswith(f"snapshot o o/snapshots/task_iter_{iteration}.h5")
    assert (tiny.path / f"o o/snapshots/task_iter_{iteration}.h5").exists()
    command = shlex.split(again.removeprefix("go on with: "))
    assert command[0] == "minidrop"
    if name == "SIGTERM":       # it has stopped in the same way, so it goes on in the same way
        return
    # The printed command goes on where the run stopped, and the end equals that of a run that was never
    # stopped.
    child = start_minidrop(*command[1:], "--set", f"max_iter={iteration + 30}")
    out, _ = finish(child)
    assert child.returncode == 0 and f"going on at iteration {iteration} from " in out
    done = minidrop("train", "--solver", tiny.solver, "--out", "whole", *LONG, "--set",
                    f"max_iter={iteration + 30}")
    assert done.code == 0
    a, b = (weights_of(tiny.path / run / f"snapshots/task_iter_{iteration + 30}.h5")
            for run in ("o o", "whole"))
    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_sighup_snapshots_and_goes_on(tiny):
    child = train(tiny, "o", *LONG, "--set", "snapshot=0", "--set", "test_initialization=true")
    wait_for(child, tiny.path / "o/metrics.jsonl")
    time.sleep(0.2)
    child.send_signal(signal.SIGHUP)
    end = time.monotonic() + SECONDS
    while not list((tiny.path / "o").glob("snapshots/task_iter_*.h5")):
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.1)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    finish(child)
    assert child.returncode == 130
    assert len(list((tiny.path / "o").glob("snapshots/task_iter_*.h5"))) == 2


def test_signal_effects_can_be_chosen(tiny):
    child = train(tiny, "o", *LONG, "--set", "snapshot=0", "-sigint_effect", "none", "-sighup_effect=stop")
    wait_for(child, tiny.path / "o/metrics.jsonl")
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert child.poll() is None
    child.send_signal(signal.SIGHUP)
    out, _ = finish(child)
    assert child.returncode == 128 + signal.SIGHUP and "stopped by SIGHUP" in out


def test_a_second_interrupt_stops_at_once(tiny):
    """Here in the background of a script, where a shell lets it ignore Ctrl-C, and `kill -INT` is meant."""
    # One iteration takes minutes here; the first signal waits for its end, the second does not.
    child = start_anew("train", "--solver", tiny.solver, "--out", "o", "--set", "iter_size=100000000",
                       preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    wait_for(child, tiny.path / "o/metrics.jsonl")
    # the test at iteration 0, which comes right before it
    while not (tiny.path / "o/metrics.jsonl").read_text():
        assert child.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, err = finish(child)
    assert (child.returncode, err) == (130, "")
    assert not (tiny.path / "o/snapshots").exists()


def test_two_processes_do_not_share_a_run_folder(tiny):
    first = train(tiny, "o", *LONG)
    try:
        wait_for(first, tiny.path / "o/snapshots/task_iter_50.h5")
        second = train(tiny, "o", *LONG, "--resume", "auto")
        _, err = finish(second)
        assert second.returncode == 1
        assert "error: --out o: another minidrop train is running in this folder" in err
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


def test_mistakes_and_broken_pipes_are_quiet(tiny):
    (tiny.folder / "typo.prototxt").write_text('net: "net.prototxt"\nbase_lrr: 0.1\n')
    child = start_minidrop("train", "--solver", "task/typo.prototxt")
    _, err = finish(child)
    assert child.returncode == 1
    assert (err == "error: task/typo.prototxt:2:1: SolverParameter has no field 'base_lrr'; did you mean "
            "'base_lr'?\n")
    child = train(tiny, "o", *LONG, "--set", "display=1")
    child.stdout.close()
    assert child.wait(SECONDS) == 1
    assert child.stderr.read() == ""
    child.stderr.close()


def on_terminal(columns, *arguments):
    """Run minidrop on a terminal of so many columns; returns (exit code, everything it drew)."""
    parent, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    # Started anew: a copy of a process that has loaded everything trains in less time than a bar waits.
    child = subprocess.Popen([sys.executable, "-m", "minidrop", *arguments], env=environment(),
                             stdout=terminal, stderr=terminal, stdin=terminal)
    os.close(terminal)
    text = b""
    while True:
        try:
            piece = os.read(parent, 4096)
        except OSError:         # Linux's end of file on a terminal
            break
        if not piece:
            break
        text += piece
    os.close(parent)
    return child.wait(SECONDS), text.decode()


def test_a_terminal_gets_a_bar(tiny):
    code, text = on_terminal(110, "train", "--solver", tiny.solver)
    assert code == 0
    assert "40/40 [" in text and "iter/s" in text and "loss=" in text and "lr=0.05" in text
    assert "Iteration 20, Testing net (#0): " in text and "Iteration 25" not in text
    code, text = on_terminal(0, "train", "--solver", tiny.solver)       # it does not say how wide it is
    assert code == 0
    assert "40/40" not in text and "Iteration 25" in text


def test_many_interrupts_end_it_at_once_and_print_nothing(tiny):
    """While it writes one snapshot after the other, most of the time inside HDF5."""
    child = train(tiny, "o", *LONG, "--set", "snapshot=1")
    wait_for(child, tiny.path / "o/snapshots/task_iter_5.h5")
    for _ in range(6):
        child.send_signal(signal.SIGINT)
        time.sleep(0.001)
    out, err = finish(child)
    assert (child.returncode, err) == (130, "")
    assert [path.name for path in (tiny.path / "o").rglob("*.part")] == []


LATE = """
import os, signal, sys
from minidrop.cli import main

class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)

sys.late = Late()       # dies with sys, when Python's own handlers of signals are gone
sys.argv[0] = "minidrop"
main()
"""


@pytest.mark.parametrize("argument, code", [("--version", 0), ("trian", 2)])
def test_sigint_while_python_ends_leaves_the_exit_code_as_it_is(argument, code):
    done = subprocess.run([sys.executable, "-c", LATE, argument], env=environment(), capture_output=True,
                          timeout=SECONDS)
    assert done.returncode == code
