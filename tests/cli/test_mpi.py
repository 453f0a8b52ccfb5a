"""minidrop train as several processes that mpiexec started."""

import ctypes
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from minidrop.cli.ranks import PATIENCE
from minidrop.errors import ParallelError
from minidrop.solver.mpi import _interruptible, launch_line, launched_rank, launched_size, world

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120         # no training may take longer
DROPS = ("--dropout", "approx:PERIODIC", "--dtype", "float64")


@pytest.fixture(scope="module")
def mpiexec():
    """mpiexec(ranks, *arguments) -> a process that runs `minidrop arguments` on so many ranks, or `of` it."""
    pytest.importorskip("mpi4py", reason="mpi4py (the extra `mpi`) moves gradients between processes")
    program = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("there is no mpiexec (the extra `mpi` brings one)")

    def start(ranks, *arguments, of=("-m", "minidrop")):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINIDROP_DEBUG": "", "MINIDROP_THREADS": "1",
                       "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([program, "-n", str(ranks), sys.executable, *of,
                                 *map(str, arguments)], env=environment, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)
    return start


def finish(child):
    try:
        out, err = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        raise
    assert "Traceback" not in err, err
    return out, err


def test_two_ranks_train_as_one_process_and_a_third_helps_on(tiny, mpiexec, minidrop, weights_of):
    """Stopped by SIGTERM to mpiexec, which snapshots once, and resumed by another number of ranks."""
    file = tiny.folder / "net.prototxt"
    file.write_text(file.read_text().replace("batch_size: 8", "batch_size: 12"))
    assert minidrop("train", "--solver", tiny.solver, "--out", "one", *DROPS).code == 0
    expected = weights_of("one/snapshots/task_iter_40.h5")

    child = mpiexec(2, "train", "--solver", tiny.solver, "--out", "two", *DROPS, "--set", "snapshot=5",
                    "--set", "max_iter=100000", "--set", "test_interval=1000000")
    end = time.monotonic() + SECONDS
    while not Path("two/snapshots/task_iter_10.h5").exists():
        assert child.poll() is None and time.monotonic() < end, child.communicate()
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    out, err = finish(child)
    assert child.returncode == 143 and err == "" and out.count("stopped by SIGTERM after iteration") == 1
    assert "go on with: mpiexec -n 2 minidrop train" in out
    assert out.count("2 ranks on ") == 1 and out.count("each rank sends ") <= 1
    stopped = int(out.partition("stopped by SIGTERM after iteration ")[2].partition(";")[0])
    assert sorted(path.name for path in Path("two").iterdir()) == sorted(
        path.name for path in Path("one").iterdir())
    for path in Path("two/snapshots").glob("task_iter_*.h5"):
        assert int(path.stem.rpartition("_")[2]) in {*range(5, stopped, 5), stopped}

    start = "two/snapshots/task_iter_10.h5"
    child = mpiexec(3, "train", "--solver", tiny.solver, "--out", "three", *DROPS, "--resume", start)
    out, err = finish(child)
    said = "the solver's settings are not what they were"
    assert child.returncode == 0 and err.count("\n") == err.count(said) == 1
    assert out.splitlines()[-1].startswith("done: 30 iterations") and out.count("each rank sends ") == 1
    found = weights_of("three/snapshots/task_iter_40.h5")
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-10, err_msg=name)


DYING = """
import os
from minidrop.solver import loop
step = loop.Solver._step
def dying(solver):
    if solver.iteration == 3 and solver.ranks.rank == 1:
        raise MemoryError("no room for this rank")
    step(solver)
loop.Solver._step = dying
"""


def test_a_rank_that_dies_ends_all(tiny, mpiexec):
    """One rank fails where the others know nothing of it; their own errors are shown once."""
    Path("dying.py").write_text(DYING)
    began = time.monotonic()
    child = mpiexec(3, "--import", "dying.py", "train", "--solver", tiny.solver, "--out", "o",
                    "--set", "layer.data.hdf5_data_param.batch_size=12")
    out, err = finish(child)
    assert child.returncode == 1
    line, = (line for line in err.splitlines() if line.startswith("error: "))
    assert line.startswith("error: rank 1 on ") and "no room for this rank" in line
    assert time.monotonic() - began < SECONDS / 2 + PATIENCE


def test_an_error_of_all_ranks_is_shown_once(tiny, mpiexec):
    child = mpiexec(2, "train", "--solver", tiny.solver, "--out", "o", "--set",
                    "layer.data.hdf5_data_param.batch_size=9")
    out, err = finish(child)
    assert child.returncode == 1 and err.count("error: ") == 1
    assert "layer 'data' (HDF5Data): expected a batch of a multiple of 2 records" in err


def test_wrong_usage_is_shown_once(mpiexec):
    """It ends a rank before MPI is started: rank 0 shows it and ends the others."""
    child = mpiexec(3, "train", "--sover", "x")
    _, err = finish(child)
    assert child.returncode == 2 and err.count("No such option '--sover'") == 1


def test_devices(mpiexec):
    child = mpiexec(2, "devices", "--mpi")
    out, _ = finish(child)
    assert child.returncode == 0
    *ranks, link, way = out.splitlines()
    assert [line.partition(":")[0] for line in ranks] == ["rank 0 of 2", "rank 1 of 2"]
    assert re.fullmatch(r"between them: .*; a message takes \S+ us, and its bytes go at \S+ MB/s .*", link)
    assert way == "gradients travel from host to host, by MPI"


KILLED = """
import os, signal
from minidrop.solver import loop
step = loop.Solver._step
def dying(solver):
    if solver.iteration == 3 and solver.ranks.rank == RANK:
        os.kill(os.getpid(), signal.NAME)
    step(solver)
loop.Solver._step = dying
"""


@pytest.mark.parametrize(("name", "rank", "said"), [
    ("SIGSEGV", 1, r"was killed by SIGSEGV \(a crash, .*\) after iteration 3; go on with"),
    ("SIGSTOP", 0, "did not come within the 2 s that others waited: .* after iteration 3; go on with")],
    ids=["crash", "stop"])
def test_a_rank_that_is_killed_or_stopped_ends_all(tiny, mpiexec, name, rank, said):
    """One line says which, where, and what it did last."""
    Path("dying.py").write_text(KILLED.replace("NAME", name).replace("RANK", str(rank)))
    child = mpiexec(2, "--import", "dying.py", "train", "--solver", tiny.solver, "--out", "o",
                    "--rank-timeout", "2")
    _, err = finish(child)
    assert child.returncode == 1
    line, = (line for line in err.splitlines() if line.startswith("error: "))
    assert re.search(f"rank {rank} on {re.escape(platform.node())} {said}", line), line


def test_alone_or_together(tiny, minidrop, monkeypatch):
    """Processes of a launcher may each train a net of their own; and none need be there."""
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    refused = minidrop("train", "--solver", tiny.solver, "--out", "o")
    assert refused.code == 1 and "4 processes were started to train together" in refused.err
    assert minidrop("train", "--solver", tiny.solver, "--out", "o", "--no-mpi").code == 0
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    refused = minidrop("train", "--solver", tiny.solver, "--out", "p", "--mpi")
    assert refused.code == 1 and "no launcher started other processes" in refused.err


def test_an_error_of_one_rank_ends_a_program(tmp_path, mpiexec):
    """The others would wait for it as long as for a rank that hangs."""
    program = tmp_path / "program.py"
    program.write_text("""
import numpy as np
from minidrop.solver.mpi import world
ranks = world()
assert world().size == 2            # asking twice changes nothing
if ranks.rank == 1:
    raise ValueError("wrong on this rank alone")
ranks.gather(np.zeros(1))
""")
    started = time.monotonic()
    child = mpiexec(2, of=(program,))
    _, err = child.communicate(timeout=SECONDS)
    assert child.returncode == 1 and time.monotonic() - started < SECONDS / 2
    assert err.count("Traceback") == 1 and "ValueError: wrong on this rank alone" in err


def test_what_a_launcher_says():
    assert launched_size({}) == 1 and world({}).size == 1
    assert launched_size({"PMI_SIZE": "4"}) == launched_size({"OMPI_COMM_WORLD_SIZE": "4"}) == 4
    assert launched_size({"PMI_SIZE": "x"}) == 1
    assert launch_line(4, {"PMI_SIZE": "4"}) == "mpiexec -n 4"


def test_launchers_within_a_job_of_slurm():
    """srun starts ranks itself; mpiexec starts helpers through srun, one task a node, and they the ranks."""
    ranks = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
    assert launched_size(ranks) == 4 and launched_rank(ranks) == 3
    assert launch_line(4, {**ranks, "PMI_SIZE": "4", "PMI_RANK": "3"}) == "srun --mpi=pmi2 -n 4"
    ranks = {"PMI_HOSTNAME": "n2", "PMI_SIZE": "1", "PMI_RANK": "0",
             "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    assert launched_size(ranks) == 1 and launched_rank(ranks) == 0
    assert launch_line(1, ranks) == "mpiexec -n 1"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no limit of time is set on this system")
@pytest.mark.parametrize("seconds", [30, 1e20, float("inf"), -1])
def test_handlers_are_as_before_whatever_the_limit(seconds):
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGALRM
    before = [signal.getsignal(number) for number in numbers]
    with suppress(OSError), _interruptible(seconds):         # of a timer that takes no number below 0
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) is (seconds == 30)
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no handler is set on this system")
def test_a_library_that_takes_a_hang_up_gives_it_back():
    """MPICH takes SIGHUP when it starts: --sighup-effect did nothing on several ranks."""
    got = []
    before = signal.signal(signal.SIGHUP, lambda *_: got.append("SIGHUP"))
    try:
        with _interruptible(60):
            ctypes.CDLL(None).signal(signal.SIGHUP, ctypes.c_void_p(int(signal.SIG_IGN)))
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert got == ["SIGHUP"]


def test_without_mpi4py(monkeypatch):
    """Several processes must not each train alone, into one folder."""
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ParallelError, match="4 processes were started .*pip install 'minidrop.mpi.'"):
        world({"PMI_SIZE": "4"})
    assert world({"PMI_SIZE": "1"}).size == 1


def test_a_rank_that_waits_for_a_process_that_starts_no_mpi(tiny, mpiexec):
    """MPI has no limit of its own, and no handler of Python runs meanwhile."""
    Path("alone.py").write_text("import os, time\nfrom minidrop.solver import mpi\nmpi.STARTING = 0.2\n"
                                "if os.environ['PMI_RANK'] == '1':\n    time.sleep(60)\n")
    child = mpiexec(2, "--import", "alone.py", "train", "--solver", tiny.solver, "--rank-timeout", "0.2")
    _, err = finish(child)
    line, = (line for line in err.splitlines() if line.startswith("error: "))
    assert child.returncode == 1 and re.match(
        r"error: rank 0 on \S+ was killed by SIGALRM \(other processes of the launcher did not start MPI in "
        r"time: .*\) before it trained; ", line), line
