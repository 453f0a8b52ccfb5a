"""ROW: keep one unit in every dp, dp drawn anew each iteration (the paper's row pattern)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop.patterns.base import BY_GROUPS, register_pattern
from minidrop.patterns.periods import PeriodFamily

if TYPE_CHECKING:
    from minidrop.patterns.base import Pattern


@register_pattern("ROW")
class RowFamily(PeriodFamily):
    """Unit i lives iff i mod dp = b, b uniform in 0 .. dp - 1; how dp is drawn: see `PeriodFamily`.

    Source: Song and Jiang, arXiv 1805.08939, row pattern; scale PATTERN is their dp, if that is how they
    scale.
    """

    uses = PeriodFamily.uses | BY_GROUPS

    def pattern(self, choice: int, offset: int) -> Pattern:
        return self.regular(offset, choice, 1)
