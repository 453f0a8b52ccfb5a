"""What a message between ranks is said to cost."""

from types import SimpleNamespace

import pytest

from minidrop.apps import link


@pytest.mark.parametrize(("small", "large", "bandwidth"), [(2e-3, 9e-3, 2 / 7e-3), (2e-3, 1e-3, 2 / 0.5e-3)],
                         ids=["alone", "held up"])
def test_latencies_longer_than_an_exchange_leave_a_bandwidth(small, large, bandwidth, monkeypatch):
    """Ranks that share cores may wait longer for a byte than for an exchange: that is no rate without end."""
    times = iter([small, large])
    monkeypatch.setattr(link, "_seconds", lambda call, repeats: next(times))
    found = link.measure_link(SimpleNamespace(size=3, gather=lambda array: array[None]), part=1)
    assert found == pytest.approx((small / 2, bandwidth))
