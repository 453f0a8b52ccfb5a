#!/usr/bin/env python
"""A pattern family of one's own, in one file: ALIGNED, like PERIODIC with runs that begin and end at
multiples of eight units.

    python docs/examples/aligned_family.py
    minidrop --import docs/examples/aligned_family.py patterns --family ALIGNED
    minidrop --import docs/examples/aligned_family.py train --solver models/digits_mlp/solver.prototxt
    --dropout approx:ALIGNED

Eight numbers of float32 fill a 32-byte sector of memory, so such runs are fetched without waste. Registering
the class is all there is to do: prototxt files, the search, sequences, the planner, `minidrop patterns`,
`check` and snapshots find it by name.
"""

from math import floor

import minidrop as md
from minidrop.errors import ConfigError
from minidrop.patterns import PatternDistribution, PatternFamily, PatternSettings

SECTOR = 8
STEP = 80


@md.register_pattern("ALIGNED")
class AlignedFamily(PatternFamily):
    """Unit i lives iff (i - start) mod step < width; start a random multiple of 8, width a multiple of 8,
    step 80.

    A width is a choice; the two multiples of 8 next to (1 - p) step are drawn in the proportion that makes
    the mean rate p. `step` may be set to another multiple of 8.
    """

    uses = frozenset({"step"})

    def build_distribution(self):
        self.step = self.settings.step or STEP
        if self.step % SECTOR:
            raise ConfigError(f"step must be a multiple of {SECTOR} for pattern ALIGNED, got {self.step}; "
                              f"try {STEP}")
        sectors = (1 - self.settings.exact_rate) * (self.step // SECTOR)
        if sectors < 1:
            raise ConfigError(f"step {self.step} is too short for rate {self.settings.rate!r}: it would keep "
                              f"less than {SECTOR} units of {self.step}; set a longer step")
        narrow = floor(sectors)
        beyond = float(sectors - narrow)
        if not beyond:
            return PatternDistribution((SECTOR * narrow,), [1.0], self.settings.rate)
        return PatternDistribution((SECTOR * narrow, SECTOR * (narrow + 1)), [1 - beyond, beyond],
                                   self.settings.rate)

    def check_total(self, total):
        longest_gap = self.step - min(self.distribution.choices)
        if self.settings.rate and longest_gap >= total:
            raise ConfigError(f"step {self.step} could drop all of {total} units; set step to "
                              f"{max(SECTOR, total // SECTOR * SECTOR)} or less, or pattern to PERIODIC")

    def offsets(self, choice):
        return 1 if choice == self.step else self.step // SECTOR

    def pattern(self, choice, offset):
        return self.regular(SECTOR * offset, self.step, choice)

    def describe(self, choice):
        return f"{choice} of {self.step}"


def main():
    """Print what the family does at rate 0.5, then train a small net with it."""
    from minidrop.patterns import get_family
    family = get_family(PatternSettings(0.5, "ALIGNED"))
    for choice, probability in zip(family.distribution.choices, family.distribution.probabilities,
                                   strict=True):
        print(f"{family.describe(choice)} with probability {probability:g}: "
              f"{family.pattern(choice, 3).kept(160)}")

    net = md.NetSpec("example")
    net.add("DummyData", "data", shape=[[16, 20]], data_filler={"type": "gaussian", "std": 1})
    net.add("InnerProduct", "ip1", "data", num_output=160, weight_filler={"type": "msra"})
    net.add("ApproxDropout", "drop1", "ip1", pattern="ALIGNED", dropout_ratio=0.5)
    net.add("InnerProduct", "ip2", "drop1", num_output=1, weight_filler={"type": "msra"})
    built = md.Net(net.to_proto(), device="cpu")
    print("\n".join(built.plan.lines()))
    for iteration in range(3):
        built.draw_patterns(iteration)
        built.forward()
        print(f"iteration {iteration}: {built.blobs['ip1'].kept}")


if __name__ == "__main__":
    main()
