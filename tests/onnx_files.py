"""Nets as ONNX files, run by onnxruntime: what several tests of the export share."""

import numpy as np
import pytest

from minidrop.apps.onnx import export_onnx


def package():
    """The package onnx; the test is skipped without it."""
    return pytest.importorskip("onnx", reason="of the extra `onnx`, which exports nets")


def exported(net, path, **options):
    """Export a net and return what `export_onnx` does."""
    package()
    return export_onnx(net, path, **options)


def session(path):
    """An onnxruntime session of a file, on the CPU."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="of the extra `peers`, which runs ONNX files")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, given):
    """Return {output: array} of a file for {input: array}; inputs that it lacks are left out."""
    found = session(path)
    names = [value.name for value in found.get_inputs()]
    assert set(names) <= set(given)
    results = found.run(None, {name: np.asarray(given[name], np.float32) for name in names})
    return dict(zip((value.name for value in found.get_outputs()), results, strict=True))


def assert_equal_outputs(net, path, given, outputs=(), where=None, **options):
    """Export a net and hold what the file computes against the net's own pass; see `assert_computes`."""
    exported(net, path, outputs=outputs, **options)
    found = assert_computes(path, net, given, where)
    assert set(outputs) <= set(found)
    return found


def assert_computes(path, net, given, where=None):
    """A file computes what a net does, to 1e-5 of the largest number; returns {output: array}.

    where: {output: mask} of the entries that are compared.
    """
    found = run(path, given)
    net.reset_states()
    net.forward(**{name: np.asarray(value, float) for name, value in given.items()})
    for name, array in found.items():
        expected = net.blobs[name].numpy()
        assert array.shape == expected.shape, name
        kept = (where or {}).get(name, ...)
        np.testing.assert_allclose(array[kept], expected[kept], rtol=1e-5,
                                   atol=1e-5 * max(1, np.abs(expected).max(initial=0)), err_msg=name)
    return found
