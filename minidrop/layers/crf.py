"""CRF: the likelihood of whole sequences of tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, ParameterSpec, register_layer
from minidrop.layers.loss_settings import LOSS_FIELDS, labels_that_count, loss_settings

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("CRF")
class CRF(Layer):
    """loss = the mean over sequences of - log likelihood of their tags, in a linear chain.

    Bottoms: scores (T, N, K) of K tags; tags (T, N), -1 in padding, which is behind the tags. Parameters:
    what a pair of neighbouring tags, the first and the last tag add to the score of a sequence. Optional
    second top: the best tags (T, N) (Viterbi), -1 in padding. Sequences without a tag do not count, unless
    loss_param sets a normalization. See functions.crf.
    """

    bottoms = (2, 2)
    tops = (1, 2)
    along = 0
    is_loss = True
    learnable_tops = 1
    reads_loss_param = LOSS_FIELDS
    axis = 2

    def setup(self, scores: tuple[int, ...], tags: tuple[int, ...]) -> list[tuple[int, ...]]:
        if len(scores) != 3 or tuple(tags) != tuple(scores[:2]):
            raise ShapeError(f"expected scores (steps, streams, tags) and tags (steps, streams), got "
                             f"{tuple(scores)} and {tuple(tags)}")
        ignored, self.normalization = loss_settings(self.config)
        if ignored not in (None, -1):
            raise ConfigError(f"loss_param: ignore_label is {ignored}, but the padding of sequences is -1; "
                              f"leave it out")
        self.kinds, self.streams = scores[2], tags[1]
        return [(), tuple(tags)][:len(self.config.top)]

    def parameter_specs(self) -> list[ParameterSpec]:
        settings = self.settings
        return [ParameterSpec("transitions", (self.kinds, self.kinds), settings.weight_filler,
                              "weight_filler"),
                ParameterSpec("start", (self.kinds,), settings.bias_filler, "bias_filler"),
                ParameterSpec("end", (self.kinds,), settings.bias_filler, "bias_filler")]

    @property
    def batch_weight(self) -> float:
        """What the last batch's streams that count weigh; reading it waits for the device."""
        return labels_that_count(self.tags[:1], self.streams, -1, self.normalization)

    def forward(self, x: Tensor, tags: Tensor) -> Any:
        self.tags = tags.data
        weights = self.params["transitions"], self.params["start"], self.params["end"]
        loss = functions.crf(x, tags, *weights, self.normalization)
        return (loss, functions.best_tags(x, tags, *weights)) if len(self.config.top) == 2 else loss
