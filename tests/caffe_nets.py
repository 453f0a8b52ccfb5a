"""Nets in the forms of Caffe's years, as messages with weights."""

import numpy as np

from minidrop.config import minidrop_pb2 as pb

NET = ('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } } '
       'layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 '
       'kernel_size: 3 weight_filler { type: "msra" } bias_filler { type: "uniform" } } } '
       'layer { name: "relu" type: "ReLU" bottom: "c" top: "c" } '
       'layer { name: "ip" type: "InnerProduct" bottom: "c" top: "y" inner_product_param { num_output: 5 '
       'weight_filler { type: "msra" } bias_filler { type: "uniform" } } }')
SHAPES = {"conv": [(4, 3, 3, 3), (4,)], "ip": [(5, 16), (5,)]}
FORMS = ("V2", "V1", "V0")


def values(layer, number):
    shape = SHAPES[layer][number]
    return np.random.default_rng([len(layer), number]).standard_normal(shape).astype(np.float32)


def fill(blob, array, old=False, double=False):
    """Give a BlobProto an array: with the four lengths of old, or a shape."""
    if old:
        blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
    else:
        blob.shape.dim.extend(array.shape)
    (blob.double_data if double else blob.data).extend(array.reshape(-1).tolist())


def message(form="V2", old=None, double=False):
    """A NetParameter with the weights of NET, in one form."""
    net = pb.NetParameter(name="old")
    for name, kind, number, oldest in (("conv", "Convolution", "CONVOLUTION", "conv"),
                                       ("relu", "ReLU", "RELU", "relu"),
                                       ("ip", "InnerProduct", "INNER_PRODUCT", "innerproduct")):
        if form == "V2":
            layer = net.layer.add(name=name, type=kind)
        elif form == "V1":
            layer = net.layers.add(name=name, type=getattr(pb.V1LayerParameter, number))
        else:
            outer = net.layers.add(bottom=["x"], top=["y"])
            layer = outer.layer
            layer.name, layer.type = name, oldest
        for i in range(len(SHAPES.get(name, ()))):
            fill(layer.blobs.add(), values(name, i), form != "V2" if old is None else old, double)
    return net
