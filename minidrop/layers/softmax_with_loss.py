"""SoftmaxWithLoss."""

from minidrop import functions
from minidrop.layers.base import Layer, check_label_shape, checked_axis, loss_normalization, register_layer


@register_layer("SoftmaxWithLoss")
class SoftmaxWithLoss(Layer):
    """loss = - mean log softmax(x)[label]; bottoms: scores, labels. Optional second top: the probabilities."""

    bottoms = (2, 2)
    tops = (1, 2)
    is_loss = True

    def setup(self, scores, labels):
        self.axis = checked_axis(self.config.softmax_param.axis, len(scores))
        check_label_shape(scores, labels, self.axis)
        return [(), scores][:len(self.config.top)]

    def forward(self, x, label):
        loss = self.config.loss_param
        ignore_label = loss.ignore_label if loss.HasField("ignore_label") else None
        value = functions.softmax_cross_entropy(x, label, self.axis, ignore_label, loss_normalization(loss))
        if len(self.config.top) == 1:
            return value
        return value, functions.softmax(x, self.axis)
