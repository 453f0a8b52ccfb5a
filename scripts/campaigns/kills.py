#!/usr/bin/env python
"""Trainings that are killed, stopped by signals or out of disk space go on as if nothing had been.

    python scripts/campaigns/kills.py --kind kill --count 100 --seed 1

A perceptron, an LSTM and one on sentences (runs/) train with shuffling, reading ahead, Adam, iter_size and
drops. Each trains once in peace and keeps all its snapshots. Then, in another folder, it is hit at random
moments and gone on with, again and again, and all snapshots and metrics there must equal those of peace, bit
for bit. Kinds:

    kill    SIGKILL
    signal  SIGTERM, SIGINT once, twice and often, SIGHUP: with their exit codes, and not a word on stderr;
            half of the trainings begin as in the background of a script, where a shell has SIGINT ignored
    disk    a small tmpfs for who may mount one, else a limit on the size of files: at most one error, and
            what is said names a file; then there is space again
    damage  snapshots cut off or with flipped bits: refused, and an older one is found

What is drawn depends on kind and seed alone, but not where it hits. Exit status 1, and the folder is kept,
where there was a fault.
"""

import argparse
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))      # minidrop, installed or not

RUNS = Path(__file__).resolve().parent / "runs"
TASKS = ("mlp", "lstm", "sentences")
SECONDS = 300           # after which a process hangs
AFTER = 0.5             # seconds of training within which it is hit
SIGNALS = {"SIGTERM": (signal.SIGTERM,), "SIGINT": (signal.SIGINT,), "SIGINT twice": (signal.SIGINT,) * 2,
           "SIGINT often": (signal.SIGINT,) * 6, "SIGHUP": (signal.SIGHUP,)}


class Fault(Exception):
    """Something that should not have been."""


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="all", help=f"{', '.join(KINDS)}, or all of them")
    parser.add_argument("--count", type=int, default=100, help="hits of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--set", action="append", default=[], help="for the solver: max_iter=100")
    parser.add_argument("--keep", type=Path, default=Path("kills"), help="folder for what had a fault")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # no disk stays mounted
    os.environ["MINIDROP_TRUST_DATA"] = "1"     # no process that tries each snapshot: it is compared anyway
    kinds = list(KINDS) if options.kind == "all" else [options.kind]
    with tempfile.TemporaryDirectory() as folder:
        tasks = [Task(Path(folder) / name, name, options.set) for name in options.tasks.split(",")]
        return int(any([campaign(options, tasks, kind) for kind in kinds]))


def campaign(options, tasks, kind):
    """Hit the tasks in turn and print a line; returns how many faults there were."""
    rng, told, faults = random.Random(f"{options.seed} {kind}"), Counter(), 0
    for number in range(options.count):
        task = tasks[number % len(tasks)]
        try:
            told[KINDS[kind](task, rng)] += 1
        except Fault as fault:
            faults += 1
            kept = options.keep / f"{kind}_{options.seed}_{number}"
            shutil.copytree(task.folder, kept, dirs_exist_ok=True)
            print(f"{kind} {number}, {task.name}: {fault}; kept in {kept}", flush=True)
            task.begin_anew()
    for task in tasks:
        try:
            task.finish()
        except Fault as fault:
            faults += 1
            print(f"{kind}, {task.name}, gone on with to the end: {fault}", flush=True)
    compared = sum(task.compared for task in tasks)
    print(f"{kind}: {options.count} hits of seed {options.seed} on {', '.join(task.name for task in tasks)}: "
          f"{', '.join(f'{count} {what}' for what, count in sorted(told.items()))}; {compared} snapshots "
          f"compared; {faults} faults", flush=True)
    return faults


class Task:
    """One net: how it trained in peace, and a folder in which it is hit. `launcher`: of its ranks."""

    launcher: tuple[str, ...] = ()

    def __init__(self, folder, name, settings):
        self.folder, self.name, self.settings = folder, name, settings
        self.peace, self.hit, self.compared = folder / "peace", folder / "hit", 0
        folder.mkdir()
        write_data(folder)
        shutil.copy(RUNS / f"{name}.prototxt", folder / "net.prototxt")
        text = (RUNS / "solver.prototxt").read_text()
        if name != "mlp":                                       # which alone has a test net
            text = re.sub("test_.*", "", text)
        (folder / "run.prototxt").write_text(f'net: "net.prototxt" {text}')
        code, err = finished(self.start("peace"))
        if code or err:
            raise SystemExit(f"{name}: does not even train in peace: {err}")
        self.begin_anew()

    def begin_anew(self):
        for path in self.hit.glob("*"):         # the folder itself may be a disk of its own
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.seen = set()

    def start(self, out="hit", more=(), launcher=None, **options):
        settings = [part for setting in self.settings for part in ("--set", setting)]
        command = [*(self.launcher if launcher is None else launcher), sys.executable, "-u", "-m", "minidrop",
                   "train", "--solver", "run.prototxt", "--out", out, "--resume", "auto", "--device", "cpu",
                   *settings, *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINIDROP_THREADS": "1",
                       "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MINIDROP_TRUST_DATA": "0"}
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **options)

    def snapshots(self, run):
        return {path.name: path for path in (run / "snapshots").glob("*.h5")}

    def compare(self):
        """Compare every snapshot that is new in `hit` with that of its iteration in peace, if any."""
        wanted = self.snapshots(self.peace)
        for name, path in self.snapshots(self.hit).items():
            key = name, path.stat().st_mtime_ns
            if name in wanted and key not in self.seen:
                if contents(path) != contents(wanted[name]):
                    raise Fault(f"{name} is not what it is in peace")
                self.seen.add(key)
                self.compared += 1

    def after(self, code):
        """Compare what a hit left. Where the run had ended (code 0) before, say so and begin another one."""
        self.compare()
        if code:
            return ""
        if max(self.snapshots(self.peace), key=iteration_of) not in self.snapshots(self.hit):
            raise Fault("it ended before its end")
        if (self.hit / "metrics.jsonl").read_bytes() != (self.peace / "metrics.jsonl").read_bytes():
            raise Fault("metrics.jsonl is not what it is in peace")
        if left := [path.name for path in self.hit.rglob("*.part")]:
            raise Fault(f"left behind: {left}")
        self.begin_anew()
        return "too late"

    def finish(self):
        """Go on to the end without a hit, and compare."""
        if self.hit.exists():
            expect(finished(self.start()), 0)
            self.after(0)


def write_data(folder):
    import h5py
    import numpy as np

    rng = np.random.default_rng(0)
    for i in range(2):
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file["data"] = rng.normal(size=(25, 9)).astype(np.float32)
            file["label"] = rng.integers(3, size=25)
    (folder / "list.txt").write_text("0.h5\n1.h5\n")
    words = [f"w{int(number)}" for number in rng.geometric(0.2, 400)]
    cuts = np.cumsum(rng.integers(2, 9, 70))
    (folder / "text.txt").write_text("".join(
        word + ("\n" if i in cuts else " ") for i, word in enumerate(words)) + "\n")


def contents(path):
    from minidrop.snapshot import read_snapshot

    snapshot = read_snapshot(path)
    snapshot.attrs.pop("run", "")           # its name: the one thing in which two runs differ
    return snapshot.attrs, {key: (array.dtype, array.shape, array.tobytes())
                            for key, array in snapshot.arrays.items()}


def iteration_of(name):
    return int(re.search(r"_iter_(\d+)", name)[1])


# -- processes -----------------------------------------------------------------------------------------------
def finished(child):
    """Return (exit code, what it said on stderr) of a process; that nothing is left to train is no news."""
    try:
        _, err = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise Fault("it hangs") from None
    return child.returncode, re.sub("warning: nothing is left to train.*\n", "", err)


def expect(found, code, err=""):
    if found != (code, err):
        raise Fault(f"expected exit code {code} and {err!r}, got {found[0]} and {found[1]!r}")


def wait_until_it_trains(child):
    watch = threading.Timer(SECONDS, child.kill)
    watch.start()
    for line in child.stdout:
        if "training to iteration" in line:
            break
    watch.cancel()


def struck(task, rng, numbers, early=False, background=False):
    """Start a task, send it signals at a random moment after it begins to train (early: to start)."""
    handler = signal.SIG_IGN if background else signal.SIG_DFL      # however this process was started
    child = task.start(preexec_fn=lambda: signal.signal(signal.SIGINT, handler))
    if not early:
        wait_until_it_trains(child)
    time.sleep(rng.uniform(0, AFTER))
    for number in numbers:
        if child.poll() is None:
            child.send_signal(number)
            time.sleep(rng.choice((0, 0.0005, 0.002, 0.005, 0.01)))
    return child


# -- kinds: each hits a task once and says in some words how it went -----------------------------------------
def kill(task, rng):
    early = rng.random() < 0.2
    code, err = finished(struck(task, rng, (signal.SIGKILL,), early))
    expect((code, err), code and -signal.SIGKILL)
    return task.after(code) or ("while starting" if early else "while training")


def stop(task, rng):
    name = rng.choice(sorted(SIGNALS))
    background = rng.random() < 0.5
    child = struck(task, rng, SIGNALS[name], background=background)
    if name == "SIGHUP":            # it goes on
        time.sleep(0.05)
        wanted = -signal.SIGKILL if child.poll() is None else 0
        child.kill()
    else:
        wanted = 128 + SIGNALS[name][0]
    code, err = finished(child)
    expect((code, err), code and wanted)
    return task.after(code) or name + " in the background" * background


def fill(task, rng):
    """Give it as much space as it has already, and a bit more; then space again."""
    size = sum(path.stat().st_size for path in task.peace.rglob("*") if path.is_file())
    space = int(rng.uniform(0, 1) * size)
    task.begin_anew()
    task.hit.mkdir(exist_ok=True)
    mounted = not subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(4096, space)}", "none", task.hit],
                                 stderr=subprocess.DEVNULL).returncode
    largest = max(path.stat().st_size for path in task.peace.rglob("*.h5"))

    def limit():
        space = rng.randrange(int(1.2 * largest))
        resource.setrlimit(resource.RLIMIT_FSIZE, (space, resource.RLIM_INFINITY))

    try:
        code, err = finished(task.start(preexec_fn=None if mounted else limit))
        errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
        if code not in (0, 1) or len(errors) != code or any("hit" not in line for line in err.splitlines()):
            raise Fault(f"expected one error, and files by their names; got exit code {code} and {err!r}")
        task.compare()
        if mounted:
            subprocess.run(["mount", "-o", f"remount,size={2 * size + (1 << 20)}", task.hit], check=True)
        task.finish()
    finally:
        if mounted:
            subprocess.run(["umount", task.hit], check=True)
    return f"ended with {'an error' if code else 'warnings' if err else 'nothing said'} " \
           f"({'tmpfs' if mounted else 'limit'})"


def damage(task, rng):
    from minidrop.errors import SnapshotError
    from minidrop.snapshot import newest_valid, read_snapshot

    folder = task.folder / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    whole = task.snapshots(task.peace)
    older, newer = sorted(rng.sample(sorted(whole, key=iteration_of), 2), key=iteration_of)
    for name in (older, newer):
        shutil.copy(whole[name], folder / name)
    content = bytearray(whole[newer].read_bytes())
    cut = rng.random() < 0.5
    if cut:
        del content[rng.randrange(len(content)):]
    else:
        for place in rng.sample(range(len(content)), rng.choice((1, 1, 2, 4))):
            content[place] ^= 1 << rng.randrange(8)
    (folder / newer).write_bytes(content)
    try:
        read_snapshot(folder / newer)
    except SnapshotError as error:
        if "\n" in str(error):
            raise Fault(f"more than a line: {error}") from None
    else:
        raise Fault("a damaged snapshot was read")
    if newest_valid(folder) != folder / older:
        raise Fault("the older snapshot was not found")
    return "cut off" if cut else "with flipped bits"


KINDS = {"kill": kill, "signal": stop, "disk": fill, "damage": damage}

if __name__ == "__main__":
    sys.exit(main())
