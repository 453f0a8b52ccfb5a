"""Gradients from GPU to GPU: the calls of NCCL, streams and events, on devices that are emulated."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from minidrop.backend import cuda_devices, get_backend
from minidrop.backend.cuda.nccl import NcclLink, nccl_module, unique_key
from minidrop.backend.generic.arrays import Linkable
from minidrop.errors import LostRankError, ParallelError
from minidrop.solver.engines import DeviceEngine, HostEngine, InAThread, chosen_way
from minidrop.solver.parallel import GradientSum
from minidrop.solver.ranks import Job, Ranks, bytes_to_add
from minidrop.solver.wire import Wire
from minidrop.testing import run_ranks
from tests.backend import fake_nccl


class HostLink(NcclLink):
    """A link of arrays on the host."""

    def pointer(self, array):
        assert array.flags.c_contiguous
        return array.ctypes.data


def linked(communicator):
    """Return (the fake modules, the link) of a rank."""
    fake = fake_nccl.Fake(communicator)
    key = unique_key(fake.nccl)
    return fake, HostLink(fake.cupy, fake.nccl, fake_nccl.Device(), communicator.rank, communicator.size, key)


@pytest.mark.parametrize("wire", [None, Wire("bfloat16"), Wire("float16")], ids=["float32", "bf16", "f16"])
@pytest.mark.parametrize("size", [2, 3])
def test_sums_have_the_bits_that_they_have_through_the_host(size, wire):
    """As many bytes travel as the formula says. 15 numbers, 7 at a time: the last part of some is empty."""
    rows = np.random.default_rng(0).standard_normal((size, 15)).astype("f4")

    def work(communicator):
        ranks, backend = Ranks(communicator), get_backend("cpu")
        fake, link = linked(communicator)
        through_host, direct = rows[ranks.rank].copy(), rows[ranks.rank].copy()
        Job(HostEngine(ranks, backend, 7, wire).adding(through_host, 0)).finish()
        before = ranks.sent
        Job(DeviceEngine(ranks, link, 7, wire).adding(direct, 0)).finish()
        assert through_host.tobytes() == direct.tobytes()
        itemsize = 2 if wire else 4
        sent = sum(int(line.split()[1]) for line in fake.log if line.startswith("send"))
        assert sent == ranks.sent - before == bytes_to_add(15, itemsize, size, 7, ranks.rank)
        return direct
    found = run_ranks(size, work)
    assert all((one == found[0]).all() for one in found) and (found[0] != rows[0]).any()


def test_streams_and_events():
    """The link waits for what is queued, messages stand between events, and nothing waits for the link."""
    def work(communicator):
        fake, link = linked(communicator)
        Job(DeviceEngine(Ranks(communicator), link).adding(np.ones(4, "f4"), 0)).finish()
        assert fake.now is fake.computing
        other = 1 - communicator.rank
        assert fake.log == ["event on compute", "link waits for compute",
                            *[f"send 8 {other}", f"recv 8 {other}"] * 2, "event on link"]
    run_ranks(2, work)


def test_a_rank_that_is_gone():
    """NCCL says so; the link is aborted, once, so that no kernel waits for ever, and is of no more use."""
    def work(communicator):
        fake, link = linked(communicator)
        job = Job(DeviceEngine(Ranks(communicator), link).adding(np.ones(4, "f4"), 0))
        for code, said in ((6, "remote process exited"), (7, "NCCL's error 7")):
            fake.failing = code
            with pytest.raises(LostRankError, match=f"between the GPUs .*{said}.*NCCL_DEBUG=INFO"):
                job.advance() if code == 6 else linked_again(communicator, code)
        link.close()
        assert fake.log.count("abort") == 1
        with pytest.raises(LostRankError, match="was closed"):
            job.advance()

    def linked_again(communicator, code):
        fake, link = linked(communicator)
        fake.failing = code
        link.check()
    run_ranks(2, work)


def test_a_wait_that_fails_aborts_the_link():
    """As when the time of --rank-timeout is over while NCCL still waits."""
    def work(communicator):
        from parallel_nets import mlp_with, solver_of
        fake, link = linked(communicator)
        solver = solver_of(mlp_with("PERIODIC"), "", communicator)
        ranks = Ranks(communicator)
        solver.gradient_sum.engine = DeviceEngine(ranks, link)

        def too_late(request):
            raise LostRankError("rank 1 did not come")
        solver.gradient_sum.engine.ranks = SimpleNamespace(
            adding=ranks.adding, communicator=SimpleNamespace(wait=too_late))
        link_mark = link.mark
        link.mark = lambda: SimpleNamespace(Test=lambda: False, _=link_mark())
        with pytest.raises(LostRankError, match="did not come"):
            solver.step()
        assert "abort" in fake.log
    run_ranks(2, work)


@pytest.mark.parametrize(("kind", "settings"), [
    ("PERIODIC groups: 1", "reduce_bucket: 1 momentum: 0.9 clip_gradients: 0.5 capture_steps: false"),
    ("PERIODIC groups: 2", 'reduce_bucket: 100 wire: "bfloat16" iter_size: 2')])
def test_a_training(linked_cuda, kind, settings):
    """Buckets go in one order on all ranks; weights are those of a training through the host, bit for bit."""
    from parallel_nets import feed, mlp_with

    from minidrop.config import parse_solver
    from minidrop.solver import Solver

    def work(communicator, direct):
        text = (f'base_lr: 0.1 max_iter: 9 lr_policy: "fixed" random_seed: 5 {settings} '
                f'net_param {{ {" ".join(mlp_with(kind))} }}')
        backend = linked_cuda(communicator)
        if not direct:
            backend.linkable = lambda: Linkable("GPU 0", "", "it is not wanted")
        solver = Solver(parse_solver(text, "s"), device=backend, communicator=communicator)
        feed(solver)
        solver.step(3)
        assert isinstance(solver.gradient_sum.engine, DeviceEngine if direct else HostEngine)
        weights = {name: backend.to_host(p.data) for name, p in solver.net.parameters().items()}
        solver.close()
        return weights, [line for line in backend.fake.log if line.startswith("send")], backend.fake.log[-1:]
    runs = [run_ranks(2, lambda one, direct=direct: work(one, direct)) for direct in (True, False)]
    for weights, *_ in (one for run in runs for one in run):
        assert all((weights[name] == values).all() for name, values in runs[0][0][0].items())
    (_, first, end), (_, second, _) = runs[0]
    sizes = [[line.split()[1] for line in log] for log in (first, second)]
    assert len(sizes[0]) == len(sizes[1]) > 0 and end == ["abort"] and runs[1][0][1] == []


def test_a_backward_pass_that_fails_on_one_rank(linked_cuda, monkeypatch):
    """Buckets that others wait to begin are given up in their turn, and training can go on."""
    from parallel_nets import broken, mlp_with, solver_of

    from minidrop.errors import DataError

    def work(communicator):
        fake, link = linked(communicator)
        solver = solver_of(mlp_with("PERIODIC"), "reduce_bucket: 1", communicator)
        solver.gradient_sum = GradientSum(solver.ranks, solver.net.backend, 1, True,
                                          DeviceEngine(solver.ranks, link))
        backward = solver.net.backward

        solver.net.backward = broken(backward, monkeypatch, communicator.rank == 1)
        with pytest.raises(DataError, match="rank 1: .*this rank cannot"):
            solver.step()
        solver.net.backward = backward
        solver.step()
        assert "abort" not in fake.log
        return solver.losses[-1]
    assert len(set(run_ranks(2, work))) == 1


@pytest.mark.parametrize(("found", "line"), [
    ([Linkable("a", "NCCL 2.1.0"), Linkable("b", "NCCL 2.1.0")], "from GPU to GPU, by NCCL 2.1.0"),
    ([Linkable("a", "NCCL 2.1.0")] * 2, "from host to host, by MPI: some ranks share a GPU"),
    ([Linkable(), Linkable()], "from host to host, by MPI"),
    ([Linkable("a", "NCCL 2.1.0"), Linkable("b", "", "no\nNCCL")],
     "from host to host, by MPI: rank 1 on here: no NCCL"),
    ([Linkable("a", "NCCL 2.1.0"), Linkable("", "", "")],
     "from host to host, by MPI: rank 1 on here: it trains on no GPU"),
    ([Linkable("a", "NCCL 2.1.0"), Linkable("b", "NCCL 2.2.0")],
     "from host to host, by MPI: the ranks have NCCL 2.1.0 and NCCL 2.2.0")])
def test_how_gradients_travel(found, line):
    def work(communicator):
        backend = SimpleNamespace(linkable=lambda: found[communicator.rank])
        return chosen_way(Ranks(communicator), backend)
    said = run_ranks(2, work)
    assert said == [("by NCCL" in line, f"gradients travel {line}")] * 2


def test_ranks_that_cannot_be_connected():
    fake = fake_nccl.Fake(SimpleNamespace(size=2, rank=0))

    def refuse(*given):
        raise fake_nccl.NcclError("unhandled cuda error")
    fake.nccl.NcclCommunicator = refuse
    with pytest.raises(ParallelError, match="cannot connect .*unhandled cuda error.*MINIDROP_NCCL=0"):
        NcclLink(fake.cupy, fake.nccl, fake_nccl.Device(), 0, 2, bytes(128))


def test_whether_there_is_nccl(monkeypatch):
    """CuPy's own warning is not shown; its reason is ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module, problem = nccl_module()
    assert (module is None) == bool(problem) and "\n" not in problem
    monkeypatch.setenv("MINIDROP_NCCL", "0")
    assert nccl_module() == (None, "MINIDROP_NCCL is 0")


def test_the_fake_has_cupys_signatures():
    nccl, problem = nccl_module()
    if problem:
        pytest.skip(problem)
    for name in ("send", "recv"):
        code = getattr(fake_nccl.Communicator, name).__code__
        ours = list(code.co_varnames[1:code.co_argcount])
        given = re.search(r"\((.*)\)", getattr(nccl.NcclCommunicator, name).__doc__)[1]
        assert [one.split()[-1] for one in given.split(", ")[1:]] == ours
    assert nccl.NCCL_UINT8 == fake_nccl.UINT8
    assert len(unique_key(nccl)) == 128
    for name in ("check_async_error", "abort"):
        assert callable(getattr(nccl.NcclCommunicator, name))
    assert callable(nccl.groupStart) and callable(nccl.groupEnd)


@pytest.mark.gpu
def test_a_sum_over_two_gpus():
    """In one process, with a thread for each."""
    count = cuda_devices()[0]
    if count < 2 or nccl_module()[1]:
        pytest.skip(nccl_module()[1] or f"there are {count} GPUs, and each rank needs its own")
    backends = [get_backend(f"cuda:{index}") for index in range(2)]
    key = backends[0].link_key()
    rows = np.random.default_rng(0).standard_normal((2, 1000)).astype("f4")

    def work(communicator):
        backend = backends[communicator.rank]
        communicator.wait(connecting := InAThread(lambda: backend.link(key, communicator.rank, 2)))
        ranks = Ranks(communicator)
        with backend.active():
            flat = backend.asarray(rows[communicator.rank])
            Job(DeviceEngine(ranks, connecting.result(), 300).adding(flat, 0)).finish()
            return backend.to_host(flat)
    for found in run_ranks(2, work):
        assert (found == rows[0] + rows[1]).all()
