#!/usr/bin/env python
"""Ranks that are killed, stopped, or lose their disk or data all end, and go on as if nothing had been.

    python scripts/campaigns/rank_kills.py --ranks 3 --count 100 --seed 1

A perceptron (runs/mlp.prototxt) trains once in peace with so many ranks and keeps all its snapshots. Then, in
another folder, one rank or what all of them need is hit at a random moment, and they go on, again and again.
After each hit all ranks must have ended within seconds, with exit code 1 and one line that begins with
"error: " and says what was hit; and all snapshots and metrics must equal those of peace, bit for bit. Kinds:

    kill     SIGKILL of a rank                  segv     SIGSEGV of a rank
    hang     SIGSTOP of a rank, with --rank-timeout 2
    disk     a small tmpfs, for who may mount one; then there is space again
    data     the data files are cut off, or gone; then they are back
    signal   SIGTERM to one rank, or to the launcher: exit code 143 and one snapshot more
    restart  SIGKILL of a rank of a training with --restarts 2, which goes on by itself

Hit number i of a seed is the same whatever was hit before, so that a campaign can be run in parts (--first).
--results adds a line of JSON for each hit to a file; what is in it without a fault is not hit again, so that
the same command goes on where it was stopped. --slow 5 gives everything five times as long, for a machine
that does much else. Exit status 1 where there was a fault.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kills import (  # noqa: E402
    SECONDS,
    Fault,
    Task,
    finished,
    iteration_of,
    wait_until_it_trains,
    write_data,
)

TIMEOUT = 2             # seconds, of --rank-timeout
LONGEST = 0.05          # seconds after a snapshot within which a hit comes
WITHIN = 20             # seconds within which all must have ended, on a busy machine
# What launchers say of their own.
_LAUNCHER = re.compile(r"=+|YOUR APPLICATION .*|This typically refers .*|Please see the FAQ .*|Abort\(1\).*|"
                       r"\[?(mpiexec|proxy).*|warning: nothing is left to train.*|")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help="taken in turn [default: all of them]")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the number of the first hit")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no hit after so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", type=float, default=1)
    parser.add_argument("--set", action="append", default=[], help="for the solver: max_iter=100")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--keep", type=Path, default=Path("kills"), help="folder for what had a fault")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["MINIDROP_TRUST_DATA"] = "1"     # no process that tries each snapshot: it is compared anyway
    with tempfile.TemporaryDirectory() as folder:
        return int(campaign(options, RankTask(Path(folder) / "mlp", options.ranks, options.set,
                                              options.slow)) > 0)


def campaign(options, task):
    """Hit the task again and again and print a line; returns how many faults there were."""
    kinds, told, faults, began = options.kinds.split(","), Counter(), 0, time.monotonic()
    known, hits = well(options), 0
    for number in range(options.first, options.first + options.count):
        if number in known:
            continue
        if time.monotonic() - began > options.seconds:
            break
        hits += 1
        kind, said, begin = kinds[number % len(kinds)], "", time.monotonic()
        try:
            how = KINDS[kind](task, random.Random(f"{options.seed} {number}"))
            told[f"{kind}: {how}"] += 1
        except Fault as fault:
            faults += 1
            how, said = "fault", str(fault)
            kept = options.keep / f"{kind}_{options.seed}_{number}"
            shutil.copytree(task.folder, kept, dirs_exist_ok=True)
            print(f"{kind} {number}: {fault}; kept in {kept}", flush=True)
            task.begin_anew()
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps({"number": number, "seed": options.seed, "ranks": task.ranks,
                                       "kind": kind, "how": how, "fault": said, "error": task.error,
                                       "seconds": round(time.monotonic() - begin, 2)}) + "\n")
    try:
        task.finish()
    except Fault as fault:
        faults += 1
        print(f"gone on with to the end: {fault}", flush=True)
    print(f"{hits} hits of seed {options.seed} on {task.ranks} ranks: "
          f"{', '.join(f'{count} {what}' for what, count in sorted(told.items()))}; {task.compared} "
          f"snapshots compared; {faults} faults", flush=True)
    return faults


def well(options):
    """Return the numbers of the hits that --results has without a fault."""
    if options.results is None or not options.results.exists():
        return set()
    found = map(json.loads, options.results.read_text().splitlines())
    return {one["number"] for one in found
            if (one["seed"], one["ranks"], one["fault"]) == (options.seed, options.ranks, "")}


class RankTask(Task):
    """A perceptron that several ranks train. slow: how many times as long everything may take."""

    def __init__(self, folder, ranks, settings, slow=1):
        self.ranks, self.slow, self.error = ranks, slow, ""
        self.launcher = (mpiexec() or sys.exit("there is no mpiexec (the extra `mpi` brings one)"), "-n",
                         str(ranks))
        super().__init__(folder, "mlp", ["layer.data.hdf5_data_param.batch_size=12", *settings])

    def start(self, *arguments, **options):
        self.error = ""
        return super().start(*arguments, **options)

    def end(self, child, code, says):
        """Wait until all ranks have ended, as they should: with an exit code, and one error that `says` this.

        Returns whether they had ended in peace before.
        """
        begin = time.monotonic()
        watched = family(child.pid)
        found, err = finished(child)
        if time.monotonic() - begin > WITHIN * self.slow:
            raise Fault(f"it took {time.monotonic() - begin:.0f} s to end")
        lines = [line for line in err.splitlines() if not _LAUNCHER.fullmatch(line)]
        self.error = "\n".join(lines)
        if found == 0 and code:
            code, says = 0, None
        if found != code or len(lines) != (says is not None) or not all(
                line.startswith("error: ") and re.search(says, line) for line in lines):
            wanted = "nothing" if says is None else f"one error, {says!r}"
            raise Fault(f"expected exit code {code} and {wanted}; got {found} and {err!r}")
        until = time.monotonic() + WITHIN * self.slow / 4
        while left := [pid for pid in watched if alive(pid)]:
            if time.monotonic() > until:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                raise Fault(f"{len(left)} processes are left")
            time.sleep(0.01)
        return self.after(found)


def mpiexec():
    """Return the path of the launcher, or None."""
    return shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


# -- processes -----------------------------------------------------------------------------------------------
def family(pid):
    """Return a process and all that it started, as a list of their numbers."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, path.read_text().split())
            except OSError:         # it has ended meanwhile
                continue
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ranks_of(pid):
    """Return {rank: pid} of the processes that train below a launcher: those that guards watch."""
    found = {}
    for one in family(pid):
        try:
            environment = Path(f"/proc/{one}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = next((int(text[9:]) for text in environment if text.startswith(b"PMI_RANK=")), None)
        if rank is not None:        # the innermost is the last that is found
            found[rank] = one
    return found


def trained(task, rng, **options):
    """Start the task and let it train until a random moment; returns (its process, the pids of its ranks)."""
    until = newest(task) + rng.choice((-1, *range(0, 70, 10)))
    child = task.start(**options)
    wait_until_it_trains(child)
    end = time.monotonic() + SECONDS
    while newest(task) < until and child.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(rng.choice((0, rng.uniform(0, LONGEST))))
    return child, ranks_of(child.pid)


def newest(task):
    """Return the iteration of the newest snapshot."""
    return max(map(iteration_of, task.snapshots(task.hit)), default=0)


# -- kinds: each hits the task once and says in some words how it went ---------------------------------------
def hit_by(number, says, timeout=None):
    def hit(task, rng):
        limit = timeout and f"{timeout * task.slow:g}"
        child, ranks = trained(task, rng, more=("--rank-timeout", limit) if limit else ())
        rank = rng.randrange(task.ranks)
        if rank not in ranks:
            return task.end(child, 0, None)         # too late
        strike(ranks[rank], number)
        return task.end(child, 1, f"rank {rank} on {re.escape(platform.node())} "
                        f"{says.format(limit)}") or "while training"
    return hit


def strike(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:      # too late
        return


def full_disk(task, rng):
    # Not a limit on the size of files, which would hit what MPI shares between processes as well.
    size = sum(path.stat().st_size for path in task.peace.rglob("*") if path.is_file())
    task.begin_anew()
    task.hit.mkdir(exist_ok=True)
    space = max(4096, int(rng.uniform(0, 1) * size))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={space}", "none", task.hit],
                      stderr=subprocess.DEVNULL).returncode:
        return "no disk may be mounted"
    try:
        code, err = finished(task.start())
        lines = [line for line in err.splitlines() if not _LAUNCHER.fullmatch(line)]
        errors = [line for line in lines if line.startswith("error: ")]
        task.error = "\n".join(lines)
        if code not in (0, 1) or len(errors) != code or any("hit" not in line for line in lines):
            raise Fault(f"expected one error, and files by their names; got exit code {code} and {err!r}")
        task.compare()
        subprocess.run(["mount", "-o", f"remount,size={2 * size + (1 << 20)}", task.hit], check=True)
        task.finish()
    finally:
        subprocess.run(["umount", task.hit], check=True)
    return "an error" if errors else "warnings" if lines else "too late"


def no_data(task, rng):
    child, _ = trained(task, rng)
    for path in task.folder.glob("?.h5"):
        if cut := rng.random() < 0.5:
            os.truncate(path, rng.randrange(path.stat().st_size))
        else:
            path.unlink()
    try:
        return task.end(child, 1, r"\d\.h5") or f"the last file {'cut off' if cut else 'gone'}"
    finally:
        write_data(task.folder)


def stop(task, rng):
    child, ranks = trained(task, rng)
    whom = rng.choice(["launcher", *ranks])
    before = set(task.snapshots(task.hit))
    strike(child.pid if whom == "launcher" else ranks[whom], signal.SIGTERM)
    too_late = task.end(child, 143, None)
    after = set(task.snapshots(task.hit)) - before
    if not too_late and len([name for name in after if iteration_of(name) % 10]) > 1:
        raise Fault(f"more than one snapshot was written for a signal: {sorted(after)}")
    return too_late or ("SIGTERM to the launcher" if whom == "launcher" else "SIGTERM to a rank")


def restart(task, rng):
    task.begin_anew()
    more = "--restarts", "2", "--launcher", " ".join(task.launcher)
    child, ranks = trained(task, rng, more=more, launcher=())
    if ranks:
        strike(rng.choice(list(ranks.values())), signal.SIGKILL)
    code, err = finished(child)
    again = "warning: the training ended with exit code 1; restart 1 of 2" in err
    task.error = err
    if code or (again and "was killed by SIGKILL" not in err):
        raise Fault(f"expected exit code 0, got {code} and {err!r}")
    task.after(0)
    return "went on" if again else "too late"


# A rank may be hit in its first iteration.
WHEN = r"(?:after iteration \d+|before it trained)"
KINDS = {"kill": hit_by(signal.SIGKILL, f"was killed by SIGKILL .* {WHEN}"),
         "hang": hit_by(signal.SIGSTOP, "did not come within the {} s", TIMEOUT),
         "disk": full_disk, "data": no_data, "signal": stop,
         "segv": hit_by(signal.SIGSEGV, f"was killed by SIGSEGV .* {WHEN}"), "restart": restart}

if __name__ == "__main__":
    sys.exit(main())
