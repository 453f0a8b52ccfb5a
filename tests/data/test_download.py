import gzip
import hashlib
import http.server
import lzma
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from programs import run_minidrop

from minidrop.data import DATA_SETS, HDF5Records, download, find_source
from minidrop.errors import DataError

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8))
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server:
    """A loopback server of made-up files: path -> bytes, with the faults of real mirrors."""

    def __init__(self):
        self.files, self.requests = {}, []
        self.ranges = True          # honour Range
        self.break_after = []       # one entry a request: send only so many bytes of the body
        self.status = None          # answer everything with this
        self.wrong_range = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                outer.requests.append((self.path, asked))
                body = outer.files.get(self.path)
                if outer.status or body is None:
                    return self.send_error(outer.status or 404)
                begin = int(asked[6:-1]) if asked and outer.ranges else 0
                if begin and begin >= len(body):
                    return self.send_error(416)
                self.send_response(206 if asked and outer.ranges else 200)
                if asked and outer.ranges:
                    shown = 0 if outer.wrong_range else begin
                    self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - begin))
                self.end_headers()
                end = begin + outer.break_after.pop(0) if outer.break_after else len(body)
                self.wfile.write(body[begin:end])

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.001)
    server = Server()
    server.files["/f"] = CONTENT
    yield server
    server.http.shutdown()
    server.http.server_close()


def fetch(server, folder, mirrors=("",)):
    return download.download("f", MD5, [server.url + mirror for mirror in mirrors], folder)


def test_a_plain_download(server, tmp_path):
    path = fetch(server, tmp_path / "new" / "raw")
    assert path == tmp_path / "new/raw/f" and path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["f"] and server.requests == [("/f", None)]


def test_a_piece_that_is_there_is_not_fetched_again(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT[:30_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/f", "bytes=30000-")]


def test_a_whole_piece_needs_no_request(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == []


def test_a_broken_connection_goes_on_where_it_stopped(server, tmp_path):
    server.break_after = [20_000, 10_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=20000-", "bytes=30000-"]


def test_a_failed_run_leaves_its_piece_for_the_next(server, tmp_path):
    server.break_after = [20_000, 0, 0, 0]
    with pytest.raises(DataError, match="broke off after 20000 of 50000 bytes.*run this again"):
        fetch(server, tmp_path)
    assert (tmp_path / "f.part").stat().st_size == 20_000
    server.break_after, server.requests = [], []
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/f", "bytes=20000-")]


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "f.part").write_bytes(CONTENT[:30_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("piece", [b"x" * 30_000, b"x" * 60_000, b"x" * 50_000],
                         ids=["short", "too long", "as long"])
def test_a_wrong_piece_is_thrown_away(server, tmp_path, piece):
    (tmp_path / "f.part").write_bytes(piece)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_wrong_md5_is_refused_after_one_request(server, tmp_path):
    server.files["/f"] = b"an error page"
    with pytest.raises(DataError, match=f"expected the md5 {MD5}, got [0-9a-f]{{32}}"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == [] and len(server.requests) == 1


@pytest.mark.parametrize("first", ["missing", "wrong md5", "nobody listens", "no address"])
def test_the_next_mirror_is_tried(server, tmp_path, first):
    server.files["/wrong/f"] = b"something else"
    mirror = {"missing": server.url + "/none/", "wrong md5": server.url + "/wrong/",
              "nobody listens": "http://127.0.0.1:1/", "no address": "nonsense"}[first]
    path = download.download("f", MD5, [mirror, server.url], tmp_path)
    assert path.read_bytes() == CONTENT


def test_every_mirrors_reason_is_in_the_message(server, tmp_path):
    with pytest.raises(DataError) as caught:
        download.download("f", MD5, [server.url + "/a", "http://127.0.0.1:1/"], tmp_path)
    message = str(caught.value)
    assert f"{server.url}/a/f: HTTP 404 Not Found" in message and "http://127.0.0.1:1/f: " in message
    assert "refused" in message and "--from" in message and "\n" not in message


def test_server_errors_are_tried_again_and_then_named(server, tmp_path):
    server.status = 503
    with pytest.raises(DataError, match="HTTP 503"):
        fetch(server, tmp_path)
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["wrong range", "endless"])
def test_servers_that_do_not_keep_to_the_rules(server, tmp_path, monkeypatch, fault):
    if fault == "wrong range":
        server.wrong_range = True
        (tmp_path / "f.part").write_bytes(CONTENT[:30_000])
        message = "asked for the bytes from 30000 on, got bytes 0-"
    else:
        monkeypatch.setattr(download, "SIZE_LIMIT", 1000)
        message = "more than"
    with pytest.raises(DataError, match=message):
        fetch(server, tmp_path)


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written.*MINIDROP_CACHE"):
        fetch(server, tmp_path / "file" / "raw")


# The command itself, as a user runs it.

def environment(cache, data, more):
    return {**os.environ, "MINIDROP_CACHE": str(cache), "MINIDROP_DATA": str(data), "no_proxy": "127.0.0.1",
            **more}


def run_data(*arguments, cache, data="", **more):
    return run_minidrop("data", *arguments, environment=environment(cache, data, more))


def run_process(*arguments, cache, data="", **more):
    return subprocess.run([sys.executable, "-m", "minidrop", "data", *map(str, arguments)],
                          capture_output=True, text=True, env=environment(cache, data, more), timeout=120)


def fails_with_one_line(result, *parts):
    assert result.returncode == 1 and result.stdout == "", result
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


@pytest.fixture
def real_mnist():
    folder = Path(os.environ.get("MINIDROP_DATA", "")) / "mnist"
    if "MINIDROP_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("$MINIDROP_DATA/mnist is absent")
    return folder


def test_digits(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is absent")
    result = run_data("digits", cache=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    parts = [HDF5Records(find_source(f"digits/{part}.txt"), ("data", "label")) for part in ("train", "test")]
    assert [len(part) for part in parts] == [1442, 355]
    assert parts[0].shapes("data") == (1, 8, 8) and parts[0].dtypes("data") == np.uint8
    everything = [part.read(np.arange(len(part))) for part in parts]
    assert max(part["data"].max() for part in everything) == 16
    assert [np.bincount(part["label"]).min() for part in everything] == [140, 34]
    assert sorted(os.listdir(tmp_path / "digits")) == ["test.h5", "test.txt", "train.h5", "train.txt"]


@pytest.mark.parametrize("way", ["environment", "from"])
def test_mnist_from_files_at_hand(real_mnist, tmp_path, way):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in real_mnist.iterdir())
    if way == "from":
        result = run_data("mnist", "--from", real_mnist, cache=tmp_path)
    else:
        result = run_data("mnist", cache=tmp_path, data=real_mnist.parent)
    assert (result.returncode, result.stderr) == (0, "")
    with h5py.File(tmp_path / "mnist/train.h5") as train, h5py.File(tmp_path / "mnist/test.h5") as test:
        assert train["data"].shape == (60000, 1, 28, 28) and train["data"].dtype == np.uint8
        assert train["label"].dtype == np.int64 and train["label"][:5].tolist() == [5, 0, 4, 1, 9]
        assert test["data"].shape == (10000, 1, 28, 28) and test["label"][:5].tolist() == [7, 2, 1, 0, 4]
        assert train["data"][:].mean() == pytest.approx(33.318, abs=1e-3)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in real_mnist.iterdir()) == before
    again = run_data("mnist", cache=tmp_path)
    assert again.returncode == 0 and "already in" in again.stdout


TEXTS = [("ptb", {"train.txt": 5_101_618, "valid.txt": 399_782, "test.txt": 449_945}),
         ("tinyshakespeare", {"input.txt": 1_115_394})]


@pytest.mark.parametrize("way", ["environment", "from"])
@pytest.mark.parametrize("name, sizes", TEXTS)
def test_texts_from_files_at_hand(tmp_path, name, sizes, way):
    folder = Path(os.environ.get("MINIDROP_DATA", "")) / name
    if "MINIDROP_DATA" not in os.environ or not folder.is_dir():
        pytest.skip(f"$MINIDROP_DATA/{name} is absent")
    arguments, data = ((name, "--from", folder), "") if way == "from" else ((name,), folder.parent)
    result = run_data(*arguments, cache=tmp_path, data=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert {path.name: path.stat().st_size for path in (tmp_path / name).iterdir()} == sizes
    for file_name in sizes:
        assert f'source "{name}/{file_name}"' in result.stdout
    # What is there and whole is left alone; what is damaged is made again.
    again = run_data(name, cache=tmp_path)
    assert again.returncode == 0 and "already in" in again.stdout
    damaged = tmp_path / name / min(sizes)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert run_data(*arguments, cache=tmp_path, data=data).returncode == 0
    assert damaged.stat().st_size == sizes[min(sizes)]


def test_of_a_set_with_one_bad_text_nothing_is_made(tmp_path):
    real = Path(os.environ.get("MINIDROP_DATA", "")) / "ptb"
    if "MINIDROP_DATA" not in os.environ or not real.is_dir():
        pytest.skip("$MINIDROP_DATA/ptb is absent")
    folder, cache = tmp_path / "from", tmp_path / "cache"
    folder.mkdir()
    for path in real.glob("*.xz"):
        (folder / path.name).write_bytes(b"junk" if "valid" in path.name else path.read_bytes())
    fails_with_one_line(run_data("ptb", "--from", folder, cache=cache), "ptb.valid.txt.xz: expected a text")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("pack, end", [(bytes, ""), (lzma.compress, ".xz"), (gzip.compress, ".gz")])
def test_texts_of_another_content(tmp_path, server, pack, end):
    folder = tmp_path / "data" / "tinyshakespeare"
    folder.mkdir(parents=True)
    path = folder / f"input.txt{end}"
    path.write_bytes(pack(b"First Citizen:"))
    fails_with_one_line(run_data("tinyshakespeare", "--from", folder, cache=tmp_path / "cache"),
                        f"{path}: expected a text of the sha256 86c4e6aa9db7c042ec79f339dcb96d42b0075e16",
                        "fetch it again")
    server.files["/input.txt"] = b"First Citizen:"
    result = run_data("tinyshakespeare", "--mirror", server.url, cache=tmp_path / "cache",
                        data=folder.parent)
    assert result.returncode == 1
    warning, error = result.stderr.splitlines()
    assert warning.startswith(f"warning: {path}: expected a text of the sha256") and "left alone" in warning
    assert error.startswith("error: input.txt: no mirror delivered "
                            "it") and "6fb458f1232090904fb40fe944165e91" in error
    assert os.listdir(tmp_path / "cache/tinyshakespeare") == []


def test_a_text_that_is_downloaded(tmp_path, server):
    """The real one, from a server of our own."""
    real = Path(os.environ.get("MINIDROP_DATA", "")) / "tinyshakespeare" / "input.txt.xz"
    if "MINIDROP_DATA" not in os.environ or not real.is_file():
        pytest.skip("$MINIDROP_DATA/tinyshakespeare is absent")
    server.files["/input.txt"] = lzma.decompress(real.read_bytes())
    result = run_data("tinyshakespeare", "--mirror", server.url, cache=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "tinyshakespeare/input.txt").read_bytes() == server.files["/input.txt"]
    assert run_data("tinyshakespeare", "--force",
                      cache=tmp_path).returncode == 0 and len(server.requests) == 1


def test_texts_that_are_absent(tmp_path):
    fails_with_one_line(run_data("ptb", "--from", tmp_path, cache=tmp_path / "cache"),
                        "expected the files ptb.train.txt, ptb.valid.txt, ptb.test.txt, or these with .xz or "
                        ".gz", "got no ptb.train.txt; put it there or leave out --from")


def test_a_damaged_cache_is_made_again(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is absent")
    run_data("digits", cache=tmp_path)
    good = (tmp_path / "digits/train.h5").stat().st_size
    (tmp_path / "digits/train.h5").write_bytes(b"half")
    assert run_data("digits", cache=tmp_path).returncode == 0
    assert (tmp_path / "digits/train.h5").stat().st_size == good


def test_raw_files_of_another_md5(tmp_path, server):
    data = tmp_path / "data"
    (data / "mnist").mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
                 "t10k-labels-idx1-ubyte"):
        content = gzip.compress(struct.pack(">HBBI", 0, 8, 1, 1) + b"\0")
        (data / "mnist" / f"{name}.gz").write_bytes(content)
    fails_with_one_line(run_data("mnist", "--from", data / "mnist", cache=tmp_path / "cache"),
                        "expected the md5 f68b3c2dcbeaaa9fbdd348bbdeb94873", "fetch it again")
    result = run_data("mnist", "--mirror", server.url, cache=tmp_path / "cache", data=data)
    assert result.returncode == 1
    warning, error = result.stderr.splitlines()
    assert warning.startswith("warning: ") and "left alone" in warning
    assert error.startswith("error: train-images-idx3-ubyte.gz: no mirror delivered it") and "404" in error


def test_what_the_command_refuses(tmp_path, server):
    (tmp_path / "empty").mkdir()
    fails_with_one_line(run_data("mnist", "--from", tmp_path / "empty", cache=tmp_path / "cache"),
                        "got no train-images-idx3-ubyte.gz", "put it there or leave out --from")
    fails_with_one_line(run_data("mnist", "--mirror", server.url, cache=tmp_path / "data/cache",
                                   data=tmp_path / "data"), "outside $MINIDROP_DATA")
    assert not (tmp_path / "data").exists()
    (tmp_path / "file").write_text("")
    fails_with_one_line(run_data("digits", cache=tmp_path / "file"), "cannot be made",
                        "set MINIDROP_CACHE")


@pytest.mark.parametrize("arguments", [["cifar"], ["list", "--force"], ["digits", "--from", "."],
                                       ["mnist", "--from", "nowhere"]])
def test_wrong_usage_exits_2(tmp_path, arguments):
    result = run_data(*arguments, cache=tmp_path)
    assert result.returncode == 2 and "Usage: " in result.stderr and "Traceback" not in result.stderr


def test_help():
    result = run_process("--help", cache="")
    assert result.returncode == 0
    for word in ("--from", "$MINIDROP_DATA/NAME", "$MINIDROP_CACHE/NAME", *DATA_SETS):
        assert word in result.stdout
