"""What the reproductions share: cells, finished runs, processes that train, options."""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import bench_cpu
import click

import minidrop as md


# -- what is to run ------------------------------------------------------------------------------------------
@dataclass
class Cell:
    """A net and a rate, and its methods, of which the first is conventional dropout.

    training: what else defines its trainings, "stage" and "iterations" for example; timing: "blocks" and
    "block_seconds".
    """

    net: str
    rate: float
    methods: tuple
    training: dict
    timing: dict
    seeds: int = 1
    part: str = ""

    def speed(self, method):
        """Return the key of a measurement of speed: everything that defines it."""
        return {"stage": "speed", "net": self.net, "rate": self.rate, "method": method, **self.timing}

    def run(self, method, seed, **changes):
        """Return the key of a training."""
        return {"net": self.net, "rate": self.rate, "method": method, "seed": seed, **self.training,
                **changes}

    def runs(self):
        """Return the keys of all trainings, methods side by side, so that seconds are of the same hour."""
        return [self.run(method, seed) for seed in range(1, self.seeds + 1) for method in self.methods]


class Store:
    """The finished runs of one folder, a line of JSON each.

    A last line that was cut off while it was written does not count, and is overwritten by the next.
    """

    def __init__(self, path):
        self.path = path
        self.records = []
        text = path.read_bytes() if path.exists() else b""
        self.length = text.rfind(b"\n") + 1         # of the whole lines
        for number, line in enumerate(text[:self.length].splitlines(), 1):
            try:
                self.records.append(dict(json.loads(line)))
            except ValueError:
                raise md.DataError(f"{path}:{number}: expected one run as a JSON object, got {line[:40]!r}; "
                                   f"delete the line, and the run is made again") from None

    def find(self, key):
        """Return the record of a run, or None."""
        return next((record for record in self.records if key.items() <= record.items()), None)

    def missing(self, keys):
        """Return the keys that have no record, each once."""
        return [key for i, key in enumerate(keys) if self.find(key) is None and key not in keys[:i]]

    def add(self, record):
        """Write the record of a run to the disk."""
        with open(self.path, "ab") as file:
            file.truncate(self.length)
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self.length = file.tell()
        self.records.append(record)


# -- running it ----------------------------------------------------------------------------------------------
def measure_speed(cells, store):
    """Time every method of every cell that is missing, beside conventional dropout in the same run."""
    for cell in cells:
        missing = store.missing([cell.speed(method) for method in cell.methods[1:]])
        if not missing:
            continue
        methods = ["conventional", *(key["method"] for key in missing)]
        times = bench_cpu.measure(cell.net, cell.rate, methods, **cell.timing)
        base = {f"conventional_{name}": value for name, value in times["conventional"].items()
                if name.endswith("ms")}
        for key in missing:
            own = times[key["method"]]
            speed_up = base["conventional_ms"] / own["ms"]
            store.add({**key, "speed_up": speed_up, **base, **own, "cores": os.cpu_count(),
                       "machine": platform.platform()})
            click.echo(f"speed       {cell.net:>12}  p {cell.rate:g}  {key['method']}: {speed_up:.2f}x")


def train_all(script, keys, store, jobs, extra=None, threads=1):
    """Make the missing trainings, `jobs` at a time, each by `SCRIPT --worker` with so many threads."""
    keys = store.missing(keys)
    for done, (key, answer) in enumerate(run_in_workers(script, keys, jobs, extra, threads), 1):
        store.add({**key, **answer, "threads": threads})
        values = {"perplexity": "perplexity {:.2f}", "bleu": "BLEU {:.2f}", "f1": "F1 {:.2%}",
                  "accuracy": "accuracy {:.2%}", "seconds": "{:.1f} s"}
        value = "diverged" if answer["accuracy"] is None else ", ".join(
            text.format(answer[name]) for name, text in values.items() if name in answer)
        more = f"learning rate {key['learning_rate']:g}  " if "learning_rate" in key else ""
        click.echo(f"{key['stage']:<11} {key['net']:>12}  p {key['rate']:g}  {more}seed {key['seed']}  "
                   f"{key['method']}: {value}  ({done} of {len(keys)})")


def make_runs(script, cells, stages, out, jobs):
    """Make the runs of cells that are missing, those of the stages `speed` and `training`."""
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out / "results.jsonl")
    if "speed" in stages:
        measure_speed(cells, store)
    if "training" in stages:
        train_cells(script, cells, store, jobs, out, str(out / "unfinished"))


def train_cells(script, cells, store, jobs, out, extra):
    """Make the trainings of cells that are missing; jobs at a time divide the cores. extra: see `work`."""
    train_all(script, [key for cell in cells for key in cell.runs()], store, jobs, extra,
              max(1, (os.cpu_count() or 1) // jobs))
    with suppress(OSError):             # there may be one that was interrupted, of another selection
        (out / "unfinished").rmdir()


def run_in_workers(script, keys, jobs, extra, threads):
    """Yield (key, result) of all trainings as they are done. MinidropError where one fails."""
    running = set()
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "MINIDROP_THREADS": str(threads)}

    def make(key):
        with subprocess.Popen([sys.executable, script, "--worker"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, env=environment) as process:
            running.add(process)
            process.stdin.write(json.dumps([key, extra]) + "\n")
            process.stdin.flush()
            answer = process.stdout.read()
            running.discard(process)
        if process.returncode:
            raise md.MinidropError(f"a training has failed, its error stands above: {key}")
        return json.loads(answer)

    pool = ThreadPoolExecutor(jobs)
    futures = {pool.submit(make, key): key for key in keys}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.kill()
        pool.shutdown()


def work(train):
    """Print the result of train(key, extra) for a line of standard input; end when the parent has ended."""
    key, extra = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
    print(json.dumps(train(key, extra)), flush=True)


# -- trainings that go on where they were interrupted --------------------------------------------------------
def folder_of(key, folder):
    """Return the folder for what belongs to a training that has not ended."""
    return Path(folder) / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def keep(solver, curve, folder):
    """Write a snapshot and the curve up to it, and remove what was kept before."""
    folder.mkdir(parents=True, exist_ok=True)
    solver.snapshot(folder / f"{solver.iteration}.h5")
    temporary = folder / "curve.tmp"
    temporary.write_text(json.dumps(curve))
    os.replace(temporary, folder / "curve.json")
    for path in folder.glob("*.h5"):
        if path.stem != str(solver.iteration):
            path.unlink()


def resume(solver, folder):
    """Go on from what `keep` has written, if there is any; returns the curve."""
    if not folder or not (folder / "curve.json").exists():
        return []
    curve = json.loads((folder / "curve.json").read_text())
    solver.restore(folder / f"{curve[-1][0]}.h5")
    return curve


# -- command line --------------------------------------------------------------------------------------------
def split_methods(text, separator=r"[,\s]+"):
    """Return the methods of a list: "ROW:max_period=3,scale=PATTERN,UNIT" are two."""
    methods = []
    for part in re.split(separator, text.strip(" ,")):
        if methods and "=" in part and ":" not in part:
            methods[-1] += f",{part}"
        else:
            methods.append(part)
    return tuple(dict.fromkeys(methods))


class ListOf(click.ParamType):
    """Values between commas or spaces, as a tuple."""

    def __init__(self, name, convert):
        self.name, self.one = name, convert

    def convert(self, value, param, ctx):
        try:
            return tuple(dict.fromkeys(self.one(part) for part in re.split(r"[,\s]+", value.strip(" ,"))))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def between(least, most):
    """Return a converter of numbers that lie between these."""
    def convert(text):
        value = float(text)
        if not least < value < most:
            raise ValueError(f"expected a number above {least} and below {most}, got {text}")
        return value
    return convert


def command(train, stages, texts):
    """Return a decorator that makes a click command of a function, with the options of both reproductions.

    texts: {option: help}; train: what `SCRIPT --worker` does with a key. An error is one line of text.
    """
    def decorate(main):
        def guarded(is_worker, **options):
            try:
                work(train) if is_worker else main(**options)
            except (md.MinidropError, OSError) as error:
                click.echo(f"error: {error}", err=True)
                sys.exit(1)

        guarded.__doc__, guarded.__click_params__ = main.__doc__, getattr(main, "__click_params__", [])
        folder = click.Path(file_okay=False, path_type=Path)
        for name, options in reversed({
                "--rates": {"type": ListOf("P,...", between(0, 1))},
                "--methods": {"metavar": "METHOD,..."},
                "--seeds": {"type": click.IntRange(1)},
                "--iterations": {"type": click.IntRange(1)},
                "--stage": {"type": click.Choice(stages), "multiple": True,
                            "help": "Only this one; may be repeated [default: all]."},
                "--out": {"type": folder},
                "--jobs": {"type": click.IntRange(1), "default": 1, "show_default": True},
                "--quick": {"is_flag": True},
                "--report": {"is_flag": True,
                             "help": "Run nothing; table and figure of the runs that are there."},
                "--worker": {"is_flag": True, "hidden": True}}.items()):
            renamed = {"--stage": "stages", "--report": "only_report", "--worker": "is_worker"}
            options = {"help": texts.get(name), **options}
            guarded = click.option(name, renamed.get(name, name[2:]), **options)(guarded)
        return click.command(context_settings={"help_option_names": ["-h", "--help"]},
                             epilog="Exit status: 0 done, 1 error, 2 wrong usage.")(guarded)
    return decorate
