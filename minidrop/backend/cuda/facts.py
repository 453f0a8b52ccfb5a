"""What CUDA software and devices this machine has, what is missing, and the command that installs it."""

import ctypes
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from minidrop.backend.cuda import backend as cuda
from minidrop.backend.cuda.cublas_library import cupys_module

PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
LIBRARIES = {"cublas": "cuBLAS", "nvrtc": "NVRTC"}        # products, and the compiler of kernels
_RELEASE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Device:
    """One CUDA device; sizes in bytes."""

    index: int
    name: str
    memory: int
    free: int
    capability: str


@dataclass(frozen=True)
class CudaFacts:
    """The state of CUDA on a machine.

    Versions are (major, minor), or None. missing: (library, reason) pairs. problem: why there is no device.
    """

    devices: tuple = ()
    problem: str = ""
    driver: tuple | None = None
    release: str | None = None
    runtime: tuple | None = None
    cupy: str | None = None
    packages: tuple = ()
    missing: tuple = ()

    def lines(self) -> list[str]:
        """Return the lines that `minidrop devices` prints."""
        lines = [f"cuda:{d.index} ({d.name}, {d.memory / 2**30:.1f} GiB, {d.free / 2**30:.1f} GiB free, "
                 f"compute capability {d.capability})" for d in self.devices]
        if not self.devices:
            lines.append(f"no GPU: {self.problem}")
        if self.driver or self.cupy:
            lines.append("CUDA: " + ", ".join(filter(None, (  # type: ignore[arg-type]
                self.driver and f"driver {self.release + ' ' if self.release else ''}for CUDA "
                f"{_text(self.driver)}", self.runtime and f"CUDA runtime {_text(self.runtime)}",
                self.cupy
                and f"CuPy {self.cupy}{' (' + ', '.join(self.packages) + ')' if self.packages else ''}"))))
        lines += [f"missing: {name} ({why})" for name, why in self.missing]
        return lines + self.advice()

    def advice(self) -> Any:
        """Return what to do, as lines; none if nothing is missing."""
        if self.driver is None:
            return [] if self.devices else ["There is no NVIDIA driver either. With a GPU and its driver: "
                                            "python -m pip install 'minidrop[cuda12]' (or [cuda13] where "
                                            "nvidia-smi says CUDA 13)"]
        if self.driver < (12, 0):
            return [f"The NVIDIA driver supports CUDA {_text(self.driver)} only; install a driver for CUDA "
                    f"12 or newer first"]
        extra = "cuda13" if self.driver >= (13, 0) else "cuda12"
        # A CuPy for an older CUDA works with a newer driver, but not vice versa.
        wrong = [name for name in self.packages if name == "cupy-cuda13x" and extra == "cuda12"]
        surplus = wrong or list(self.packages[1:])
        if self.packages and not surplus and self.packages[0] in ("cupy-cuda12x", "cupy-cuda13x"):
            extra = f"cuda{self.packages[0][9:11]}"
        if surplus:
            why = ("is for a newer CUDA than the driver's" if wrong
                   else "stands beside another CuPy: keep one of them")
            return [f"{', '.join(surplus)} {why}: python -m pip uninstall -y {' '.join(self.packages)} && "
                    f"python -m pip install 'minidrop[{extra}]'"]
        if self.cupy is None or self.missing:
            return [f"The NVIDIA driver supports CUDA {_text(self.driver)}: python -m pip install "
                    f"'minidrop[{extra}]'"]
        return []


def cuda_facts() -> Any:
    """Return the CudaFacts of this machine. Queries every device, so it takes a moment."""
    cupy = cuda.cupy
    count, problem = cuda.device_count()
    facts = {"problem": problem, "driver": _driver(), "release": _release(), "packages": _packages()}
    if cupy is not None:
        facts["cupy"] = cupy.__version__
        facts["devices"] = tuple(_device(cupy, index) for index in range(count))
        if count:
            facts["runtime"] = _version(cupy.cuda.runtime.runtimeGetVersion())
            facts["missing"] = tuple(filter(None, map(_missing, LIBRARIES)))
    return CudaFacts(**facts)


def _device(cupy, index):
    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(index)
    with cupy.cuda.Device(index):
        free, total = runtime.memGetInfo()
    return Device(index, properties["name"].decode(), total, free,
                  f"{properties['major']}.{properties['minor']}")


def _missing(library):
    """Return (name, why) if CuPy cannot load a library."""
    try:
        module = cupys_module(library)
        if library == "nvrtc":      # loaded only on first use
            module.getVersion()
    except Exception as error:      # whatever the loader raises
        return LIBRARIES[library], (str(error).splitlines() or [type(error).__name__])[0]
    return None


def _driver():
    """Return the CUDA version that the NVIDIA driver supports; None without a driver."""
    number = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        if driver.cuDriverGetVersion(ctypes.byref(number)):
            return None
    except (OSError, AttributeError):
        return None
    return _version(number.value)


def _release():
    """Return the driver's own version, e.g. 550.54.14, or None if the system does not show it."""
    try:
        found = re.search(r"\b(\d{3,}\.\d[\d.]*)\b", _RELEASE.read_text(errors="replace"))
    except OSError:
        return None
    return found and found[1]


def _packages():
    """Return which of PACKAGES are installed."""
    found = []
    for name in PACKAGES:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


def _version(number):
    return number // 1000, number % 1000 // 10


def _text(version):
    return ".".join(map(str, version))
