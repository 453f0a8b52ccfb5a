"""Run tests with the oldest dependencies that setup.cfg allows: those of minidrop, and of each extra.

    python3.10 scripts/oldest.py [EXTRA ...]     # "core" is minidrop alone; without names: all

Each extra gets a virtual environment of its own, made anew, with exactly the lower bounds of minidrop's
dependencies and its own, and runs the tests that need it; none may be skipped because one of its packages is
missing. The interpreter has to be old enough for these versions: 3.10 to 3.12. The only network access is
pip's. Exits with 1 where an extra failed.
"""

import argparse
import configparser
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("pytest", "hypothesis", "pillow")      # of the extra `test`, for the tests of all others
TESTS = {
    "core": "tests/test_kept.py tests/test_rng.py tests/test_fillers.py tests/config/test_load.py "
            "tests/functions/test_operators.py tests/functions/test_compact_operators.py "
            "tests/snapshot/test_caffe_files.py tests/net/test_net.py "
            "tests/solver/test_rules.py tests/data/test_hdf5_records.py tests/cli/test_train.py "
            "tests/cli/test_report.py",
    "bleu": "tests/apps/test_translation.py",
    "caffe": "tests/data/test_databases.py tests/data/test_datums.py "
             "tests/layers/test_image_sources.py -k 'not leveldb'",
    "cuda12": "tests/kernels/test_loader.py tests/backend/test_cublas_library.py",
    "cuda13": "tests/kernels/test_loader.py",
    "examples": "tests/data/test_download.py",
    "images": "tests/data/test_images.py tests/data/test_image_list.py tests/data/test_file_datasets.py",
    "leveldb": "tests/data/test_databases.py -k 'leveldb and not lmdb'",
    "lmdb": "tests/data/test_databases.py -k 'lmdb and not leveldb'",
    "mpi": "tests/cli/test_mpi.py",
    "notebooks": "tests/docs/test_notebooks.py",
    "nvrtc": "tests/kernels/test_nvrtc.py tests/kernels/test_loader.py tests/backend/test_cublas_library.py",
    "onnx": "tests/apps/test_onnx_layers.py tests/apps/test_onnx_models.py tests/cli/test_export.py",
    "peers": "tests/functions/test_against_torch.py tests/layers/test_against_torch.py "
             "tests/layers/test_against_opencv.py tests/scripts/benchmarks/test_peers.py",
    "plot": "tests/cli/test_plot.py",
    "proto": "tests/config/test_schema.py",
    "safetensors": "tests/snapshot/test_safetensors.py tests/apps/test_load.py",
    "tensorboard": "tests/cli/test_tensorboard.py",
    "test": "-n 2 tests/test_kept.py tests/test_floors.py tests/test_house.py tests/scripts/test_wheel.py",
    "text": "tests/data/test_pieces.py",
}
"""{extra: the arguments of pytest}."""
ALSO = {"build": ("setuptools",), "notebooks": ("scikit-learn",), "onnx": ("onnxruntime",)}
"""{extra: what only its tests or commands need}, in its oldest version, too."""
NEWER = {extra: {"numpy": "numpy==2.0", "h5py": "h5py==3.11"} for extra in ("cuda12", "cuda13", "nvrtc")}
"""{extra: {package: its oldest version there}}: CuPy 14 asks for NumPy 2, which h5py knows from 3.11 on."""
COMMANDS = {
    "build": ("-m build --no-isolation --outdir {folder} .", "-m twine check --strict {folder}/*"),
    "docs": ("-m mkdocs build --strict --quiet --site-dir {folder}", "scripts/check_site.py {folder}"),
    "test": ("-m ruff check .",),
}
"""{extra: what else is run}, arguments of the interpreter. Types are checked with NumPy's newest stubs."""


def requirements():
    """Return {extra: {package: requirement of its lower bound}} of setup.cfg; "core" is minidrop's own."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = {"core": setup["options"]["install_requires"], **setup["options.extras_require"]}
    return {extra: dict(map(_lowest, filter(None, text.split("\n")))) for extra, text in texts.items()}


def _lowest(line):
    found = re.fullmatch(r"([\w-]+)(\[\w+\])? >=([\d.]+)(?:,<[\d.]+)?(?:; .+)?", line)
    if found is None:
        raise SystemExit(f"setup.cfg: expected NAME >=VERSION or NAME >=VERSION,<VERSION, perhaps with a "
                         f"marker behind it, got {line!r}")
    return found[1], f"{found[1]}{found[2] or ''}=={found[3]}"


def run(extra, wanted, more, folder):
    """Install an extra in a new environment, and run its tests; return what went wrong, "" if nothing."""
    own = wanted["core"] | {name: wanted["test"][name] for name in TOOLS}
    every = {name: pin for pins in wanted.values() for name, pin in pins.items()}
    own |= {name: every[name] for name in ALSO.get(extra, ())} | wanted[extra] | NEWER.get(extra, {})
    place = Path(folder, extra)
    venv.create(place, with_pip=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    print(f"== {extra}: {' '.join(own.values())}", flush=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *own.values()]
    if subprocess.run(pip).returncode:
        return "cannot be installed"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1",
                   "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    for command in COMMANDS.get(extra, ()):
        # A shell for the * of twine's files; nothing in it comes from outside.
        line = f'"{python}" {command.format(folder=place / "out")}'
        if subprocess.run(line, shell=True, cwd=ROOT, env=environment).returncode:
            return f"python {command} failed"
    if extra not in TESTS:
        return ""
    line = f'"{python}" -m pytest -q -rs -p no:cacheprovider {TESTS[extra]} {more}'
    done = subprocess.run(line, shell=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout[-6000:], flush=True)
    if done.returncode:
        return "tests failed"
    missing = [name for name in wanted[extra] if re.search(rf"^SKIPPED.*\b{name}\b.*", done.stdout, re.M)]
    return f"tests were skipped for want of {', '.join(missing)}" if missing else ""


def main():
    wanted = requirements()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(wanted)}")
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS", help="more arguments of pytest")
    given = parser.parse_args()
    for extra in given.extras:
        if extra not in wanted:
            parser.error(f"{extra!r} is no extra of setup.cfg ({', '.join(wanted)})")
    results = {}
    for extra in given.extras or wanted:
        with tempfile.TemporaryDirectory(prefix="minidrop-oldest-") as folder:
            results[extra] = run(extra, wanted, given.pytest, folder)
    print(f"== Python {sys.version.split()[0]}")
    for extra, problem in results.items():
        print(f"{extra:12} {problem or 'passed'}  ({', '.join(wanted[extra].values())})")
    sys.exit(any(results.values()))


if __name__ == "__main__":
    main()
