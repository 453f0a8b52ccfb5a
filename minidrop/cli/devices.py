"""minidrop devices: what can compute here."""

import ctypes
import os

import click
import numpy as np

from minidrop.backend import cuda_devices, get_backend


@click.command()
@click.option("--gpu", hidden=True)
def devices(gpu):
    """List the devices, and say what a GPU still needs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    click.echo(f"{get_backend('cpu').describe()}, {_blas()}, {cores} core{'s' * (cores != 1)}")
    count, reason = cuda_devices()
    for index in range(count):
        if gpu in (None, "all", str(index)):
            click.echo(get_backend(f"cuda:{index}").describe())
    if not count:
        click.echo(f"no GPU: {reason}\n{_advice(_driver_version())}")


def _blas():
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"BLAS {blas['name']} {blas['version']}"
    except (KeyError, TypeError):
        return "unknown BLAS"


def _driver_version():
    """Return the CUDA version that the NVIDIA driver supports, as 12.4; None without a driver."""
    version = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        if driver.cuDriverGetVersion(ctypes.byref(version)):
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000 + version.value % 1000 // 10 / 10


def _advice(driver):
    if driver is None:
        return ("There is no NVIDIA driver either. With a GPU and its driver: python -m pip install 'minidrop[cuda12]' "
                "(or [cuda13] where nvidia-smi says CUDA 13)")
    if driver < 12:
        return f"The NVIDIA driver supports CUDA {driver:.1f} only; install a driver for CUDA 12 or newer first"
    extra = "cuda13" if driver >= 13 else "cuda12"
    return f"The NVIDIA driver supports CUDA {driver:.1f}: python -m pip install 'minidrop[{extra}]'"
