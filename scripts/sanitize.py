"""Run the GPU's cases of the kernel tests under compute-sanitizer: memory, races, uninitialised memory,
barriers.

    python scripts/sanitize.py
    python scripts/sanitize.py --tools memcheck racecheck

It needs an NVIDIA GPU that CuPy can use, pytest, and compute-sanitizer: of the CUDA toolkit (found on PATH,
under CUDA_HOME, CUDA_PATH or /usr/local/cuda*) or of pip's nvidia-cuda-sanitizer-api. Exits with 0 where
nothing was found, 1 where something was, and 2, after one line, where it cannot run.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
NAME = "compute-sanitizer"
FOUND = 9       # its exit status where it has found something


def pytest_configure():
    """As a plugin of pytest: every array is an allocation of its own, or what is read beyond it would be
    another's."""
    import cupy
    cupy.cuda.set_allocator(None)


def find_sanitizer(environment=os.environ, roots=(Path("/usr/local"),)):
    """Return the path of compute-sanitizer, or None."""
    folders = [Path(environment[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH")
               if environment.get(name)]
    folders += [path for root in roots for path in sorted(root.glob("cuda*/bin"), reverse=True)]
    package = importlib.util.find_spec("nvidia")
    for place in package.submodule_search_locations if package and package.submodule_search_locations else ():
        folders += [path.parent for path in sorted(Path(place).glob(f"**/{NAME}*")) if path.is_file()]
    for path in (environment.get("PATH", ""), os.pathsep.join(map(str, folders))):
        found = shutil.which(NAME, path=path)
        if found:
            return found
    return None


def missing(sanitizer):
    """Return what keeps this from running, ''."""
    from minidrop.backend import cuda_devices
    count, reason = cuda_devices()
    if not count:
        return f"needs an NVIDIA GPU that CuPy can use: {reason}; see `minidrop devices`"
    if sanitizer is None:
        return (f"needs {NAME}: install the CUDA toolkit and set CUDA_HOME, or python -m pip install "
                f"nvidia-cuda-sanitizer-api")
    return ("" if importlib.util.find_spec("pytest") else "needs pytest: python -m pip install "
            "'minidrop[test]'")


def run(sanitizer, tool, arguments):
    """Run the tests under one tool; returns whether nothing was found."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, "-m",
                           "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "sanitize", "-m", "gpu",
                           *arguments], cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        print(done.stdout)
    summary = [line.strip("= ") for line in done.stdout.splitlines() if "SUMMARY" in line
               or " passed" in line]
    print(f"{'ok    ' if done.returncode == 0 else 'FAILED'}  {tool}: "
          f"{'; '.join(summary) or f'exit {done.returncode}'}", flush=True)
    return done.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS, metavar="TOOL",
                        help=f"of {', '.join(TOOLS)}")
    parser.add_argument("tests", nargs="*", default=["tests/kernels"], help="files, folders (default "
                        "tests/kernels)")
    options = parser.parse_args()
    sanitizer = find_sanitizer()
    problem = missing(sanitizer)
    if problem:
        print(f"sanitize.py {problem}", file=sys.stderr)
        return 2
    return int(not all([run(sanitizer, tool, options.tests) for tool in options.tools]))


if __name__ == "__main__":
    sys.exit(main())
