"""Layer types without an equivalent in ONNX, and why."""

_FEEDS = "it reads data; its blobs become inputs where another layer needs them"
_JUDGES = "it judges by labels, which a net in use lacks; name the blob of scores as the output"

REASONS = {
    **dict.fromkeys(("Data", "DummyData", "HDF5Data", "ImageData", "Input", "LoaderData", "MemoryData",
                     "ParallelTextData", "TaggedTextData", "TextData", "WindowData"), _FEEDS),
    **dict.fromkeys(("Accuracy", "ContrastiveLoss", "EuclideanLoss", "F1", "HingeLoss", "InfogainLoss",
                     "MultinomialLogisticLoss", "Perplexity", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"),
                    _JUDGES),
    "AttentionDecoder": "it reads its own result at the next step, which no operator of ONNX does; use "
                        "`minidrop translate`",
    "CRF": "no operator of ONNX finds the best path; name the blob of its scores as the output, and find the "
           "path with functions.best_tags",
    "HDF5Output": "it writes files",
    "Python": "it runs code of the user",
    "Lambda": "it runs code of the user",
}


def reason_of(layer_type: str) -> str:
    """Return why layers of a type are not exported."""
    return REASONS.get(layer_type) or ("no function writes layers of this type; register one with "
                                       f"minidrop.apps.onnx.exports({layer_type!r})")
