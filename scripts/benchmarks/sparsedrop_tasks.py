"""The tasks of SparseDrop (Lo 2024) for reproduce_sparsedrop.py: nets, recipes, records.

Every product's input is dropped, products have no bias, and what is left out of the training set tells how
good a net is. Where the recipe is silent: all of a GPT's weights but vectors decay, and images are scaled.
"""

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import minidrop as md

# isort: split
import numpy as np
from bench_models import batches_per_pass
from drop_methods import parse_method

from minidrop.config import TRAIN, SolverParameter
from minidrop.config.assign import assign
from minidrop.config.transformer import Transformer
from minidrop.data import HDF5Records, find_source
from minidrop.data.prepare import is_made, write_part
from minidrop.net.conversion import convert_dropout

sys.path.append(str(Path(__file__).resolve().parents[1]))

from make_transformer import GPT_SPARSEDROP, VIT_SPARSEDROP, gpt, vit  # noqa: E402

SIDE = 32


@dataclass(frozen=True)
class Task:
    """A net, how it is trained, and what tells how good it is.

    data: the data set. shape: of the transformer; None for a perceptron of four products `width` wide.
    every: iterations between two looks at what was left out, at most `most` of them; `patience`: without a
    better result training ends after so many. records: to train on, and left out; of texts the last tenth is
    left out, and `looks` batches of it are read, 0: all.
    """

    data: str
    batch: int
    rate: float
    every: int
    most: int
    shape: Transformer | None = None
    width: int = 1024
    steps: int = 128
    patch: int = 2
    rule: str = "Adam"
    decay: float = 0.0
    records: tuple = (16384, 4096)
    patience: int = 5
    looks: int = 0

    @property
    def is_text(self):
        return self.data == "tinyshakespeare"

    @property
    def source(self):
        """What the data set is found by."""
        return f"{self.data}/{'input.txt' if self.is_text else 'train.txt'}"

    @property
    def measure(self):
        """What tells how good it is: "loss", the less the better, or "accuracy"."""
        return "loss" if self.is_text else "accuracy"

    @cached_property
    def left_out(self):
        """The batch size of the records that are left out: it divides them."""
        return next(size for size in range(min(128, self.records[1]), 0, -1) if self.records[1] % size == 0)

    def better(self, one, other):
        """Whether a value is better than another."""
        return one < other if self.is_text else one > other

    def net(self, method, rate, parts=None):
        """Return the NetParameter of both phases; `parts`: where `make_parts` has written records."""
        places = GPT_SPARSEDROP if self.is_text else VIT_SPARSEDROP
        own = None if method == "none" else parse_method(method).inputs or {}
        drop = None if own is None else {"dropout_ratio": rate, **own}
        if self.shape is None:
            net = self._perceptron(drop)
        else:
            shape = replace(self.shape, drops={} if drop is None else dict.fromkeys(places, drop))
            net = (gpt("gpt", shape, self.steps, self.batch) if self.is_text else
                   vit("vit", shape, self.data, self.patch, SIDE, (self.batch, self.left_out), 1 / 64,
                       normed_patches=True)).to_proto()
        if method == "conventional":
            convert_dropout(net, "conventional")
        for layer in net.layer if parts else ():
            if layer.type == "HDF5Data":
                part = "train" if layer.include[0].phase == TRAIN else "test"
                layer.hdf5_data_param.source = str(Path(parts).resolve() / f"{part}.txt")
        return net

    def _perceptron(self, drop):
        net = md.NetSpec("mlp")
        for phase, part, batch in (("TRAIN", "train", self.batch), ("TEST", "test", self.left_out)):
            net.add("HDF5Data", "data", top=["data", "label"], include={"phase": phase}, batch_size=batch,
                    source=f"{self.data}/{part}.txt", transform_param={"scale": 1 / 256},
                    **{"shuffle": True} if phase == "TRAIN" else {})
        bottom = net.add("Flatten", "pixels", "data")
        for i in range(1, 5):
            if drop is not None:
                bottom = net.add("ApproxDropout", f"drop{i}", bottom, **drop)
            bottom = net.add("InnerProduct", f"ip{i}", bottom, num_output=10 if i == 4 else self.width,
                             bias_term=False, weight_filler={"type": "msra"})
            if i < 4:
                bottom = net.add("ReLU", f"relu{i}", bottom)
        net.add("SoftmaxWithLoss", "loss", [bottom, "label"])
        net.add("Accuracy", "accuracy", [bottom, "label"], include={"phase": "TEST"})
        return net.to_proto()

    def settings(self, method, rate, seed, parts=None):
        """Return the SolverParameter; looking and ending are left to who trains."""
        net = self.net(method, rate, parts)
        looks = self.looks or (batches_per_pass(net, "TEST") if self.is_text else
                               self.records[1] // self.left_out)
        settings = SolverParameter(net_param=net)
        for name, value in {
                "type": self.rule, "base_lr": self.rate, "lr_policy": "fixed", "momentum": 0.9,
                "momentum2": 0.999, "weight_decay": self.decay, "decay_axes": 2 * bool(self.decay),
                "max_iter": self.every * self.most, "random_seed": seed, "test_interval": 0,
                "test_iter": [looks], "display": 0, "snapshot": 0, "snapshot_after_train": False}.items():
            assign(settings, name, value)
        return settings

    def make_parts(self, folder):
        """Return the folder of train.txt and test.txt, records of the training set of which the last are left
        out; made unless they are there. None for texts."""
        if self.is_text:
            return None
        train, rest = self.records
        folder = Path(folder) / f"{self.data}_{train}_{rest}"
        if not is_made(folder):
            records = HDF5Records(find_source(self.source), ("data", "label"))
            if len(records) < train + rest:
                raise md.DataError(f"{self.source}: expected at least {train + rest} records, got "
                                   f"{len(records)}")
            images, labels = records.read(np.arange(train + rest)).values()
            images = resized(images)
            folder.mkdir(parents=True, exist_ok=True)
            write_part(folder, "train", images[:train], labels[:train])
            write_part(folder, "test", images[train:], labels[train:])
        return folder


def resized(images):
    """Return images (records, channels, height, width) of bytes, 32 x 32 each. DataError without Pillow."""
    if images.shape[2:] == (SIDE, SIDE):
        return images
    try:
        from PIL import Image
    except ImportError:
        raise md.DataError("images of another size than 32 x 32 need Pillow: pip install 'minidrop[caffe]'"
                           ) from None
    return np.array([[Image.fromarray(channel).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
                      for channel in image] for image in images], np.uint8)


VIT = Transformer(1024, 8, 2, bias=False)
GPT = Transformer(1024, 8, 4, causal=True, bias=False, tied=False)
TASKS = {
    "mlp": Task("mnist", 1024, 1e-3, 16, 100),
    "vit_cifar10": Task("cifar10", 64, 1e-4, 256, 50, VIT),
    "vit_fashion": Task("fashion-mnist", 64, 1e-4, 256, 50, VIT),
    "gpt": Task("tinyshakespeare", 32, 3e-4, 200, 250, GPT, rule="AdamW", decay=0.1)}
QUICK_TASKS = {     # called by their width
    "mlp_128": Task("mnist", 128, 1e-3, 16, 8, width=128, records=(2048, 512)),
    "vit_64_cifar10": Task("cifar10", 32, 1e-3, 16, 8, replace(VIT, width=64, heads=4, blocks=1), patch=4,
                           records=(512, 256)),
    "gpt_64": Task("tinyshakespeare", 16, 1e-3, 50, 8, replace(GPT, width=64, heads=4, blocks=2), steps=32,
                   rule="AdamW", decay=0.1, looks=20)}
