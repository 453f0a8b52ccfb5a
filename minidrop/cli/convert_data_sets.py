"""minidrop convert_mnist_data, convert_mnist_siamese_data, convert_cifar_data: databases of data sets."""

from __future__ import annotations

from pathlib import Path

import click

from minidrop.cli.caffe_tools import Tool, backend_option, processed, seed_option
from minidrop.cli.console import echo
from minidrop.data.cifar10 import read_cifar10_binary
from minidrop.data.convert import cifar_datums, mnist_datums, read_mnist, siamese_datums, store
from minidrop.data.database_writer import check_new_database


@click.command(cls=Tool, name="convert_mnist_data")
@click.argument("images")
@click.argument("labels")
@click.argument("database", metavar="DB")
@backend_option("lmdb")
def convert_mnist_data(images: str, labels: str, database: str, backend: str) -> None:
    """Make a database of MNIST's files, gzipped or not: IMAGES and LABELS in idx format."""
    _store(database, backend, mnist_datums, *_read(images, labels, database))


@click.command(cls=Tool, name="convert_mnist_siamese_data")
@click.argument("images")
@click.argument("labels")
@click.argument("database", metavar="DB")
@backend_option("leveldb")
@seed_option
def convert_mnist_siamese_data(images: str, labels: str, database: str, backend: str, seed: int) -> None:
    """Make a database of random pairs of MNIST's images: two channels, label 1 for two of one digit."""
    _store(database, backend, siamese_datums, *_read(images, labels, database), seed)


@click.command(cls=Tool, name="convert_cifar_data")
@click.argument("input_folder")
@click.argument("output_folder")
@click.argument("db_type", type=click.Choice(["lmdb", "leveldb"], case_sensitive=False))
def convert_cifar_data(input_folder: str, output_folder: str, db_type: str) -> None:
    """Make databases of CIFAR-10's binary files: cifar10_train_DB_TYPE and cifar10_test_DB_TYPE.

    INPUT_FOLDER holds data_batch_1.bin ... data_batch_5.bin and test_batch.bin.
    """
    paths = {part: Path(output_folder) / f"cifar10_{part}_{db_type.lower()}" for part in ("train", "test")}
    for path in paths.values():
        check_new_database(path)
    parts = read_cifar10_binary(Path(input_folder))
    for part, path in paths.items():
        echo(f"Writing {part}ing data")
        _store(path, db_type, cifar_datums, *parts[part])


def _read(images, labels, database):
    check_new_database(database)
    pixels, classes = read_mnist(images, labels)
    echo(f"A total of {len(pixels)} items.")
    echo(f"Rows: {pixels.shape[1]} Cols: {pixels.shape[2]}")
    return pixels, classes


def _store(database, backend, datums, *arrays):
    count = store(database, backend.upper(), datums(*arrays), _every_ten_thousand)
    echo(f"{database}: {count} records")


def _every_ten_thousand(count):
    if not count % 10000:
        processed(count)
