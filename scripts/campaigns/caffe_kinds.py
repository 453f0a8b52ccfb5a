"""Kinds of files of Caffe's that a campaign damages: old nets, Datums, databases, weights and states."""

import io
import shutil
from pathlib import Path

import numpy as np
from damage import damaged

from minidrop import Net, Solver
from minidrop.config import NetConfig, NetParameter, load_net, parse_solver
from minidrop.config.minidrop_pb2 import Datum
from minidrop.data.binaryproto import read_blob, write_blob
from minidrop.data.database_writer import new_database
from minidrop.data.databases import open_database
from minidrop.data.datum import read_datum
from minidrop.data.datum_records import DatumRecords

WORDS = ("layers", "layer", "{", "}", "padding", "conv", "pool", "CONVOLUTION", "POOLING", "NONE", "-1", "0",
         "2", "4294967295", "1e39", "nan", '""', '"data"', "blobs { shape { dim: 9999999 } data: 1 }",
         "pad: 7", "kernelsize: 0", "input: \"x\"", "input_dim: 0", "name", "top:", "bottom:")


class OldNets:
    """V0 and V1 nets, changed word by word; what can be read is built."""

    def __init__(self, folder):
        whole = Path(__file__).resolve().parent / "whole"
        self.texts = [(whole / f"{name}.prototxt").read_text() for name in ("v0", "v1")]

    def mutant(self, rng):
        text = rng.choice(self.texts)
        if rng.random() < 0.2:
            return {"net.prototxt": damaged(rng, text.encode())}
        words = text.replace("{", " { ").replace("}", " } ").split(" ")
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            at, how = rng.randrange(len(words)), rng.randrange(4)
            if how == 0:
                words[at] = rng.choice(WORDS)
            elif how == 1:
                words[at] = rng.choice(words)
            elif how == 2:
                del words[at]
            else:
                words[at:at] = words[rng.randrange(len(words)):][:rng.randint(1, 12)]
        return {"net.prototxt": " ".join(words).encode()}

    def read(self, folder):
        Net(load_net(folder / "net.prototxt"), device="cpu", fills=False).close()


def datums(rng):
    """Serialized Datums of every form: bytes, numbers, images in a format."""
    from PIL import Image

    pixels = rng.integers(0, 256, (6, 5, 3), np.uint8)
    made = [Datum(channels=3, height=6, width=5, label=7, data=pixels.tobytes()),
            Datum(channels=3, height=6, width=5, label=1, float_data=pixels.reshape(-1).tolist())]
    for form in ("PNG", "JPEG", "BMP"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        made.append(Datum(label=3, encoded=True, data=file.getvalue()))
    return [datum.SerializeToString() for datum in made]


class Datums:
    """Datums, of which each is read as it is, in colour, and in gray."""

    def __init__(self, folder):
        self.whole = datums(np.random.default_rng(0))

    def mutant(self, rng):
        return {"a.datum": damaged(rng, rng.choice(self.whole))}

    def read(self, folder):
        content = (folder / "a.datum").read_bytes()
        for color in (None, True, False):
            try:
                read_datum(content, color)
            except ValueError as error:         # the layer makes a message of it
                assert str(error)


class Databases:
    """LMDB and LevelDB databases with one of their files damaged, read from end to end and at some places."""

    def __init__(self, folder):
        self.whole = {}
        records = datums(np.random.default_rng(0))
        for kind in ("LMDB", "LEVELDB"):
            with new_database(folder / kind, kind) as put:
                for i in range(200):
                    put(b"%08d" % i, records[i % len(records)])
            self.whole[kind] = {path.name: path.read_bytes() for path in (folder / kind).iterdir()
                                if path.name not in ("LOCK", "LOG", "lock.mdb")}
            shutil.rmtree(folder / kind)

    def mutant(self, rng):
        files = dict(self.whole[rng.choice(list(self.whole))])
        name = rng.choice(list(files))
        files[name] = damaged(rng, files[name])
        return files

    def read(self, folder):
        records = DatumRecords(open_database(folder, "LMDB" if (folder / "data.mdb").exists() else "LEVELDB"))
        try:
            count = min(len(records), 400)
            for index in (*range(count), 0, count // 2, len(records) - 1):
                records.one(index)
        finally:
            records.close()


class Weights:
    """Caffe's files of weights, states and means, binary and HDF5, of every version."""

    def __init__(self, folder):
        net = (Path(__file__).resolve().parent / "whole" / "v1.prototxt").read_text()
        text = f"base_lr: 0.1 lr_policy: 'fixed' momentum: 0.9 max_iter: 9 net_param {{ {net} }}"
        self.solver = Solver(parse_solver(text), device="cpu")
        self.solver.step(1)
        self.whole = {}
        for ending in ("", ".h5"):
            self.solver.save_solverstate(folder / f"s.solverstate{ending}")
        for path in folder.glob("s.*"):
            self.whole[path.name] = path.read_bytes()
        net = NetParameter.FromString(self.whole["s.caffemodel"])
        old, oldest = NetParameter(), NetParameter()
        for layer in net.layer:
            old.layers.add(name=layer.name, blobs=layer.blobs)
            oldest.layers.add().layer.MergeFrom(type(oldest.layers.add().layer)(name=layer.name,
                                                                                blobs=layer.blobs))
        self.whole["v1.caffemodel"] = old.SerializeToString()
        self.whole["v0.caffemodel"] = oldest.SerializeToString()
        write_blob(folder / "mean.binaryproto", np.arange(60.0).reshape(3, 4, 5))
        self.whole["mean.binaryproto"] = (folder / "mean.binaryproto").read_bytes()
        for path in [*folder.glob("s.*"), folder / "mean.binaryproto"]:
            path.unlink()

    def mutant(self, rng):
        name = rng.choice(list(self.whole))
        files = {name: damaged(rng, self.whole[name])}
        if ".solverstate" in name:
            weights = name.replace("solverstate", "caffemodel")
            files[weights] = self.whole[weights]
        return files

    def read(self, folder):
        path = next(path for path in sorted(folder.iterdir(), key=lambda path: "solverstate" not in path.name)
                    if path.name in self.whole)
        if path.suffix == ".binaryproto":
            read_blob(path)
        elif ".solverstate" in path.name:
            self.solver.restore(path)
        else:
            try:
                self.solver.net.load_weights(path)
            finally:
                if path.suffix == ".caffemodel":
                    upgrade(path.read_bytes())


def upgrade(content):
    """What `minidrop upgrade` does with the bytes of a binary net."""
    from google.protobuf.message import DecodeError

    try:
        message = NetParameter.FromString(content)
    except DecodeError:
        return
    NetConfig.of(message)


CAFFE_KINDS = {"old nets": OldNets, "datums": Datums, "databases": Databases, "weights": Weights}
