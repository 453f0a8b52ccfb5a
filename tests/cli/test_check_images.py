"""`minidrop check` of nets with images: a mistake is one line, with file, line, layer and sizes."""

import pytest

NET = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 dim: 7 dim: 6 } } }
layer { name: "l" type: "%s" bottom: "x" top: "y"
        %s }
"""


@pytest.fixture
def checked(minidrop, tmp_path, monkeypatch):
    """checked(type, settings) -> (exit code, lines) of `check` of a net with such a layer."""
    def check(kind, settings):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "net.prototxt").write_text(NET % (kind, settings))
        result = minidrop("check", "net.prototxt")
        return result.code, (result.out + result.err).splitlines()
    return check


@pytest.mark.parametrize("kind, settings, message", [
    ("Convolution", "convolution_param { num_output: 4 kernel_size: 9 pad: 1 }", "a window of 9 x 9 does not "
     "fit into the bottom of shape (2, 4, 7, 6), whose padded images are 9 x 8; make kernel_size or dilation "
     "smaller, or pad larger"),
    ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 group: 3 }", "group 3 divides the "
     "channels into equal runs, but there are 4 inputs and 4 outputs; it has to divide both"),
    ("Deconvolution", "convolution_param { num_output: 4 }", "convolution_param needs kernel_size, at least "
     "1"),
    ("Pooling", "pooling_param { kernel_size: 8 }", "a window of 8 x 8 does not fit into the bottom of shape "
     "(2, 4, 7, 6) with pad 0 x 0; make kernel_size smaller"),
    ("SPP", "spp_param { pyramid_height: 5 }", "pyramid_height 5 cuts an axis into 2^4 windows, but the "
     "bottom of shape (2, 4, 7, 6) is too small for that; make it smaller"),
])
def test_a_mistake_is_one_line(checked, kind, settings, message):
    code, lines = checked(kind, settings)
    assert code == 1
    assert lines == [f"error: net.prototxt:3:9: layer 'l' ({kind}): {message} [bottoms: x (2, 4, 7, 6)]",
                     "1 mistake"]


def test_settings_of_another_layer(checked):
    assert checked("Convolution", "pooling_param { kernel_size: 3 }") == (1, [
        "error: net.prototxt:3:9: layer 'l' (Convolution): pooling_param belongs to another layer type; it "
        "reads convolution_param",
        "error: net.prototxt:2:1: layer 'l' (Convolution): convolution_param needs num_output, at least 1 "
        "[bottoms: x (2, 4, 7, 6)]", "2 mistakes"])
