"""timeline_picture.py: an SVG of spans, whatever layers are called."""

from xml.etree import ElementTree


def test_a_picture(scripts):
    spans = [("forward", "a<b & c", 0.0, 1.0), ("backward", "a<b & c", 1.0, 3.5),
             ("reduce", "2 blocks", 2.0, 4.0), ("update", "all", 4.0, 4.25)]
    root = ElementTree.fromstring(scripts.timeline_picture.picture({0: spans, 1: spans}))
    shapes = [one for one in root.iter() if one.tag.endswith("}rect")]
    assert len(shapes) == 2 * len(spans) + 4        # and the key
    assert [one[0].text for one in shapes[:4]] == [
        "a<b & c: 1.00 ms", "a<b & c: 2.50 ms", "all: 0.25 ms", "2 blocks: 2.00 ms"]
    first, second = (float(one.get("x")) for one in shapes[:2])
    assert float(shapes[0].get("width")) == round(second - first, 1) > 0
    texts = [one.text for one in root.iter() if one.tag.endswith("}text")]
    assert texts[:2] == ["rank 0", "rank 1"] and "0 ms" in texts
