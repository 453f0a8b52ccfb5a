"""A layer of one's own, in one file beside its function: PlainConvolution, which drops whole channels before
computing them.

    minidrop --import docs/examples/convolution_layer.py check NET.prototxt

    layer { name: "conv" type: "PlainConvolution" bottom: "x" top: "conv" param_str: '{"num_output": 16,
    "kernel_size": 3}' }

`flow` is all that planner, `check`, costs, FLOP counts and reshuffling ask. The settings stand in
`param_str`.
"""

import sys
from pathlib import Path

import minidrop as md
from minidrop.config import FillerParameter
from minidrop.errors import ShapeError
from minidrop.layers import ParameterSpec
from minidrop.layers.flow import Product

sys.path.insert(0, str(Path(__file__).parent))
from convolution_function import convolution  # noqa: E402


@md.register_layer("PlainConvolution")
class PlainConvolution(md.Layer):
    """y = the valid cross-correlation of x (N, C, H, W) with W (num_output, C, kernel_size, kernel_size),
    plus b."""

    def setup(self, shape):
        settings = self.options(num_output=int, kernel_size=int)
        self.outputs, self.size = settings["num_output"], settings["kernel_size"]
        if len(shape) != 4 or min(shape[2:]) < self.size:
            raise ShapeError(f"expected images (N, C, H, W) of at least {self.size} x {self.size}, got "
                             f"{tuple(shape)}")
        self.channels = shape[1]
        return [(shape[0], self.outputs, shape[2] - self.size + 1, shape[3] - self.size + 1)]

    def parameter_specs(self):
        return [ParameterSpec("weight", (self.outputs, self.channels, self.size, self.size),
                              FillerParameter(type="msra")),
                ParameterSpec("bias", (self.outputs,), FillerParameter())]

    def flow(self, shapes):
        samples, channels, height, width = shapes[0]
        places = samples * (height - self.size + 1) * (width - self.size + 1)
        return [Product("weight", places, channels * self.size ** 2, self.outputs, in_axis=1, out_axis=1,
                        kinds=("units",), biases=("bias",))]

    def forward(self, x):
        return convolution(x, self.params["weight"], self.params["bias"], self.drawn.outputs.kept)
