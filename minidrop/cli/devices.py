"""minidrop devices: lists the devices, and what a GPU still needs."""

import os
import platform
from dataclasses import asdict

import click
import numpy as np

from minidrop.apps.link import measure_link
from minidrop.backend import get_backend
from minidrop.cli.console import echo
from minidrop.cli.options import Command, refuse_idle
from minidrop.cli.ranks import launched
from minidrop.cli.values import print_json
from minidrop.config import SolverParameter
from minidrop.errors import BackendError
from minidrop.solver.engines import chosen_way
from minidrop.solver.mpi import library
from minidrop.solver.prepare import chosen_device
from minidrop.solver.ranks import Ranks


@click.command(cls=Command)
@click.option("--gpu", metavar="N|N,N|all", help="Only these GPUs. [default: all]")
@click.option("--mpi", is_flag=True, help="The processes that a launcher such as mpiexec started together.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def devices(gpu: str | None, mpi: bool, as_json: bool) -> None:
    """List the devices, and say what a GPU still needs.

    Each can be named to --device: cpu, cuda:0, cuda:1 and so on. device_query is another name for this.
    """
    if mpi:
        refuse_idle(["gpu", "as_json"], "is for the devices of this machine; leave out --mpi")
        _show_ranks()
        return
    wanted = None if gpu in (None, "all") else str(gpu).split(",")
    if wanted and not all(number.isdecimal() and len(number) < 4 for number in wanted):
        raise click.UsageError(f"-gpu {gpu}: expected the number of a GPU, several with commas, or all")
    from minidrop.backend.cuda.facts import cuda_facts  # loads CuPy

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu, blas = get_backend("cpu").describe(), _blas()
    facts = cuda_facts()
    here = [device.index for device in facts.devices]
    named = here if wanted is None else [int(number) for number in wanted]
    if as_json:
        print_json({"cpu": {"device": "cpu", "description": cpu, "blas": blas, "cores": cores},
                    "gpus": [{"device": f"cuda:{one.index}", **asdict(one)} for one in facts.devices
                             if one.index in named],
                    "cuda": {name: value for name, value in asdict(facts).items() if name != "devices"},
                    "advice": facts.advice()})
    else:
        echo(f"{cpu}, {blas}, {cores} core{'s' * (cores != 1)}")
        for line in facts.lines():
            if not line.startswith("cuda:") or int(line[5:].partition(" ")[0]) in named:
                echo(line)
    if missing := [number for number in named if number not in here]:
        raise BackendError(f"there is no GPU {missing[0]} here (GPUs: {', '.join(map(str, here)) or 'none'})")


def _show_ranks():
    """Print, from rank 0, where each rank runs, on what, and what a message between them costs."""
    with launched() as communicator:
        ranks = Ranks(communicator)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        host = communicator.host or platform.node()
        backend = get_backend(chosen_device(SolverParameter(), "auto", communicator.local_rank))
        lines = ranks.texts(f"rank {ranks.rank} of {ranks.size}: {host}, number {communicator.local_rank} of "
                            f"{communicator.local_size} there, {cores} core{'s' * (cores != 1)}, "
                            f"{backend.describe()}")
        if not ranks.alone:
            link = measure_link(ranks)
            rate = f"{1e-6 * link.bandwidth:.3g} MB/s ({8e-9 * link.bandwidth:.3g} Gbit/s)"
            lines.append(f"between them: {library()}; a message takes {1e6 * link.latency:.3g} us, and its "
                         f"bytes go at {rate} from each rank")
            lines.append(chosen_way(ranks, backend)[1])
        if ranks.is_root:
            for line in lines:
                echo(line)


def _blas():
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"BLAS {blas['name']} {blas['version']}"
    except (KeyError, TypeError):
        return "unknown BLAS"
