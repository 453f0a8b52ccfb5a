import os
import subprocess
import sys
from pathlib import Path

import pytest

from minidrop.data import DATA_SETS, cache_dir, find_source
from minidrop.errors import DataError


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The three folders that are searched, in their order: working folder, config's folder, cache."""
    folders = [tmp_path / name for name in ("work", "config", "cache")]
    for folder in folders:
        (folder / "mnist").mkdir(parents=True)
    monkeypatch.chdir(folders[0])
    monkeypatch.setenv("MINIDROP_CACHE", str(folders[2]))
    return folders


@pytest.mark.parametrize("present, expected", [((0, 1, 2), 0), ((1, 2), 1), ((2,), 2)])
def test_first_place_that_has_the_file_wins(places, present, expected):
    for place in present:
        (places[place] / "mnist/train.txt").write_text("train.h5\n")
    found = find_source("mnist/train.txt", places[1] / "net.prototxt")
    assert found == places[expected] / "mnist/train.txt"


def test_an_absolute_source_is_only_looked_for_itself(places):
    (places[0] / "train.txt").write_text("")
    assert find_source(str(places[0] / "train.txt")) == places[0] / "train.txt"


def test_a_name_without_a_folder_is_looked_for_beside_its_file_first(tmp_path, monkeypatch):
    """The working folder's file of the same name is another's; it is taken where there is no other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "list.txt").touch()
    assert find_source("list.txt", "model/net.prototxt") == tmp_path / "list.txt"
    (tmp_path / "model/list.txt").touch()
    assert find_source("list.txt", "model/net.prototxt") == tmp_path / "model/list.txt"
    assert find_source("./list.txt", "model/net.prototxt") == tmp_path / "list.txt"
    with pytest.raises(DataError, match="no such file") as caught:
        find_source("/nowhere/train.txt")
    assert "cache" not in str(caught.value)


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_missing_known_source_names_the_command_that_makes_it(places, name):
    with pytest.raises(DataError) as caught:
        find_source(f"{name}/train.txt", places[1] / "net.prototxt")
    message = str(caught.value)
    assert message.startswith(f"source '{name}/train.txt': no such file")
    assert message.endswith(f"minidrop data {name}")
    for folder in places:
        assert str(folder / name / "train.txt") in message
    assert "\n" not in message


def test_a_mistyped_data_set_is_suggested(places):
    with pytest.raises(DataError, match="did you mean 'mnist'"):
        find_source("mnits/train.txt")


@pytest.mark.parametrize("source, message", [("", "got an empty one"), ("mnist", "got the folder"),
                                             ("x" * 5000, "no such file|system refuses"),
                                             ("a\0b", "no such file|system refuses")])
def test_sources_that_are_no_file_are_explained(places, source, message):
    with pytest.raises(DataError, match=message):
        find_source(source)


def test_a_pipe_is_no_source(places):
    os.mkfifo("pipe")
    with pytest.raises(DataError, match="'pipe': expected a list file, got .*/work/pipe, a pipe or a device"):
        find_source("pipe")


def test_cache_dir_is_the_variable_else_below_home(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("MINIDROP_CACHE", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_dir() == Path("/home/someone/.cache/minidrop")


def test_importing_the_package_loads_no_hdf5_library():
    code = "import sys, minidrop.data; print('h5py' in sys.modules, 'tqdm' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
