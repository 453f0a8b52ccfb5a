"""The kinds of files that a campaign damages: whole ones, how to damage them, and what reads them."""

import gzip
import lzma
import struct
from pathlib import Path

import checksums
import numpy as np
from caffe_kinds import CAFFE_KINDS
from damage import damaged

from minidrop import Net, Solver, load_weights
from minidrop.config import load_net, load_solver
from minidrop.data import HDF5Records, Sentences, TextStreams, Vocabulary, read_idx, read_text
from minidrop.errors import MinidropError
from minidrop.snapshot import Snapshot, newest_valid, read_snapshot, write_snapshot
from minidrop.snapshot.seal import SEAL_SIZE, write_seal

AMOUNTS = ("-1", "0", "1", "2", "3", "1e9", "1e-300", "1e300", "nan", "inf", "-inf", "2147483647",
           "2147483648", "4294967295", "9" * 30, "-0.0")
WORDS = (*AMOUNTS, '""', "'x'", "{", "}", "<", ">", "[", "]", ":", ",", ";", "#", "\\", "\0", "\n", "true",
         "false", "TRAIN", "AVE", "layer", "name", "top", "bottom", '"data"', '"ip1"', "phase: TEST",
         '"../../etc/passwd"', '"\\377"', "\u2028", "\udcff", "\x1b[2J")
ODD_VALUES = (0, 1, -1, 2**62, 2**63 - 1, 0.5, float("inf"), float("nan"), "", "x", "{}", "[]", "[[]]", "[1]",
              "null", '{"a": 1}', "[" * 5000, "Adam")


class Config:
    """Net and solver files, changed word by word; what can be read is built, and trained for a step."""

    def __init__(self, folder):
        (folder / "a.txt").write_text("the cat sat\non the mat\n" * 20)
        self.nets = [PERCEPTRON, LANGUAGE_MODEL]
        self.solvers = [SOLVER, SOLVER.replace("SGD", "Adam"),
                        SOLVER + "clip_gradients: 1 test_iter: 1 test_interval: 1"]

    def mutant(self, rng):
        if rng.random() < 0.5:
            return {"net.prototxt": self._changed(rng, rng.choice(self.nets))}
        nets = PERCEPTRON if rng.random() < 0.5 else LANGUAGE_MODEL
        return {"solver.prototxt": self._changed(rng, rng.choice(self.solvers)),
                "net.prototxt": nets.encode()}

    def _changed(self, rng, text):
        if rng.random() < 0.2:
            return damaged(rng, text.encode())
        words = text.replace("{", " { ").replace("}", " } ").split(" ")
        for _ in range(rng.choice((1, 1, 1, 2))):
            at, how = rng.randrange(len(words)), rng.randrange(8)
            if how == 0:
                words[at] = rng.choice(WORDS)
            elif how == 1:
                words[at] = rng.choice(words)
            elif how == 2:
                del words[at]
                words = words or ["x"]
            elif how == 3:
                words[at:at] = words[rng.randrange(len(words)):][:rng.randint(1, 12)]
            else:
                numbers = [i for i, word in enumerate(words) if word.strip().replace(".", "").isdigit()]
                words[rng.choice(numbers or [at])] = rng.choice(AMOUNTS)
        return " ".join(words).encode("utf-8", "surrogatepass")

    def read(self, folder):
        if not (folder / "solver.prototxt").exists():
            Net(load_net(folder / "net.prototxt"), phase="TRAIN", device="cpu").close()
            return
        solver = Solver(load_solver(folder / "solver.prototxt"), device="cpu")
        work = [solver.settings.iter_size, *solver.settings.test_iter]
        try:
            if max(work) < 10:      # a file may ask for years, and gets them
                solver.step(1)
        finally:
            solver.close()


class HDF5:
    """HDF5 files in the forms that the library knows, half of them with their checksums made right again."""

    def __init__(self, folder):
        import h5py

        data = np.arange(240, dtype="f4").reshape(40, 3, 2)
        forms = [{}, {"chunks": (7, 3, 2)}, {"chunks": (7, 2, 1), "compression": "gzip"},
                 {"chunks": (7, 3, 2), "compression": "gzip", "shuffle": True, "fletcher32": True},
                 {"chunks": (7, 3, 2), "compression": "lzf", "shuffle": True},
                 {"chunks": (8, 3, 2), "scaleoffset": 2}, {"chunks": (8, 3, 2), "maxshape": (None, 3, 2)},
                 {"chunks": (8, 3, 2), "maxshape": (None, None, 2), "compression": "gzip"},
                 {"chunks": (40, 3, 2), "compression": "gzip"}, {"dtype": ">f8"}, {"dtype": "i2"}]
        self.whole = []
        for form in forms:
            for version in ("earliest", "latest"):
                path = folder / "whole.h5"
                with h5py.File(path, "w", libver=(version, "latest")) as h5:
                    h5.create_dataset("data", data=data, **form)
                    h5["label"] = np.arange(40)
                content = path.read_bytes()
                self.whole.append((content, checksums.summed_blocks(content)))
                path.unlink()

    def mutant(self, rng):
        content, blocks = rng.choice(self.whole)
        mend = rng.random() < 0.5
        content = damaged(rng, content, keep_length=mend and bool(blocks))
        return {"a.h5": checksums.repaired(content, blocks) if mend else content}

    def read(self, folder):
        (folder / "list.txt").write_text("a.h5\n")
        records = HDF5Records(folder / "list.txt", ("data", "label"))
        records.read(np.arange(min(len(records), 100)))
        records.read(np.array([len(records) - 1]))


class Snapshots:
    """Snapshots: damaged as they are, damaged and sealed again, or with values that no run has."""

    def __init__(self, folder):
        (folder / "a.txt").write_text("the cat sat\non the mat\n" * 20)
        (folder / "net.prototxt").write_text(LANGUAGE_MODEL)
        (folder / "solver.prototxt").write_text(SOLVER)
        self.solver = Solver(load_solver(folder / "solver.prototxt"), device="cpu")
        self.solver.step(1)
        path = self.solver.snapshot(folder / "whole.h5")
        self.content, self.snapshot = path.read_bytes(), read_snapshot(path)
        self.blocks = [(begin + SEAL_SIZE, end + SEAL_SIZE)
                       for begin, end in checksums.summed_blocks(self.content[SEAL_SIZE:])]
        self.folder = folder
        path.unlink()

    def mutant(self, rng):
        kind = rng.randrange(5)
        if kind == 0:
            return {"a.h5": damaged(rng, self.content)}
        path = self.folder / "made.h5"
        if kind == 1:
            self._write_odd(rng, path)
        else:
            content = (damaged(rng, self.content, SEAL_SIZE, keep_length=kind == 3) if kind < 4
                       else self._forged(rng))
            path.write_bytes(checksums.repaired(content, self.blocks) if kind >= 3 else content)
            with open(path, "r+b", buffering=0) as file:
                write_seal(file, 1)
        try:
            return {"a.h5": path.read_bytes()}
        finally:
            path.unlink(missing_ok=True)

    def _forged(self, rng):
        """A change inside HDF5's own structures, where it does the most harm."""
        content = bytearray(self.content)
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.randrange(*rng.choice(self.blocks))
            content[place] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
        return bytes(content)

    def _write_odd(self, rng, path):
        arrays, attrs = dict(self.snapshot.arrays), dict(self.snapshot.attrs)
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.5:
                name = rng.choice(sorted(attrs))
                attrs[name] = rng.choice(ODD_VALUES)
                if rng.random() < 0.2:
                    del attrs[name]
            else:
                name = rng.choice(sorted(arrays))
                old = arrays[name]
                lost = (old * np.nan).astype(old.dtype) if old.dtype.kind == "f" else old
                arrays[name] = rng.choice((np.zeros((0,)), np.array(2**62), np.array([2**62]),
                                           np.array([2**63 - 1]), old.reshape(-1), old.astype("f8"),
                                           old.astype("?"),
                                           np.full_like(old, -1), lost))
                if rng.random() < 0.2:
                    arrays[f"{name}_{rng.randrange(3)}"] = arrays.pop(name)
        try:
            write_snapshot(path, Snapshot(arrays, attrs))
        except MinidropError:       # no such snapshot can be
            path.write_bytes(self.content)

    def read(self, folder):
        path = folder / "a.h5"
        newest_valid(folder)
        try:
            load_weights(self.solver.net, path)
        finally:
            self.solver.restore(path)
            self.solver.step(1)


class Text:
    """Texts plain and packed, vocabularies, idx files and lists of files."""

    def __init__(self, folder):
        text = ("the cat sat\non the mat \u3000 <unk> \u00e9t\u00e9\n\n" * 8).encode()
        self.texts = [text, gzip.compress(text, mtime=0), lzma.compress(text)]
        Vocabulary.build(text.decode().split()).save(folder / "whole.vocabulary")
        idx = struct.pack(">HBB2I", 0, 0x0B, 2, 6, 4) + bytes(48)
        self.others = {"a.vocabulary": [(folder / "whole.vocabulary").read_bytes()],
                       "a.idx": [idx, gzip.compress(idx, mtime=0)],
                       "list.txt": [b"a.h5\nb.h5\n \nfolder/c.h5\n"]}

    def mutant(self, rng):
        name = rng.choice(("a.txt", "a.txt", "a.txt", "a.txt", *self.others))
        return {name: damaged(rng, rng.choice(self.texts if name == "a.txt" else self.others[name]))}

    def read(self, folder):
        if (folder / "a.idx").exists():
            read_idx(folder / "a.idx")
        elif (folder / "list.txt").exists():
            HDF5Records(folder / "list.txt", ("data",))
        elif (folder / "a.vocabulary").exists():
            words = Vocabulary.load(folder / "a.vocabulary")
            words.decode(words.encode("the cat\nx"))
        else:
            read_text(folder / "a.txt", "CHARACTER")
            text = read_text(folder / "a.txt")
            TextStreams(text.indices, 2, 3).batch(5)
            Sentences(text.indices, text.vocabulary.eos, 2, 3, True).batch(5)


MODELS = Path(__file__).resolve().parents[2] / "models"
WHOLE = Path(__file__).resolve().parent / "whole"
PERCEPTRON, LANGUAGE_MODEL, SOLVER = ((WHOLE / f"{name}.prototxt").read_text()
                                      for name in ("perceptron", "language_model", "solver"))
KINDS = {"config": Config, "hdf5": HDF5, "snapshot": Snapshots, "text": Text,
         **CAFFE_KINDS}
