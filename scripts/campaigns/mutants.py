#!/usr/bin/env python
"""Thousands of damaged files: minidrop reads each or says in one line what is wrong, and nothing else.

    python scripts/campaigns/mutants.py --kind hdf5 --count 10000 --seed 1

A mutant is a function of (kind, seed, number) alone. A process reads them one after the other, with a limit
on its memory, and is watched: what kills it, hangs it or raises anything but a MinidropError is a fault, and
its files are kept in --keep. HDF5 files are read without the process that minidrop first tries them in; what
crashes or hangs is tried again with it, and is a fault if it still does. Exit status 1 where there was one.
"""

import argparse
import contextlib
import importlib
import json
import logging
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))      # minidrop, installed or not

MEMORY = 3 << 30        # more than all limits on data together


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="all", help="one of KINDS, or all of them")
    parser.add_argument("--count", type=int, default=1000, help="mutants of each kind")
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10, help="that one mutant may take")
    parser.add_argument("--keep", type=Path, default=Path("mutants"), help="folder for those with a fault")
    parser.add_argument("--kinds", default="kinds", help="the module that has KINDS")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options)
    kinds = importlib.import_module(options.kinds).KINDS if options.kind == "all" else [options.kind]
    return int(any([campaign(options, kind) for kind in kinds]))


def campaign(options, kind):
    """Try all mutants of a kind and print a line; returns how many faults there were."""
    outcomes, slowest, peak, faults = Counter(), (0.0, options.first), 0, 0
    number, end, told = options.first, options.first + options.count, set()
    while number < end:
        for report in watched(options, kind, number, end):
            number = report["number"] + 1
            again = None
            if report["outcome"] in ("crash", "hang"):
                again, = watched(options, kind, report["number"], number, MINIDROP_TRUST_DATA="0")
                outcomes["stopped by the probe"] += again["outcome"] == "refused"
            report = again or report
            slowest = max(slowest, (report.get("seconds", 0), report["number"]))
            peak = max(peak, report.get("peak", 0))
            outcomes[report["outcome"]] += 1
            if report["outcome"] not in ("read", "refused"):
                faults += 1
                folder = kept(options, kind, report["number"])
                trace = report.get("trace", "")
                print(f"{kind} {report['number']}: {report['outcome']}, kept in {folder}", flush=True)
                place = "".join(line for line in trace.split("\n") if line.startswith("  File"))
                if place not in told:           # the first of its kind
                    print(trace, flush=True)
                told.add(place)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{kind}: {options.count} mutants of seed {options.seed}: {counts}; the slowest {slowest[0]:.1f} s "
          f"(number {slowest[1]}), at most {peak >> 20} MiB more memory", flush=True)
    return faults


def watched(options, kind, first, end, **environment):
    """Yield a report for each mutant, from a process that reads them; the last one if it dies or hangs."""
    command = [sys.executable, __file__, "--worker", "--kind", kind, "--kinds", options.kinds,
               "--seed", str(options.seed), "--seconds", str(options.seconds),
               "--first", str(first), "--count", str(end - first)]
    environment = {**os.environ, "MINIDROP_TRUST_DATA": "1", "OPENBLAS_NUM_THREADS": "1",
                   "MINIDROP_THREADS": "1", **environment}
    # It says so when it has started, which may take long where much else runs.
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, bufsize=0) as child:
        buffer, number, patience = b"", first, 300
        try:
            while number < end:
                ready, _, _ = select.select([child.stdout], [], [], patience)
                piece = os.read(child.stdout.fileno(), 1 << 16) if ready else b""
                if not piece:
                    yield {"number": number, "outcome": "crash" if ready else "hang",
                           "trace": f"exit status {child.wait()}" if ready else ""}
                    return
                patience = options.seconds
                *lines, buffer = (buffer + piece).split(b"\n")
                for report in map(json.loads, filter(None, lines)):
                    number = report["number"] + 1
                    yield report
        finally:
            child.kill()


def kept(options, kind, number):
    """Write the files of a mutant once more, for who looks into it; returns their folder."""
    folder = options.keep / f"{kind}_{options.seed}_{number}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as whole:
        make = importlib.import_module(options.kinds).KINDS[kind](Path(whole))
        write(make.mutant(mutation(options.seed, kind, number)), folder)
    return folder


def mutation(seed, kind, number):
    return random.Random(f"{seed} {kind} {number}")


def write(files, folder):
    for name, content in files.items():
        (folder / name).write_bytes(content)


# -- the process that reads ----------------------------------------------------------------------------------
def work(options):
    logging.disable()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        module = importlib.import_module(options.kinds)
        os.chdir(folder)
        kind = module.KINDS[options.kind](Path(folder))
        limit_memory()
        print(flush=True)
        given = {path.name for path in Path(folder).iterdir()}
        for number in range(options.first, options.first + options.count):
            files = kind.mutant(mutation(options.seed, options.kind, number))
            write(files, Path(folder))
            report = {"number": number, "outcome": "read"}
            signal.alarm(10 + 2 * int(options.seconds))     # nobody watches any more: who did was killed
            before, begin = peak(), time.monotonic()
            try:
                kind.read(Path(folder))
            except module.MinidropError as error:
                report["outcome"] = "refused" if str(error).strip() else "refused without a word"
            except Exception as error:
                report.update(outcome=type(error).__name__, trace=traceback.format_exc())
            report.update(seconds=time.monotonic() - begin, peak=peak() - before)
            print(json.dumps(report), flush=True)
            for path in Path(folder).iterdir():
                if path.name not in given or path.name in files:
                    with contextlib.suppress(OSError):
                        path.unlink()
    return 0


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def limit_memory():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


if __name__ == "__main__":
    sys.exit(main())
