"""The CUDA kernels: each one's file, arguments and launch. README.md and the files say what they compute."""

import math

from minidrop.kernels import formulas, grids
from minidrop.kernels.loader import OPERANDS, Array, Axis, Kernel, Number, Size

ACTIVATIONS = ("none", "relu", "sigmoid", "tanh")       # in the order of their numbers in activation.cu
ROW_THREADS = (32, 256)
ROWS_OF_A_WARP = 1024       # up to this many classes, one warp handles a row (softmax.cu)


def _tiles(sizes, macros):
    return grids.tiles(sizes["n"], sizes["m"])


def _elements(sizes, macros):
    return grids.elements(sizes["n"])


def _units(sizes, macros):
    return grids.elements(sizes["streams"] * sizes["units"])


def _of(rows, columns):
    """Return the grid of tiles of a matrix whose sides are products of sizes."""
    return lambda sizes, macros: grids.tiles(math.prod(sizes[name] for name in rows),
                                             math.prod(sizes[name] for name in columns))


def _of_elements(names):
    return lambda sizes, macros: grids.elements(math.prod(sizes[name] for name in names))


def _counters(sizes, macros):
    return grids.counters(sizes["n"])


def _fits(macros):
    """Whether a variant of block_product is in use.

    16-bit operands have float sums. Others need no large tiles: they are limited by arithmetic, not by reads.
    """
    tile, fast = (macros["TILE_M"], macros["TILE_N"]), macros["OPERAND"] > 0
    if macros["TRANS_A"] and macros["TRANS_B"] or fast and macros["REAL"] != "float":
        return False
    return tile in (grids.TILES if fast else grids.TILES[:1])


_SIZES = Size("n"), Size("m")
_KEPT = Axis("rows", "n", "N"), Axis("cols", "m", "M")             # a compact n x m out of N x M
# a compact part, count x columns, of n x m
_PLACES = Axis("rows", "count", "n", "int32"), Axis("cols", "columns", "m", "int32")
_TROUBLE = Array("trouble", ("flags",), "int32", optional=True)
_RATE = Number("lr", "double", varying=True), Number("grad_scale", "double", varying=True)
_STEP = (*_RATE, Number("momentum", varying=True), Number("decay", varying=True), Number("l1", "int"),
         _TROUBLE, *_SIZES)
_RULE = (Number("grad_scale", "double", varying=True),
         *(Number(f"n{i}", "double", varying=True) for i in range(formulas.MOST_NUMBERS)), Number("decay"),
         Number("l1", "int"), _TROUBLE, *_SIZES)
# window.cuh
WINDOW = tuple(Number(f"{name}_{side}", "int") for name in ("size", "stride", "pad", "dilation")
               for side in "hw")
_IMAGES = Size("images"), Size("channels")
_IMAGE = Size("height"), Size("width"), Size("lines"), Size("places")
_OF_IMAGES = "images", "channels", "height", "width"
_OF_OUTPUTS = "images", "outputs", "lines", "places"
_OF_COLUMNS = "channels", "entries", "images", "lines", "places"
_OF_PLANES = "planes", "height", "width"
_OF_POOLED = "planes", "lines", "places"
# for rows that may name one row of N several times
_FIRST_PLACES = Array("places", ("N",), "int32", optional=True)

take_block = Kernel("take_block", "take.cu", [
    Array("W", ("N", "M"), strided=True), *_KEPT, Array("out", ("n", "m")), *_SIZES], _tiles)
put_block = Kernel("put_block", "take.cu", [
    Array("x", ("n", "m"), strided=True), *_KEPT, Array("out", ("N", "M"), strided=True), *_SIZES], _tiles)
add_block = Kernel("add_block", "take.cu", [
    Array("x", ("n", "m"), strided=True), *_KEPT, _FIRST_PLACES, Array("out", ("N", "M"), strided=True),
    Number("factor", varying=True), *_SIZES], _tiles)
expand = Kernel("expand", "take.cu", [
    Array("x", ("count", "columns"), strided=True), *_PLACES, Array("out", ("n", "m")), *_SIZES], _tiles)
sgd_update = Kernel("sgd_update", "update.cu", [
    Array("W", ("n", "m")), Array("history", ("n", "m")), Array("g", ("count", "columns"), strided=True),
    *_PLACES, *_STEP], _tiles)
sgd_update_rows = Kernel("sgd_update_rows", "update.cu", [
    Array("W", ("N", "m")), Array("history", ("N", "m")),
    Array("g", ("n", "columns"), strided=True, optional=True),
    Axis("rows", "n", "N"), Axis("cols", "columns", "m", "int32"), *_STEP], _tiles)
# FORMULA: what formulas.in_c makes of a rule. There are as many variants as rules, which nobody here knows.
rule_update = Kernel("rule_update", "rule.cu", [
    Array("W", ("n", "m")), Array("a", ("n", "m")), Array("b", ("n", "m"), optional=True),
    Array("g", ("count", "columns"), strided=True), *_PLACES, *_RULE], _tiles, FORMULA=())
rule_update_rows = Kernel("rule_update_rows", "rule.cu", [
    Array("W", ("N", "m")), Array("a", ("N", "m")), Array("b", ("N", "m"), optional=True),
    Array("g", ("n", "columns"), strided=True, optional=True),
    Axis("rows", "n", "N"), Axis("cols", "columns", "m", "int32"), *_RULE], _tiles, FORMULA=())
subtract_block = Kernel("subtract_block", "update.cu", [
    Array("W", ("N", "M"), strided=True), Array("g", ("n", "m"), strided=True), *_KEPT, _FIRST_PLACES, *_RATE,
    _TROUBLE, *_SIZES], _tiles)
round_block = Kernel("round_block", "round.cu", [
    Array("W", ("N", "M"), strided=True), *_KEPT, Array("out", ("n", "m"), "OPERAND", strided=True),
    Number("factor"), *_SIZES],
    _tiles, lambda macros: macros["REAL"] == "float" and macros["OPERAND"] > 0, OPERAND=range(len(OPERANDS)))
repeat_kept = Kernel("repeat_kept", "take.cu", [
    Axis("kept", "count", "total"), Array("units", ("times", "count"), "int64"),
    Array("places", ("times", "total"), "int32"), Size("count"), Size("total"), Size("times")],
    lambda sizes, macros: grids.elements(sizes["times"] * sizes["total"]))
activate = Kernel("activate", "activation.cu", [
    Array("x", ("n", "m"), strided=True), Array("b", ("m",), strided=True, optional=True),
    Array("y", ("n", "m"), strided=True), Number("scale"), *_SIZES],
    _tiles, ACTIVATION=range(len(ACTIVATIONS)))
activate_gradient = Kernel("activate_gradient", "activation.cu", [
    Array("gy", ("n",)), Array("y", ("n",)), Array("gx", ("n",)), Number("scale"), Size("n")], _elements,
    ACTIVATION=range(len(ACTIVATIONS)))
dropout = Kernel("dropout", "dropout.cu", [
    Array("x", ("n",)), Array("y", ("n",)), Number("key", "unsigned long long", varying=True),
    Number("threshold", "unsigned int"), Number("scale"), Size("n")], _counters)
dropout_tile = Kernel("dropout_tile", "dropout.cu", [
    Array("keep", ("pairs", "rows", "columns"), "uint8"), Number("key", "unsigned long long", varying=True),
    Number("threshold", "unsigned int"), Number("begin", "long long"), Number("stride", "long long"),
    Number("row_stride", "long long"), Size("pairs"), Size("rows"), Size("columns")],
    lambda sizes, macros: grids.counters(sizes["pairs"] * sizes["rows"] * (sizes["columns"] + 6)))
gaussian = Kernel("gaussian", "dropout.cu", [
    Array("out", ("n",)), Number("key", "unsigned long long", varying=True), Size("n")], _counters)
cross_entropy = Kernel("cross_entropy", "softmax.cu", [
    Array("x", ("n", "m"), strided=True), Array("label", ("n",), "int64"), Array("p", ("n", "m")),
    Array("logarithm", ("n",)), Number("smallest"), *_SIZES],
    lambda sizes, macros: grids.rows(sizes["n"], macros["ROW_THREADS"]), ROW_THREADS=ROW_THREADS)
cross_entropy_gradient = Kernel("cross_entropy_gradient", "softmax.cu", [
    Array("p", ("n", "m")), Array("label", ("n",), "int64"), Array("factor", ("factors",)),
    Number("factor_step", "int"), *_SIZES], _tiles, ROW_THREADS=ROW_THREADS)
lstm_step = Kernel("lstm_step", "lstm.cu", [
    Array("x", ("streams", "gates"), strided=True), Array("product", ("streams", "gates"), strided=True),
    Array("c_before", ("streams", "units")), Array("cont", ("streams",)),
    Array("activated", ("streams", "gates")), Array("c", ("streams", "units")),
    Array("squashed", ("streams", "units")), Array("h", ("streams", "units")), Size("streams"),
    Size("units")], _units)
lstm_step_gradient = Kernel("lstm_step_gradient", "lstm.cu", [
    Array("activated", ("streams", "gates")), Array("squashed", ("streams", "units")),
    Array("c_before", ("streams", "units")), Array("cont", ("streams",)), Array("dh", ("streams", "units")),
    Array("dc", ("streams", "units")), Array("d", ("streams", "gates")), Size("streams"), Size("units")],
    _units)
column_sums = Kernel("column_sums", "sums.cu", [
    Array("x", ("n", "m"), strided=True), Array("out", ("m",)), *_SIZES],
    lambda sizes, macros: grids.columns(sizes["m"]))
sum_groups = Kernel("sum_groups", "sums.cu", [
    Array("x", ("rows", "m"), strided=True), Array("order", ("places",), "int64"),
    Array("bounds", ("ends",), "int64"), Array("out", ("n", "m")), *_SIZES], _tiles)
sum_of_squares = Kernel("sum_of_squares", "sums.cu", [
    Array("x", ("n",)), Array("out", ("blocks",), "float64"), Size("blocks"), Size("n")],
    lambda sizes, macros: ((sizes["blocks"], 1), (grids.THREADS, 1)))
add_up = Kernel("add_up", "sums.cu", [
    Array("x", ("n",), "float64"), Array("out", ("sums",), "float64"), Size("n")],
    lambda sizes, macros: ((1, 1), (grids.THREADS, 1)))
link_places = Kernel("link_places", "table.cu", [
    Array("ids", ("n",), "int64"), Array("places", ("rows",), "int32"), Array("next", ("n",), "int32"),
    Size("n")], lambda sizes, macros: grids.rows(sizes["n"], 32))
sum_places = Kernel("sum_places", "table.cu", [
    Array("x", ("n", "m"), strided=True), Array("ids", ("n",), "int64"), Array("places", ("rows",), "int32"),
    Array("next", ("n",), "int32"), Array("g", ("n", "m")), *_SIZES], _tiles)
multiply_groups = Kernel("multiply_groups", "blocks.cu", [
    Array("x", ("n", "features", "rest")), Array("factors", ("groups", "features")),
    Array("ends", ("groups",), "int64"), Array("y", ("n", "features", "rest")), Size("groups"),
    Size("features"), Size("rest"), Size("n")],
    lambda sizes, macros: grids.tiles(sizes["n"], sizes["features"] * sizes["rest"]))
multiply_blocks = Kernel("multiply_blocks", "blocks.cu", [
    Array("x", ("n", "features", "rest")), Array("lives", ("groups", "blocks"), "uint8"),
    Array("y", ("n", "features", "rest")), Number("samples", "long long"), Number("units", "long long"),
    Number("scale"), Size("blocks"), Size("features"), Size("rest"), Size("n")],
    lambda sizes, macros: grids.tiles(sizes["n"], sizes["features"] * sizes["rest"]))
block_product = Kernel("block_product", "block_products.cu", [
    Array("a", ("a_rows", "a_columns"), "OPERAND", strided=True),
    Array("b", ("b_rows", "b_columns"), "OPERAND", strided=True), Array("c", ("m", "n")),
    Array("bias", ("n",), optional=True),
    Array("a_lives", ("a_groups", "a_blocks"), "uint8", strided=True, optional=True),
    Number("a_samples", "int"), Number("a_units", "int"),
    Array("n_lives", ("n_groups", "n_blocks"), "uint8", strided=True, optional=True),
    Number("n_samples", "int"), Number("n_units", "int"), Number("scale"),
    Size("m"), Size("n"), Size("a_rows"), Size("a_columns")],
    lambda sizes, macros: grids.product(sizes["m"], sizes["n"], macros["TILE_M"], macros["TILE_N"]), _fits,
    OPERAND=range(len(OPERANDS)), TRANS_A=(0, 1), TRANS_B=(0, 1), TILE_M=(64, 128), TILE_N=(64, 128))
transpose = Kernel("transpose", "transpose.cu", [
    Array("W", ("n", "m"), strided=True), Array("out", ("m", "n")), *_SIZES],
    lambda sizes, macros: grids.squares(sizes["n"], sizes["m"]))
put_outputs = Kernel("put_outputs", "activation.cu", [
    Array("x", ("outputs", "images", "places")), Array("b", ("outputs",), strided=True, optional=True),
    Array("y", ("images", "outputs", "places"), strided=True), Number("scale"), Size("images"),
    Size("outputs"), Size("places")], _of(("outputs",), ("images", "places")),
    ACTIVATION=range(len(ACTIVATIONS)))
columns = Kernel("columns", "columns.cu", [
    Array("x", _OF_IMAGES, strided=True), Array("out", _OF_COLUMNS), *WINDOW, *_IMAGES, Size("entries"),
    *_IMAGE], _of(("channels", "entries"), ("images", "lines", "places")))
add_columns = Kernel("add_columns", "columns.cu", [
    Array("x", _OF_COLUMNS), Array("out", _OF_IMAGES, strided=True), *WINDOW, *_IMAGES, Size("entries"),
    *_IMAGE], _of(("channels",), ("images", "height", "width")))
convolve_each = Kernel("convolve_each", "depthwise.cu", [
    Array("x", _OF_IMAGES, strided=True), Array("W", ("outputs", "entries")),
    Array("y", _OF_OUTPUTS, strided=True), *WINDOW, *_IMAGES, Size("outputs"), *_IMAGE],
    _of(("outputs",), ("images", "lines", "places")))
convolve_each_image_gradient = Kernel("convolve_each_image_gradient", "depthwise.cu", [
    Array("W", ("outputs", "entries")), Array("gy", _OF_OUTPUTS, strided=True),
    Array("gx", _OF_IMAGES, strided=True), *WINDOW, *_IMAGES, Size("outputs"), *_IMAGE],
    _of(("channels",), ("images", "height", "width")))
convolve_each_weight_gradient = Kernel("convolve_each_weight_gradient", "depthwise.cu", [
    Array("x", _OF_IMAGES, strided=True), Array("gy", _OF_OUTPUTS, strided=True),
    Array("gW", ("outputs", "entries")), *WINDOW, *_IMAGES, Size("outputs"), Size("entries"), *_IMAGE],
    lambda sizes, macros: ((sizes["outputs"] * sizes["entries"], 1), (grids.THREADS, 1)))
max_pool = Kernel("max_pool", "pooling.cu", [
    Array("x", _OF_PLANES), Array("y", _OF_POOLED), Array("index", _OF_POOLED, "int32"), *WINDOW,
    Size("planes"), *_IMAGE], _of_elements(_OF_POOLED))
max_pool_gradient = Kernel("max_pool_gradient", "pooling.cu", [
    Array("gy", _OF_POOLED), Array("index", _OF_POOLED, "int32"), Array("gx", _OF_PLANES), *WINDOW,
    Size("planes"), *_IMAGE], _of_elements(_OF_PLANES))
mean_pool = Kernel("mean_pool", "pooling.cu", [
    Array("x", _OF_PLANES), Array("y", _OF_POOLED), *WINDOW, Size("planes"), *_IMAGE],
    _of_elements(_OF_POOLED))
mean_pool_gradient = Kernel("mean_pool_gradient", "pooling.cu", [
    Array("gy", _OF_POOLED), Array("gx", _OF_PLANES), *WINDOW, Size("planes"), *_IMAGE],
    _of_elements(_OF_PLANES))

KERNELS = {kernel.name: kernel for kernel in list(vars().values()) if isinstance(kernel, Kernel)}
