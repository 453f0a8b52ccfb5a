"""Whether the layers that read a text have room for its vocabulary; else the first rare token would stop a
run."""

from minidrop.data.vocabulary import SPECIAL

JUDGES = ("SoftmaxWithLoss", "Perplexity", "Accuracy")


def check_vocabularies(graph, problems):
    """Add to `problems` each Embed with fewer rows, and each loss or metric with fewer classes, than its text
    has tokens.

    Seen is what reads a TextData layer directly; a layer without shapes has a mistake that is reported
    already.
    """
    for node in graph.nodes:
        if not all(ref in graph.shapes for ref in node.tops):
            continue
        if node.config.type == "Embed":
            text, room = _text(graph, node.bottoms[0]), node.config.embed_param.input_dim
            what, remedy, place = f"input_dim is {room}", "input_dim: {}", ("embed_param", "input_dim")
        elif node.config.type in JUDGES:
            scores, axis = node.bottoms[0], node.layer.axis
            text, room = _text(graph, node.bottoms[1]), graph.shapes[scores][axis]
            what = f"{scores.name!r} has {room} class{'es' * (room != 1)} on axis {axis}"
            remedy, place = "num_output: {} in the layer that computes them", (("bottom", 0),)
        else:
            continue
        if text is not None and room < len(text.layer.vocabulary):
            tokens = len(text.layer.vocabulary)
            problems.add(node.index, f"{what}, but the vocabulary of {text.name!r} has {tokens} tokens; set "
                                     f"{remedy.format(tokens)}{_or_fewer_tokens(text, room)}", *place)


def _text(graph, ref):
    """Return the node of the TextData layer that writes the tokens `ref`, or None; its third top, cont, holds
    no tokens."""
    node = graph.writer[ref]
    return node if node.config.type == "TextData" and ref in node.tops[:2] else None


def _or_fewer_tokens(text, room):
    settings = text.config.text_data_param
    if settings.vocabulary.endswith(".vocabulary") or room <= len(SPECIAL[text.layer.vocabulary.level]):
        return ""           # there vocabulary_size cannot be that
    return f", or vocabulary_size: {room} in text_data_param"
