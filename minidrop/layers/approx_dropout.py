"""ApproxDropout: a regular pattern, drawn once an iteration and shared by the batch, says which units live."""

from minidrop import functions
from minidrop.config import decimal
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, checked_axis, register_layer
from minidrop.patterns import DropSite, PatternSettings


def pattern_settings(settings):
    """Return the PatternSettings that an ApproxDropoutParameter asks for."""
    return PatternSettings(rate=decimal(settings.dropout_ratio), family=settings.pattern,
                           max_period=settings.max_period, step=settings.step,
                           scale=settings.Scale.Name(settings.scale), search=settings.Search.Name(settings.search),
                           tile_size=settings.tile_size, block_samples=settings.block_samples,
                           block_units=settings.block_units)


@register_layer("ApproxDropout")
class ApproxDropout(Layer):
    """y = x on the units that the drawn pattern keeps, scaled; zero on the others; in phase TEST y = x.

    The layer's `site` says what lives. The planner lends it to the layer that computes x, which then leaves the dropped
    units out; y carries the kept set, and the layers that read it leave them out as well. Patterns may also drop weights of
    the product above (TILE), or blocks of activations (BLOCK). Song and Jiang, arXiv 1805.08939.
    """

    axis = 1
    drops = True
    keeps_units = True

    def __init__(self, config, context):
        # The site comes first: `dropping`, which Layer sets, is kept there.
        self.site = DropSite(config.name, pattern_settings(config.approx_dropout_param), context.seed)
        super().__init__(config, context)
        self.reshuffle_interval = self.settings.reshuffle_interval

    @property
    def dropping(self):
        return self.site.active

    @dropping.setter
    def dropping(self, on):
        self.site.active = on

    def setup(self, shape):
        if len(shape) < 2:
            raise ConfigError(f"ApproxDropout drops features, but the bottom of shape {tuple(shape)} has only a batch axis")
        # Features stand last in sequences and vectors, on axis 1 (channels) in images.
        self.axis = checked_axis(1 if len(shape) in (2, 4) else -1, len(shape))
        self.site.total = shape[self.axis]
        self.site.family.check_total(self.site.total)
        return [shape]

    def draw(self, counter):
        self.site.draw(counter)

    def forward(self, x):
        return functions.approx_dropout(x, self.site, self.axis)
