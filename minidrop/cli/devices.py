"""minidrop devices: lists the devices, and what a GPU still needs."""

import os

import click
import numpy as np

from minidrop.backend import get_backend
from minidrop.cli.console import echo
from minidrop.cli.options import Command


@click.command(cls=Command)
@click.option("--gpu", hidden=True)
def devices(gpu: str | None) -> None:
    """List the devices, and say what a GPU still needs.

    Each can be named to --device: cpu, cuda:0, cuda:1 and so on.
    """
    from minidrop.backend.cuda.facts import cuda_facts  # loads CuPy

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    echo(f"{get_backend('cpu').describe()}, {_blas()}, {cores} core{'s' * (cores != 1)}")
    for line in cuda_facts().lines():
        if gpu in (None, "all") or not line.startswith("cuda:") or line.startswith(f"cuda:{gpu} "):
            echo(line)


def _blas():
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"BLAS {blas['name']} {blas['version']}"
    except (KeyError, TypeError):
        return "unknown BLAS"
