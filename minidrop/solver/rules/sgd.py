"""SGD with momentum."""

from minidrop.solver.rules.base import UpdateRule, register_rule


@register_rule("SGD")
class SGD(UpdateRule):
    """h = momentum * h + lr * g;  w -= h.

    The learning rate lies inside the history, as in Caffe. The backend does it all, since it can use the
    compact blocks of a gradient without making it dense.
    """

    ranges = {"momentum": (0, 1)}
    capturable = True

    def update(self, backend, parameter, history, lr, decay=0.0, l1=False, grad_scale=1.0, iteration=0):
        lr, grad_scale = (x if getattr(x, "shape", ()) else float(x) for x in (lr, grad_scale))
        backend.sgd_update(parameter.data, history[0], parameter.blocks, lr, self.momentum, float(decay), l1,
                           grad_scale)
