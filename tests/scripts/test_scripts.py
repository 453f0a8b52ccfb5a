"""The scripts as a user runs them: each in a process of its own, with a cache of its own."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cases
import h5py
import numpy as np
import pytest
from programs import run_here, run_minidrop

from minidrop.data.mean_file import read_mean

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with an empty cache that holds the digits; without scikit-learn there are none."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, which is not installed")
    cache = tmp_path_factory.mktemp("cache")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {name: value for name, value in os.environ.items() if name != "MINIDROP_DATA"}
    environment |= {"MINIDROP_CACHE": str(cache), "PYTHONPATH": path}
    done = run_minidrop("data", "digits", environment=environment)
    assert done.returncode == 0, done.stderr
    return environment


def run(environment, script, *arguments, folder=ROOT):
    """A script in this process, which has loaded already what takes the time."""
    return run_here(SCRIPTS / script, *arguments, environment=environment, folder=folder)


def run_process(environment, script, *arguments, folder=ROOT):
    return subprocess.run([sys.executable, SCRIPTS / script, *arguments], capture_output=True, text=True,
                          env=environment, cwd=folder, timeout=300)


def test_train_embedded(environment, tmp_path):
    done = run(environment, "train_embedded.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert re.search(r"physical \(128, 5\d\d\), logical \(128, 1024\), mask \(128, 1024\)", text)
    assert float(re.search(r"largest difference of a gradient of ip2 (\S+)", text).group(1)) < 1e-9
    assert "equal bit for bit: True" in text
    accuracies = [float(found) for found in re.findall(r"test accuracy (0\.\d+|1\.0+)", text)]
    assert len(accuracies) == 3 and min(accuracies) > 0.9
    assert not list(tmp_path.iterdir())


class TestComputeMean:
    @pytest.fixture
    def source(self, tmp_path):
        data = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5)).astype(np.uint8)
        for number in range(2):
            with h5py.File(tmp_path / f"{number}.h5", "w") as h5:
                h5["data"], h5["video"] = data[number::2], np.zeros((25, 1, 2, 3, 4))
        (tmp_path / "list.txt").write_text("0.h5\n1.h5\n")
        return tmp_path / "list.txt", data

    @pytest.mark.parametrize("name", ["mean.npy", "mean.binaryproto"])
    def test_what_it_writes(self, source, tmp_path, name):
        path, data = source
        done = run({}, "compute_mean.py", path, tmp_path / name)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(read_mean(tmp_path / name), data.mean(axis=0), rtol=1e-6)
        first, *channels = done.stdout.splitlines()
        assert first == f"{tmp_path / name}: the mean of 50 records of shape (3, 4, 5)"
        assert channels[1] == f"channel 1: mean_value: {data[:, 1].mean():.6g}" and len(channels) == 3

    @pytest.mark.parametrize("arguments, status, message", [
        (["list.txt", "m.npy", "--name", "video"], 1, "expected records of at most 3 axes"),
        (["list.txt", "m.npy", "--name", "vdeo"], 1, "'vdeo'"),
        (["none.txt", "m.npy"], 1, "source 'none.txt': no such file"),
        (["list.txt", "no/m.npy"], 1, "error: no/m.npy: cannot be written: No such file or directory; give"),
        (["list.txt", "no/m.binaryproto"], 1, "error: no/m.binaryproto: cannot be written: No such"),
        (["list.txt"], 2, "Usage: "),
    ])
    def test_mistakes_are_one_clear_message(self, source, tmp_path, arguments, status, message):
        done = run({}, "compute_mean.py", *arguments, folder=tmp_path)
        assert done.returncode == status and message in done.stderr and not done.stdout
        assert "Traceback" not in done.stderr and (status == 2 or done.stderr.count("\n") == 1)


def test_sanitize_says_in_one_line_what_it_needs():
    from minidrop.backend import cuda_devices
    if cuda_devices()[0]:
        pytest.skip("there is a GPU here")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = run_process({**os.environ, "PYTHONPATH": path}, "sanitize.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sanitize.py needs an NVIDIA GPU that CuPy can use: ")
    assert done.stderr.endswith("; see `minidrop devices`\n") and done.stderr.count("\n") == 1


class TestSanitize:
    """With a compute-sanitizer that is a shell script."""

    @pytest.fixture
    def sanitize(self, monkeypatch):
        monkeypatch.syspath_prepend(str(SCRIPTS))
        import sanitize
        yield sanitize
        sys.modules.pop("sanitize", None)

    @pytest.fixture
    def tool(self, tmp_path):
        def make(folder, status=0):
            path = tmp_path / folder / "compute-sanitizer"
            path.parent.mkdir(parents=True)
            path.write_text(f'#!/bin/sh\necho "$@"\necho "========= ERROR SUMMARY: {status} errors"\nexit '
                            f'{status}\n')
            path.chmod(0o755)
            return path
        return make

    def test_where_it_is_looked_for(self, sanitize, tool, tmp_path):
        roots = (tmp_path / "local",)
        assert sanitize.find_sanitizer({}, roots) in (None, sanitize.find_sanitizer({}, ()))
        of_pip = sanitize.find_sanitizer({}, ())
        newer = tool("local/cuda-13/bin")
        assert sanitize.find_sanitizer({}, roots) == str(newer)
        tool("local/cuda-12/bin")
        assert sanitize.find_sanitizer({}, roots) == str(newer)
        home = tool("home/bin")
        assert sanitize.find_sanitizer({"CUDA_HOME": str(home.parents[1])}, roots) == str(home)
        on_path = tool("path")
        assert sanitize.find_sanitizer({"CUDA_HOME": str(home.parents[1]), "PATH": str(on_path.parent)},
                                       roots) == str(on_path)
        assert of_pip is None or "nvidia" in of_pip

    def test_without_the_tool(self, sanitize, monkeypatch):
        monkeypatch.setattr("minidrop.backend.cuda_devices", lambda: (1, ""))
        assert sanitize.missing(None).startswith("needs compute-sanitizer: install the CUDA toolkit")
        assert sanitize.missing("/bin/compute-sanitizer") == ""

    def test_findings_and_the_exit_status(self, sanitize, tool, monkeypatch, capsys):
        monkeypatch.setattr("minidrop.backend.cuda_devices", lambda: (1, ""))
        monkeypatch.setattr(sys, "argv", ["sanitize.py", "--tools", "memcheck", "racecheck"])
        for folder, status, expected in (("good", 0, 0), ("bad", 9, 1)):
            path = tool(folder, status)
            monkeypatch.setattr(sanitize, "find_sanitizer", lambda path=path: str(path))
            assert sanitize.main() == expected
            lines = capsys.readouterr().out.splitlines()
            word = "ok    " if status == 0 else "FAILED"
            assert [line for line in lines if line.startswith(word)] == [
                f"{word}  {name}: ERROR SUMMARY: {status} errors" for name in ("memcheck", "racecheck")]
        assert any("--tool racecheck --error-exitcode 9" in line
                   and line.endswith("-p sanitize -m gpu tests/kernels") for line in lines)


def test_mistakes_of_shell_scripts():
    shell = shutil.which("dash") or shutil.which("sh")
    if not shell:
        pytest.skip("no sh here to read the shell scripts")
    scripts = sorted(SCRIPTS.glob("*.sh"))
    assert {script.name for script in scripts} >= {"quickstart.sh", "test.sh", "environment.sh"}
    for script in scripts:
        done = subprocess.run([shell, "-n", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_package_imports_no_script():
    names = {script.stem for script in SCRIPTS.rglob("*.py")}
    for path in (ROOT / "minidrop").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else [])
            assert not {module.split(".")[0] for module in modules} & (names | {"scripts"}), path


class TestOldest:
    def test_every_extra_has_a_lower_bound_of_each_package_and_tests(self):
        oldest = cases.script("oldest")
        wanted = oldest.requirements()
        assert wanted["core"]["numpy"] == "numpy==1.26" and wanted["cuda12"] == {
            "cupy-cuda12x": "cupy-cuda12x[ctk]==14"}
        assert {*oldest.TESTS, *oldest.COMMANDS} == set(wanted)
        known = {name for pins in wanted.values() for name in pins}
        assert known >= {*oldest.TOOLS, *(name for names in oldest.ALSO.values() for name in names)}
        for arguments in oldest.TESTS.values():
            assert all((ROOT / word).is_file() for word in arguments.split() if word.startswith("tests/"))
        assert {*oldest.NEWER} <= {*wanted}
        assert {name for pins in oldest.NEWER.values() for name in pins} <= known
        with pytest.raises(SystemExit, match=r"setup.cfg: expected NAME >=VERSION .*, got 'numpy'"):
            oldest._lowest("numpy")

    def test_what_builds_a_wheel_is_as_old_as_what_is_tried(self):
        wanted = cases.script("oldest").requirements()["test"]["setuptools"]
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert f'requires = ["{wanted.replace("==", ">=")}"]' in text
