"""What reproduce_mlp.py is to run; for all reproductions what has run, and trainings in processes of their
own."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product

import minidrop as md


@dataclass(frozen=True)
class Selection:
    """What was asked for. `speed` and `run` give the key of a run: everything that defines it."""

    nets: tuple
    rates: tuple
    methods: tuple                # the first is "conventional"
    seeds: int
    iterations: int
    learning_rate: float          # of the stage accuracy
    learning_rates: tuple         # of the stage best
    blocks: int
    block_seconds: float

    def speed(self, net, rate, method):
        return {"stage": "speed", "net": net, "rate": rate, "method": method, "blocks": self.blocks,
                "block_seconds": self.block_seconds}

    def run(self, net, rate, method, seed, learning_rate=None, stage="accuracy"):
        """Return the key of a training; stage "validation" leaves out and tests on the last sixth of the
        records."""
        return {"stage": stage, "net": net, "rate": rate, "method": method, "seed": seed,
                "iterations": self.iterations, "learning_rate": self.learning_rate if learning_rate is None
                else learning_rate}

    def accuracies(self):
        return [self.run(*cell) for cell in product(self.nets, self.rates, self.methods, self.all_seeds)]

    def validations(self, net, method):
        return [self.run(net, rate, method, 1, learning_rate, "validation")
                for rate, learning_rate in product(self.rates, self.learning_rates)]

    @property
    def all_seeds(self):
        return range(1, self.seeds + 1)


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
        with open(self.path, "ab") as file:
            file.truncate(self.length)
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self.length = file.tell()
        self.records.append(record)


def run_in_workers(script, keys, jobs, extra=None, threads=1):
    """Make the trainings of all keys, `jobs` at a time, each by `SCRIPT --worker`; yield (key, result) as
    they are done.

    Each process has `threads` threads, and calls `work`. MinidropError where one fails.
    """
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
