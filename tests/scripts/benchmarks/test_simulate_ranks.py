"""simulate_ranks.py and measure_ranks.py: the formulas by hand, and what a measurement says."""

import json
import math
from types import SimpleNamespace

import pytest

from minidrop.apps.link import Link
from minidrop.solver.communicator import Alone
from minidrop.solver.ranks import Ranks

LINK = Link(0.5, 100.0)       # half a second a message, 100 bytes a second


@pytest.mark.parametrize(("algorithm", "ranks", "seconds"), [
    ("direct", 1, 0), ("ring", 1, 0), ("halving", 1, 0), ("tree", 1, 0),
    ("direct", 2, 2 * (0.5 + 6)),           # half of 1200 bytes there, and the sum of the other half back
    ("ring", 2, 2 * (0.5 + 6)), ("halving", 2, 2 * (0.5 + 6)), ("tree", 2, 2 * (0.5 + 12)),
    ("direct", 4, 6 * (0.5 + 3)),           # three parts of 300 bytes out, three sums out
    ("ring", 4, 6 * (0.5 + 3)),
    ("halving", 4, 2 * (0.5 + 6 + 0.5 + 3)),        # halves, then quarters
    ("tree", 4, 4 * (0.5 + 12)), ("tree", 5, 6 * (0.5 + 12))])
def test_adding_1200_bytes(scripts, algorithm, ranks, seconds):
    assert scripts.simulate_ranks.exchange_seconds(algorithm, 1200, ranks, LINK) == pytest.approx(seconds)


def test_a_step(scripts):
    """6 s of work, 1 s that is not divided; on 2 ranks 13 s travel, in two buckets of 6 + 2 * 0.5 s each."""
    load, step = scripts.simulate_ranks.Load(6, 1, 1200, 3), scripts.simulate_ranks.step_seconds
    assert step(load, 1, LINK) == 7
    assert step(load, 2, LINK) == pytest.approx(1 + 3 + 13 + 3 * 0.5)
    assert step(load, 2, LINK, weak=True) == pytest.approx(1 + 6 + 13 + 1.5)
    # Of 3 s the first is forward, then a bucket is ready each second: 2, and 3 while the first travels.
    assert step(load, 2, LINK, overlap=True, buckets=2) == pytest.approx(1 + 2 + 7 + 7 + 1.5)
    # Where computing takes longer than sending, only the last bucket shows.
    slow = scripts.simulate_ranks.Load(600, 1, 1200)
    assert step(slow, 2, LINK, overlap=True, buckets=2) == pytest.approx(1 + 300 + 7)


def test_bytes_are_those_that_ranks_send(scripts):
    """The formula of direct exchange without latency is bytes_to_add over the bandwidth."""
    from minidrop.solver.ranks import bytes_to_add

    for ranks in (2, 3, 5, 8):
        seconds = scripts.simulate_ranks.exchange_seconds("direct", 4 * 960, ranks, Link(0, 1))
        assert seconds == pytest.approx(bytes_to_add(960, 4, ranks))


def test_table_and_plot(scripts, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the extra `plot` draws")
    monkeypatch.setattr("sys.argv", ["simulate_ranks.py", "--work", "0.1", "--megabytes", "25", "--share",
                                     "0.25", "--gigabits", "1", "--latency", "0", "--small", "0", "--ranks",
                                     "1", "2", "--plot", str(tmp_path / "ranks.png")])
    scripts.simulate_ranks.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "direct, in turn" and lines[2].split() == ["1", "100.00", "100.00", "1.00"]
    assert lines[3].split() == ["2", "250.00", "100.00", "2.50"]
    assert (tmp_path / "ranks.png").stat().st_size > 1000


def test_a_measurement_of_one_rank_and_what_follows_of_two(scripts, capsys):
    """Loads are what is divided and what is not, of the local steps of one and of several ranks."""
    options = SimpleNamespace(size=16, batch=8, rate=0.5, blocks=1)
    one = json.loads(json.dumps(scripts.measure_ranks.measure(Alone(), options)))
    assert list(scripts.measure_ranks.lines(one))[-1].startswith("compact is ")
    methods = {name: {"local": seconds, "bytes": 10 * seconds, "small": 2} for name, seconds in
               (("dense", 6.0), ("compact", 3.0))}
    two = {"ranks": 2, "methods": methods}
    for name, seconds in (("dense", 10.0), ("compact", 4.0)):
        one["methods"][name]["local"] = seconds
    dense, compact = scripts.simulate_ranks.loads_of(two, one)
    assert (dense.work, dense.fixed, dense.bytes) == (8, 2, 60) and (compact.work, compact.fixed) == (2, 2)


def test_the_link_of_an_echo(scripts):
    """Any communicator is measured: this one answers at once."""
    from minidrop.apps.link import measure_link

    link = measure_link(Ranks(scripts.measure_ranks.Echo(SimpleNamespace(size=3, host="", local_size=3))),
                        part=1000, repeats=2)
    assert 0 < link.latency < 1 and link.bandwidth > 0 and math.isfinite(link.bandwidth)
