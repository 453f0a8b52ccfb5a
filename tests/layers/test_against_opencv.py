"""Whole nets as Caffe's users write them, with weights in a .caffemodel: OpenCV's reader and ours agree.

The reader is another implementation of Caffe's layers; OpenCV 5 has none.
"""

import struct

import numpy as np
import pytest

from minidrop import Net
from minidrop.config import parse_net

cv2 = pytest.importorskip("cv2", reason="OpenCV 4 (the extra `peers`) is the reference here")
if int(cv2.__version__.split(".")[0]) >= 5 or not hasattr(cv2.dnn, "readNetFromCaffe"):
    pytest.skip(f"OpenCV {cv2.__version__} reads no Caffe files; 4 does", allow_module_level=True)


# -- a .caffemodel, as protobuf writes it --------------------------------------------------------------------
def number(value):
    """A varint: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(key, payload):
    """A field of bytes: text, a message or packed numbers."""
    return number(key << 3 | 2) + number(len(payload)) + payload


def blob(array):
    """BlobProto { shape = 7 { dim = 1 } data = 5 }."""
    shape = field(7, field(1, b"".join(map(number, array.shape))))
    return field(5, struct.pack(f"<{array.size}f", *array.reshape(-1).tolist())) + shape


def caffemodel(net):
    """NetParameter { layer = 100 { name = 1 type = 2 blobs = 7 } } of the weights of a Net."""
    layers = [field(1, node.name.encode()) + field(2, node.config.type.encode())
              + b"".join(field(7, blob(p.numpy())) for p in net.params.get(node.name, {}).values())
              for node in net.graph.nodes]
    return b"".join(field(100, layer) for layer in layers)


# -- nets ----------------------------------------------------------------------------------------------------
UNIFORM = '{ type: "uniform" min: -0.4 max: 0.4 }'


def layer(kind, name, bottoms, more="", top=None):
    blobs = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    tops = " ".join(f'top: "{one}"' for one in (top or name).split())
    return f'layer {{ name: "{name}" type: "{kind}" {blobs} {tops} {more} }}'


def conv(name, bottom, outputs, settings, kind="Convolution"):
    bias = "" if "bias_term" in settings else f"bias_filler {UNIFORM}"
    return layer(kind, name, bottom, f"convolution_param {{ num_output: {outputs} {settings} "
                                     f"weight_filler {UNIFORM} {bias} }}")


def ip(name, bottom, outputs, settings=""):
    return layer("InnerProduct", name, bottom, f"inner_product_param {{ num_output: {outputs} {settings} "
                                               f"weight_filler {UNIFORM} bias_filler {UNIFORM} }}")


def relu(bottom):
    return layer("ReLU", f"relu_{bottom}", bottom, top=bottom)


def normalized(bottom):
    """BatchNorm and Scale, both in place, as ResNet's files have them."""
    stored, bias = "batch_norm_param { use_global_stats: true }", "scale_param { bias_term: true }"
    return "\n".join((layer("BatchNorm", f"bn_{bottom}", bottom, stored, bottom),
                      layer("Scale", f"scale_{bottom}", bottom, bias, bottom)))


def pool(name, bottom, settings):
    return layer("Pooling", name, bottom, f"pooling_param {{ {settings} }}")


NETS = {
    "in the manner of AlexNet": [
        conv("conv1", "data", 12, "kernel_size: 5 stride: 2"), relu("conv1"),
        layer("LRN", "norm1", "conv1", "lrn_param { local_size: 5 alpha: 0.1 beta: 0.75 }"),
        pool("pool1", "norm1", "pool: MAX kernel_size: 3 stride: 2"),
        conv("conv2", "pool1", 16, "kernel_size: 5 pad: 2 group: 2"), relu("conv2"),
        layer("LRN", "norm2", "conv2", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }"),
        pool("pool2", "norm2", "pool: MAX kernel_size: 3 stride: 2"),
        conv("conv3", "pool2", 8, "kernel_size: 3 pad: 1 group: 4"), relu("conv3"), ip("fc4", "conv3", 20),
        relu("fc4"), layer("Dropout", "drop4", "fc4", "dropout_param { dropout_ratio: 0.5 }", "fc4"),
        ip("fc5", "fc4", 10), layer("Softmax", "prob", "fc5")],
    "in the manner of ResNet": [
        conv("conv1", "data", 8, "kernel_size: 7 stride: 2 pad: 3 bias_term: false"), normalized("conv1"),
        relu("conv1"), pool("pool1", "conv1", "kernel_size: 3 stride: 2"),
        conv("left", "pool1", 12, "kernel_size: 1 bias_term: false"), normalized("left"),
        conv("a", "pool1", 6, "kernel_size: 1 bias_term: false"), normalized("a"), relu("a"),
        conv("b", "a", 6, "kernel_size: 3 pad: 1 bias_term: false"), normalized("b"), relu("b"),
        conv("c", "b", 12, "kernel_size: 1 bias_term: false"), normalized("c"),
        layer("Eltwise", "sum", "left c"), relu("sum"),
        pool("all", "sum", "pool: AVE global_pooling: true"), ip("fc", "all", 10),
        layer("Softmax", "prob", "fc")],
    "in the manner of GoogLeNet": [
        conv("conv1", "data", 8, "kernel_size: 3 pad: 1"), relu("conv1"),
        pool("pool1", "conv1", "kernel_size: 3 stride: 2 pad: 1"),
        conv("one", "pool1", 4, "kernel_size: 1"), relu("one"),
        conv("holes", "pool1", 6, "kernel_size: 3 pad: 2 dilation: 2"), relu("holes"),
        pool("means", "pool1", "pool: AVE kernel_size: 3 stride: 1 pad: 1"),
        conv("reduced", "means", 5, "kernel_h: 1 kernel_w: 3 pad_h: 0 pad_w: 1"),
        layer("Concat", "joined", "one holes reduced"),
        pool("pool2", "joined", "pool: AVE kernel_size: 3 stride: 2 pad: 1"),
        layer("Flatten", "flat", "pool2"), ip("fc", "flat", 10), layer("Softmax", "prob", "fc")],
    "in the manner of MobileNet": [
        conv("conv1", "data", 8, "kernel_size: 3 stride: 2 pad: 1 bias_term: false"), normalized("conv1"),
        relu("conv1"), conv("own", "conv1", 8, "kernel_size: 3 pad: 1 group: 8 bias_term: false"),
        normalized("own"), layer("PReLU", "prelu", "own", f"prelu_param {{ filler {UNIFORM} }}"),
        conv("point", "prelu", 12, "kernel_size: 1"), normalized("point"), relu("point"),
        conv("own2", "point", 24, "kernel_size: 3 stride: 2 pad: 1 group: 12"), relu("own2"),
        pool("all", "own2", "pool: AVE global_pooling: true"), conv("fc", "all", 10, "kernel_size: 1"),
        layer("Flatten", "flat", "fc"), layer("Softmax", "prob", "flat")],
    "in the manner of a FCN": [
        conv("conv1", "data", 8, "kernel_size: 3 pad: 10"), relu("conv1"),
        pool("pool1", "conv1", "kernel_size: 2 stride: 2"), conv("conv2", "pool1", 12, "kernel_size: 3"),
        relu("conv2"), pool("pool2", "conv2", "kernel_size: 2 stride: 2"),
        conv("score", "pool2", 4, "kernel_size: 1"),
        conv("up", "score", 4, "kernel_size: 4 stride: 2 bias_term: false", "Deconvolution"),
        conv("score1", "conv2", 4, "kernel_size: 1"),
        layer("Crop", "cropped", "up score1", "crop_param { axis: 2 offset: 1 }"),
        layer("Eltwise", "fused", "score1 cropped", "eltwise_param { operation: SUM coeff: 1 coeff: 0.5 }"),
        conv("up2", "fused", 4, "kernel_size: 6 stride: 3 pad: 1 group: 2", "Deconvolution"),
        layer("Crop", "result", "up2 data", "crop_param { axis: 2 offset: 7 offset: 5 }"),
        layer("Softmax", "prob", "result", "softmax_param { axis: 1 }")],
    "of every other layer": [
        conv("conv1", "data", 8, "kernel_size: [3, 2] stride: [1, 2] pad: [0, 1]"),
        layer("MVN", "mvn", "conv1"), layer("ELU", "elu", "mvn", "elu_param { alpha: 0.7 }"),
        layer("Power", "power", "elu", "power_param { power: 2 scale: 0.5 shift: 0.3 }"),
        layer("Slice", "cut", "power", "slice_param { axis: 1 slice_point: 3 }", "low high"),
        layer("AbsVal", "abs", "low"), layer("BNLL", "bnll", "high"),
        layer("TanH", "tanh", "bnll"), layer("Sigmoid", "sigmoid", "abs"),
        layer("Concat", "both", "tanh sigmoid"), conv("conv2", "both", 6, "kernel_size: 3 group: 2"),
        layer("Exp", "exp", "conv2", "exp_param { scale: 0.1 }"),
        layer("Log", "log", "exp"),
        conv("conv3", "both", 6, "kernel_size: 3"), layer("Eltwise", "most", "log conv3",
                                                          "eltwise_param { operation: MAX }"),
        layer("Eltwise", "product", "most log", "eltwise_param { operation: PROD }"),
        ip("rows", "product", 5, "axis: 2"), layer("Softmax", "prob", "rows", "softmax_param { axis: 2 }")],
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_blob_of_a_net(name, batch):
    text = "\n".join((f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: {batch} '
                      f'dim: 3 dim: 28 dim: 25 }} }} }}', *NETS[name]))
    net, rng = Net(parse_net(text), phase="TEST", device="cpu", seed=1), np.random.default_rng(2)
    assert len(net.graph.nodes) > 10
    for node in net.graph.nodes:
        if node.config.type in ("BatchNorm", "Scale"):
            for parameter in net.params[node.name].values():
                parameter.data[...] = rng.uniform(0.5, 1.5, parameter.shape)
    images = rng.standard_normal((batch, 3, 28, 25)).astype(np.float32)
    net.forward(data=images)
    reader = cv2.dnn.readNetFromCaffe(*(np.frombuffer(part, np.uint8)
                                        for part in (text.encode(), caffemodel(net))))
    reader.enableFusion(False)
    reader.setInput(images, "data")
    writers = {ref.name: node.name for node in net.graph.nodes[1:] for ref in node.tops
               if len(node.tops) == 1}
    for blob_name, layer_name in writers.items():
        expected, found = reader.forward(layer_name), net.blobs[blob_name].numpy()
        assert found.shape == expected.shape, layer_name
        bound = 1e-4 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=layer_name)
