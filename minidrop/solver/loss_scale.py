"""LossScale: keeps the gradients of a training in float16 inside that type's range."""

from minidrop.errors import SnapshotError

FIRST, LEAST, MOST = 2.0**16, 1.0, 2.0**24
GROWS_AFTER = 2000      # updates without an overflow


class LossScale:
    """A power of two that the loss is multiplied by before backward, and the gradients divided by after it.

    float16 ends at 65504 and below 6e-8 is nothing: small gradients would vanish in its products. So the
    scale is as large as it can be: halved where a gradient overflows, and that step is skipped; doubled after
    GROWS_AFTER updates in a row. Micikevicius et al. 2018, arXiv 1710.03740, section 3.2.
    """

    def __init__(self, value=FIRST, good_steps=0, skipped=0):
        self.value, self.good_steps, self.skipped = value, good_steps, skipped

    def note(self, finite):
        """Learn whether the gradients of a step were finite; returns False where no smaller scale is left to
        try."""
        if not finite:
            self.skipped += 1
            self.good_steps = 0
            possible = self.value > LEAST
            self.value = max(LEAST, self.value / 2)
            return possible
        self.good_steps += 1
        if self.good_steps == GROWS_AFTER:
            self.value, self.good_steps = min(MOST, self.value * 2), 0
        return True

    @property
    def values(self):
        """What events of a Solver say of it."""
        return {"loss_scale": self.value, "skipped_steps": self.skipped}

    @property
    def state(self):
        """What a snapshot keeps of it: attributes."""
        return {**self.values, "good_steps": self.good_steps}

    @classmethod
    def of(cls, path, attrs):
        """Return the LossScale that a snapshot's attributes describe, a fresh one where they do not.
        SnapshotError."""
        if "loss_scale" not in attrs:
            return cls()
        value, good, skipped = (attrs.get(name) for name in ("loss_scale", "good_steps", "skipped_steps"))
        if not (isinstance(value, float) and LEAST <= value <= MOST and all(
                isinstance(n, int) and n >= 0 for n in (good, skipped)) and good < GROWS_AFTER):
            raise SnapshotError(f"{path}: refused as a snapshot: expected loss_scale from {LEAST:g} to "
                                f"{MOST:g} and counts of good_steps and skipped_steps, got {value!r}, "
                                f"{good!r} and {skipped!r}")
        return cls(value, good, skipped)
