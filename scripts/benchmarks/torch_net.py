"""A net of images in PyTorch, made from its NetParameter: the peer of bench_conv.py, and an oracle of tests.

PyTorch is imported where it is used, so that this module can be loaded without it.
"""

from typing import NamedTuple

import minidrop as md
from minidrop.config import decimal
from minidrop.errors import ConfigError


class Call(NamedTuple):
    """What a layer does: top = function(*bottoms); blobs of `last` are not read again."""

    function: object
    bottoms: list
    top: object
    last: frozenset


class TorchNet:
    """The layers of a NetParameter as modules of torch.nn, run in the order of the file.

    `module` holds them all; `names` is {minidrop's "layer/parameter": PyTorch's Parameter}. Drops are
    nn.Dropout, and nn.Dropout2d for ApproxDropout of channels; BatchNorm and Scale become one
    nn.BatchNorm2d. What works in place in the file does so here, but for drops, whose bottom the ReLU below
    needs. Learning rates and weight decays of single layers are not translated. Raises ConfigError for layers
    and settings that have no translation here.
    """

    def __init__(self, net):
        from torch import nn
        self.nn, self.names, self.norms = nn, {}, {}
        # knows shapes and defaults, and allocates nothing
        self.graph = md.Net(net, "TRAIN", "cpu", fills=False).graph
        self.inputs, self.calls, modules = [], [], nn.ModuleList()
        readers = {ref: node.index for node in self.graph.nodes for ref in node.bottoms}    # the last of each
        for node in self.graph.nodes:
            if node.config.type == "Input":
                self.inputs += node.tops
                continue
            if node.config.type not in MAKERS:
                raise ConfigError(f"layer {node.name!r}: type {node.config.type} has no translation to "
                                  f"PyTorch here (known: {', '.join(MAKERS)})")
            function = MAKERS[node.config.type](self, node)
            if isinstance(function, nn.Module):
                modules.append(function)
            last = frozenset(ref for ref in node.bottoms if readers[ref] == node.index)
            self.calls.append(Call(function, node.bottoms, node.tops[0], last))
        self.module = modules

    def loss(self, **inputs):
        """Return the loss of a batch, given by the names of the tops of Input layers."""
        blobs = {ref: inputs[ref.name] for ref in self.inputs}
        top = None
        for call in self.calls:
            bottoms = [blobs.pop(ref) if ref in call.last else blobs[ref] for ref in call.bottoms]
            top = blobs[call.top] = call.function(*bottoms)
        return top

    def copy_weights(self, net):
        """Take over the parameters of a minidrop Net."""
        import torch
        with torch.no_grad():
            for name, parameter in self.names.items():
                layer, own = name.split("/")
                parameter.copy_(torch.from_numpy(net.params[layer][own].numpy()))

    # -- one layer -------------------------------------------------------------------------------------------
    def _shape(self, node):
        return self.graph.shapes[node.bottoms[0]]

    def _named(self, node, module, **names):
        """Note the parameters of a module by minidrop's names, and return it."""
        for own, its in names.items():
            if getattr(module, its, None) is not None:
                self.names[f"{node.name}/{own}"] = getattr(module, its)
        return module

    def convolution(self, node):
        layer, settings = node.layer, node.config.convolution_param
        self._expect(node, layer.axis == 1 and len(layer.window.size) == 2 and len(node.bottoms) == 1,
                     "one bottom with two spatial axes behind that of the channels")
        window = layer.window
        module = self.nn.Conv2d(layer.channels, layer.outputs, window.size, window.stride, window.pad,
                                window.dilation, layer.groups, settings.bias_term)
        return self._named(node, module, weight="weight", bias="bias")

    def inner_product(self, node):
        settings, shape = node.config.inner_product_param, self._shape(node)
        self._expect(node, settings.axis == 1 and not settings.transpose, "axis 1, not transposed")
        inputs = 1
        for length in shape[1:]:
            inputs *= length
        linear = self.nn.Linear(inputs, settings.num_output, settings.bias_term)
        self._named(node, linear, weight="weight", bias="bias")
        return linear if len(shape) == 2 else self.nn.Sequential(self.nn.Flatten(), linear)

    def pooling(self, node):
        layer = node.layer
        self._expect(node, layer.method in ("MAX", "AVE") and len(node.tops) == 1, "MAX or AVE and one top")
        kind = self.nn.MaxPool2d if layer.method == "MAX" else self.nn.AvgPool2d
        window = layer.window
        return kind(window.size, window.stride, window.pad, ceil_mode=layer.ceil)

    def relu(self, node):
        slope = decimal(node.config.relu_param.negative_slope)
        self._expect(node, not slope, "no negative_slope")
        return self.nn.ReLU(inplace=node.bottoms[0].name == node.tops[0].name)

    def lrn(self, node):
        layer, size = node.layer, node.config.lrn_param.local_size
        if not layer.within:
            return self.nn.LocalResponseNorm(size, layer.alpha, layer.beta, layer.k)
        return lambda x: lrn_within(x, size, layer.alpha, layer.beta)

    def dropout(self, node):
        if node.config.type == "Dropout":
            return self.nn.Dropout(decimal(node.config.dropout_param.dropout_ratio))
        channels = node.layer.axis == 1 and len(self._shape(node)) == 4
        kind = self.nn.Dropout2d if channels else self.nn.Dropout
        return kind(decimal(node.config.approx_dropout_param.dropout_ratio))

    def batch_norm(self, node):
        layer = node.layer
        self._expect(node, not layer.uses_stored and len(self._shape(node)) == 4,
                     "images, and no use_global_stats")
        readers = [other for other in self.graph.nodes if node.tops[0] in other.bottoms]
        scale = readers[0] if [reader.config.type for reader in readers] == ["Scale"] else None
        module = self.nn.BatchNorm2d(layer.channels, layer.eps, 1 - layer.fraction, scale is not None)
        if scale is not None:
            self.norms[scale.index] = module
        return module

    def scale(self, node):
        settings = node.config.scale_param
        self._expect(node, node.index in self.norms and settings.bias_term and settings.axis == 1
                     and settings.num_axes == 1, "a BatchNorm below, and a factor and a bias a channel")
        self._named(node, self.norms[node.index], factor="weight", bias="bias")
        return lambda x: x

    def eltwise(self, node):
        layer = node.layer
        self._expect(node, layer.operation == "SUM" and not layer.coeff, "SUM without coeff")
        return lambda first, *others: sum(others, first)

    def softmax_loss(self, node):
        self._expect(node, node.layer.ignore_label is None and len(self._shape(node)) == 2
                     and len(node.tops) == 1, "scores (samples, classes), no ignore_label, one top")
        return self.nn.CrossEntropyLoss()

    def _expect(self, node, fits, what):
        if not fits:
            raise ConfigError(f"layer {node.name!r}: the translation of {node.config.type} to PyTorch "
                              f"expects {what}")


def lrn_within(x, size, alpha, beta):
    """Return x (1 + alpha * the mean of x^2 over size x size places)^-beta."""
    from torch.nn import functional
    return x * (functional.avg_pool2d(x * x, size, 1, size // 2) * alpha + 1).pow(-beta)


MAKERS = {"Convolution": TorchNet.convolution, "Pooling": TorchNet.pooling, "ReLU": TorchNet.relu,
          "LRN": TorchNet.lrn, "InnerProduct": TorchNet.inner_product, "Dropout": TorchNet.dropout,
          "ApproxDropout": TorchNet.dropout, "BatchNorm": TorchNet.batch_norm, "Scale": TorchNet.scale,
          "Eltwise": TorchNet.eltwise, "SoftmaxWithLoss": TorchNet.softmax_loss}
