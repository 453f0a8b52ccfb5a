#!/usr/bin/env python
"""Write the network files of models/resnet_cifar: residual nets of any depth for CIFAR-10.

python scripts/make_resnet_cifar.py prints train_val.prototxt, with --drop 0.25 train_val_approx.prototxt.
"""

import click

CHANNELS = (16, 32, 64)
MEAN = 'mean_file: "cifar10/mean.binaryproto" scale: 0.0078125'
HEAD = """name: "{name}"
layer {{
  name: "cifar"
  type: "HDF5Data"
  top: "data"
  top: "label"
  include {{ phase: TRAIN }}
  transform_param {{ crop_size: 28 mirror: true {mean} }}
  hdf5_data_param {{ source: "cifar10/train.txt" batch_size: 128 shuffle: true }}
}}
layer {{
  name: "cifar"
  type: "HDF5Data"
  top: "data"
  top: "label"
  include {{ phase: TEST }}
  transform_param {{ crop_size: 28 {mean} }}
  hdf5_data_param {{ source: "cifar10/test.txt" batch_size: 100 }}
}}"""
CONVOLUTION = """layer {{
  name: "{name}"
  type: "Convolution"
  bottom: "{bottom}"
  top: "{name}"
  convolution_param {{ num_output: {channels}{pad} kernel_size: {size}{stride} bias_term: false \
weight_filler {{ type: "msra" }} }}
}}
layer {{ name: "{normed}" type: "BatchNorm" bottom: "{name}" top: "{name}" }}
layer {{ name: "{scaled}" type: "Scale" bottom: "{name}" top: "{name}" scale_param {{ bias_term: true }} }}"""
RELU = 'layer {{ name: "{blob}_relu" type: "ReLU" bottom: "{blob}" top: "{blob}" }}'
DROP = """layer {{
  name: "{blob}_drop"
  type: "ApproxDropout"
  bottom: "{blob}"
  top: "{blob}"
  approx_dropout_param {{ dropout_ratio: {rate:g} axis: 1 groups: 1 }}
}}"""
SUM = """layer {{
  name: "{name}"
  type: "Eltwise"
  bottom: "{shortcut}"
  bottom: "{branch}"
  top: "{name}"
  eltwise_param {{ operation: SUM }}
}}"""
TAIL = """layer {
  name: "pool5"
  type: "Pooling"
  bottom: "%s"
  top: "pool5"
  pooling_param { pool: AVE global_pooling: true }
}
layer {
  name: "fc10"
  type: "InnerProduct"
  bottom: "pool5"
  top: "fc10"
  inner_product_param { num_output: 10 weight_filler { type: "msra" } }
}
layer {
  name: "accuracy"
  type: "Accuracy"
  bottom: "fc10"
  bottom: "label"
  top: "accuracy"
  include { phase: TEST }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc10" bottom: "label" top: "loss" }
"""


def convolution(name, bottom, channels, size=3, stride=1):
    """Return the text of a convolution without bias, its BatchNorm and its Scale."""
    short = name.removeprefix("res") if name.startswith("res") else f"_{name}"
    return CONVOLUTION.format(name=name, bottom=bottom, channels=channels, size=size,
                              pad=f" pad: {size // 2}" if size > 1 else "",
                              stride=f" stride: {stride}" if stride > 1 else "",
                              normed=f"bn{short}", scaled=f"scale{short}")


def block(name, bottom, channels, stride, drop):
    """Return the texts of one block, whose top is `name`: two convolutions beside a shortcut."""
    first, second, shortcut = (f"{name}_branch{end}" for end in ("2a", "2b", "1"))
    yield convolution(first, bottom, channels, stride=stride)
    yield RELU.format(blob=first)
    if drop:
        yield DROP.format(blob=first, rate=drop)
    yield convolution(second, first, channels)
    if stride > 1:
        yield convolution(shortcut, bottom, channels, 1, stride)
    yield SUM.format(name=name, shortcut=shortcut if stride > 1 else bottom, branch=second)
    yield RELU.format(blob=name)


def network(blocks, drop):
    """Return the text of the net with 3 * blocks residual blocks."""
    name = f"resnet{6 * blocks + 2}_cifar" + "_approx" * bool(drop)
    parts = [HEAD.format(name=name, mean=MEAN), convolution("conv1", "data", CHANNELS[0]),
             RELU.format(blob="conv1")]
    blob = "conv1"
    for stage, channels in enumerate(CHANNELS, 2):
        for number in range(blocks):
            top = f"res{stage}{chr(ord('a') + number)}"
            parts += block(top, blob, channels, 2 if stage > 2 and number == 0 else 1, drop)
            blob = top
    return "\n".join([*parts, TAIL % blob])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--blocks", type=click.IntRange(1, 26), default=3, show_default=True,
              help="Blocks of each of the three stages; the depth is 6 * blocks + 2.")
@click.option("--drop", type=click.FloatRange(0, 1, max_open=True), default=0.0,
              help="Share of the channels to drop inside each residual branch.")
def main(blocks, drop):
    """Print a residual network for CIFAR-10 in Caffe's format."""
    given = f" --blocks {blocks}" * (blocks != 3) + f" --drop {drop:g}" * bool(drop)
    click.echo(f"# ResNet-{6 * blocks + 2} for CIFAR-10 (arXiv 1512.03385, section 4.2)"
               + f", {drop:.0%} of the channels inside the residual branches dropped" * bool(drop)
               + f";\n# written by: python scripts/make_resnet_cifar.py{given}")
    click.echo(network(blocks, drop), nl=False)


if __name__ == "__main__":
    main()
