"""Where everything is in a lab: the host, the gateway of its network, and another machine behind the host."""

from __future__ import annotations

OUTSIDE = "192.0.2.1"  # an address of the host's that is not loopback
GATEWAY = "10.77.0.1"
OUTSIDE6, GATEWAY6, PREFIX6 = "2001:db8::1", "fd00:77::1", "fd00:77::/64"
NEAR, FAR, NEAR6, FAR6 = "203.0.113.1", "203.0.113.2", "2001:db8:1::1", "2001:db8:1::2"
