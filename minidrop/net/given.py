"""given_net: the Net that a function was given, or an error that says what to give instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minidrop.errors import ConfigError, kind_of
from minidrop.net.net import Net


def given_net(net: Any) -> Net:
    """Return `net`; raises ConfigError unless it is a Net."""
    if isinstance(net, Net):
        return net
    hint = ""
    if hasattr(net, "net_for"):
        hint = "; give the net behind the module, module.net_for(x), for an input x"
    elif hasattr(net, "net"):
        hint = "; give its net"
    elif isinstance(net, str | Path):
        hint = "; md.Net.from_file reads a network file"
    raise ConfigError(f"net: expected a Net, got {kind_of(net)}{hint}")
