"""minidrop classify: the classes of images, by a trained net."""

import io
import math
import os
from typing import Any

import click
import numpy as np

from minidrop.apps.classify import Preprocessing, best, classify, image_input, images_of, read_labels
from minidrop.cli.console import echo, write
from minidrop.cli.options import (
    Command,
    chosen_device,
    dtype_option,
    ema_option,
    ignore_unknown_option,
    numbers,
    python_option,
    skip_option,
)
from minidrop.config import load_net
from minidrop.data.mean_file import read_mean
from minidrop.errors import ConfigError, visible_name
from minidrop.net import Net


@click.command("classify", cls=Command)
@click.argument("input_file")
@click.argument("output_file")
@click.option("--model-def", required=True, metavar="FILE", help="The network file, with one input.")
@click.option("--pretrained-model", required=True, metavar="FILE", help="Its weights.")
@skip_option
@ema_option
@click.option("--gpu", is_flag=True, help="Compute on the first GPU.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda:N",
              help="Where to compute.")
@click.option("--center-only", is_flag=True,
              help="Take the centre of each image, not the mean over ten crops.")
@click.option("--images-dim", default="256,256", show_default=True, metavar="256,256",
              callback=numbers(least=0),
              help="Height and width to which images are resized before crops are taken.")
@click.option("--mean-file", metavar="FILE", help="A mean to subtract, .npy or .binaryproto.")
@click.option("--input-scale", type=float, help="What the input is multiplied by in the end.")
@click.option("--raw-scale", type=float, default=255.0, show_default=True,
              help="What pixels, from 0 to 1, are multiplied by at first.")
@click.option("--channel-swap", metavar="2,1,0", callback=numbers(least=0),
              help="Where each channel comes from.  [default: 2,1,0, BGR, where there are three]")
@click.option("--ext", default="jpg", show_default=True, help="The ending of images in a folder.")
@click.option("--labels", metavar="FILE", help="Print the five best classes of each image, by these names.")
@dtype_option
@python_option
@ignore_unknown_option
def classify_command(input_file: Any, output_file: Any, model_def: Any, pretrained_model: Any,
                     skip_mismatched: bool, ema: bool, gpu: bool,
                     device: str, center_only: bool, images_dim: Any, mean_file: Any, input_scale: Any,
                     raw_scale: Any, channel_swap: Any, ext: str, labels: Any, dtype: Any,
                     ignore_unknown: bool) -> None:
    """Classify the images of INPUT_FILE, and write the scores to OUTPUT_FILE, a .npy of a row each.

    INPUT_FILE is an image, a folder of images, or a .npy of images (height, width, channels). Each is
    resized, and the scores of its ten crops (corners, centre, mirrored) are averaged, as Caffe's classify.py
    does.
    """
    if not str(output_file).endswith(".npy"):
        raise ConfigError(f"{output_file}: expected a name that ends with .npy")
    if not os.path.isdir(os.path.dirname(output_file) or "."):
        raise ConfigError(f"{output_file}: there is no such folder; make it first")
    if len(images_dim) != 2:
        raise click.UsageError("--images-dim: expected height,width, as in 256,256")
    net = Net(load_net(model_def, ignore_unknown), "TEST", chosen_device(device, "0" if gpu else None), dtype)
    try:
        shape = next(shape for ref, shape in net.graph.shapes.items() if ref.name == image_input(net))
        if channel_swap is None and shape[1:2] == (3,):
            channel_swap = [2, 1, 0]
        prepare = Preprocessing(shape, read_mean(mean_file) if mean_file else None, input_scale, raw_scale,
                                channel_swap or None)
        names, images = images_of(input_file, prepare.channels, ext)
        classes = math.prod(net.graph.shapes[net.output_refs[0]][1:])
        known = read_labels(labels, classes) if labels else []
        echo(net.load_weights(pretrained_model, skip_mismatched, ema=ema).summary)
        scores = classify(net, images, prepare, images_dim, not center_only)
    finally:
        net.close()
    if labels:
        for name, row in zip(names, scores, strict=True):
            echo(f"---------- Prediction for {visible_name(name)} ----------")
            for place, score in best(row):
                echo(f"{score:.4f} - \"{visible_name(known[place])}\"")
    content = io.BytesIO()
    np.save(content, scores, allow_pickle=False)
    write(output_file, content.getvalue())
    echo(f"{visible_name(output_file)}: {len(scores)} x {scores.shape[1]} scores")
