"""bench_overhead.py: what counts as a call of the backend, and what it prints."""

import re

import pytest

from minidrop.backend import get_backend


class Work:
    def outer(self):
        return self.inner() + 1

    def inner(self):
        return 1

    def fails(self):
        raise KeyError("mine")


def test_calls_within_calls_count_once(scripts):
    work = Work()

    def step():
        assert work.outer() == 2 and work.inner() == 1
        with pytest.raises(KeyError, match="mine"):
            work.fails()

    with scripts.bench_overhead.Clock() as clock:
        for method in ("outer", "inner", "fails"):
            clock.watch(work, method, "backend")
        for _ in range(2):
            spent, calls = clock.of(step)
            assert calls == {"backend": 3} and 0 < spent["backend"] < spent["step"]
    assert not vars(work)


def test_what_it_prints(scripts, monkeypatch, capsys):
    before = dict(vars(get_backend("cpu")))
    monkeypatch.setattr("sys.argv", ["bench_overhead.py", "--sizes", "8x6", "--steps", "10"])
    scripts.bench_overhead.main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"784-8-6-10, batch 4, PERIODIC:groups=1: \d+ us", head)
    assert [line.split()[0] for line in lines] == ["drawing", "forward", "backward", "update", "backend"]
    assert all(float(line.split()[1]) > 0 for line in lines)
    # Nine products but for the gradient of the data, and the updates of weights and biases.
    assert int(lines[-1].split()[-2]) >= 8 + 6
    assert vars(get_backend("cpu")) == before
