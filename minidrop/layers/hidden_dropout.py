"""Dropout of the state of a recurrent layer between steps, as its settings say and an iteration draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop.config import decimal
from minidrop.errors import ConfigError
from minidrop.functions.dropout import dropout_mask
from minidrop.functions.hidden_drop import NOTHING, HiddenDrop, step_masks
from minidrop.layers.drop_settings import drop_site, shape_site, steps_held
from minidrop.layers.flow import Drops

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from minidrop.autograd.tensor import Tensor
    from minidrop.patterns.drop_site import DropSite


class HiddenDropout:
    """The fields hidden_dropout and hidden_dropout_type of a layer's settings; raises ConfigError.

    `site` is the DropSite that draws patterns, None if there is none. `whole`: some units are absent from all
    steps of a batch. `held`: for how many steps a subset is read; 0: units are absent from all of them.
    """

    def __init__(self, name: str, settings: Message, seed: int):
        self.settings = settings.hidden_dropout
        self.site: DropSite | None = None
        self.steps, self.units, self.held = 0, 0, 0
        self.given = settings.HasField("hidden_dropout")
        kinds = settings.DESCRIPTOR.fields_by_name["hidden_dropout_type"].enum_type.values_by_name
        self.conventional = settings.hidden_dropout_type == kinds["CONVENTIONAL"].number
        if self.conventional and not self.given:
            raise ConfigError("hidden_dropout_type is given, but no hidden_dropout; add hidden_dropout { "
                              "dropout_ratio: 0.5 }")
        if self.given and self.settings.reshuffle_interval:
            raise ConfigError("hidden_dropout: the units of a recurrent layer cannot be permuted; remove "
                              "reshuffle_interval")
        if self.given and not self.conventional:
            if self.settings.HasField("axis") and self.settings.axis not in (2, -1):
                raise ConfigError(f"hidden_dropout drops units of the state, which are axis 2 of (steps, "
                                  f"streams, units), got axis: {self.settings.axis}; remove axis")
            self.site = drop_site(name, self.settings, seed)
            if self.site.family.drops != "units":
                raise ConfigError(f"hidden_dropout needs a pattern of units, got {self.site.family.name}, "
                                  f"which drops {self.site.family.drops}; set pattern to PERIODIC")
        elif self.given:
            self.rate = decimal(self.settings.dropout_ratio)
            if not 0 <= self.rate < 1:
                raise ConfigError(f"hidden_dropout: dropout_ratio must lie in [0, 1), got {self.rate:g}")

    @property
    def whole(self) -> bool:
        """Whether units are absent from all steps of a batch: what `Product.out_axis` may leave out."""
        return self.site is not None and self.site.steps is None

    def shape(self, shape: tuple[int, ...]) -> None:
        """Fit the patterns to states (steps, streams, units) of the longest batch."""
        self.steps, _, self.units = shape
        if self.given:
            self.held = steps_held(self.settings, shape)
        if self.site is not None:
            shape_site(self.site, self.settings, shape, 2, of_state=True)

    def facts(self, top: int) -> list[Drops]:
        """Return the flow facts; top: OWN, or the top that lacks what is dropped."""
        if self.site is not None:
            return [Drops(self.site, top, 2, label="hidden_dropout")]
        return [Drops(axis=2, reason="hidden_dropout_type CONVENTIONAL drops every unit of every stream on "
                      "its own")] * self.given

    def of(self, x: Tensor, drawn: Any, skips: bool) -> Any:
        """Return the HiddenDrop of an iteration for inputs x (steps, streams, ...), which may have fewer
        steps than the layer was set up for.

        drawn: the layer's NodeDraw. skips: the planner's word that products leave out what is dropped from
        single steps.
        """
        if not (self.given and drawn.dropping):
            return NOTHING
        steps, streams = x.shape[:2]
        shape = steps, streams, self.units
        if self.site is None:
            return HiddenDrop(mask=self._conventional_mask(x.backend, shape, x.dtype, drawn),
                              whole=not self.held)
        draw = drawn.own
        if draw.masked:
            return HiddenDrop(mask=draw.mask(shape, 2), whole=not self.held,
                              moving=None if self.held else draw.draw.every)
        if self.held:
            kept = tuple(None if one.is_all else one for one in draw.of_first(steps))
            if skips:
                parts = self.site.parts_gradient(x.backend, self.steps * streams)
                return HiddenDrop(steps=kept, scale=draw.scale, parts_gradient=parts)
            return HiddenDrop(mask=step_masks(x.backend, kept, streams, self.units, draw.scale, x.dtype))
        return HiddenDrop(units=draw.kept, scale=draw.scale, whole=True)

    def _conventional_mask(self, backend, shape, dtype, drawn):
        """Return the mask of every unit of every stream, for all steps or one for each run of them."""
        steps, *rest = shape
        runs = -(-steps // self.held) if self.held else 1
        ones, scale = backend.xp.ones((runs, *rest), dtype), 1 / (1 - self.rate)
        if drawn.part is None:
            mask = backend.dropout(ones, self.rate, scale, drawn.key)[0]
        else:
            keep = dropout_mask(backend, ones.shape, self.rate, drawn.key, drawn.part.along(1))
            mask = backend.dropout_gradient(ones, keep, scale)
        if self.held < 2:
            return mask
        held = backend.empty(shape, dtype)
        for i in range(runs):
            held[i * self.held:(i + 1) * self.held] = mask[i]
        return held
