"""Networks where there is no /dev/net/tun: a packet socket on a veth in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.busybox import busybox_tar
from tests.e2e.conftest import Installation
from tests.e2e.test_networks import SLEEP, inside

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]


def test_networks_left_and_joined_again_without_a_tun_device(fresh: Installation, tmp_path: Path) -> None:
    script = 'mount --bind "$0" /dev/net && exec setpriv --ambient-caps -all --inh-caps -all "$@"'
    first = [*("unshare", "--map-current-user", "--keep-caps", "--mount", "sh", "-c", script), str(tmp_path)]
    fresh.run([*first, str(fresh.command), "import", "-", "busybox"], busybox_tar(), 0, 60, {})
    fresh("network", "create", "one")
    fresh("network", "create", "two")
    fresh("run", "-d", "--name", "na", "--network", "one", *SLEEP)
    fresh("run", "-d", "--name", "nb", "--network", "two", *SLEEP)
    assert "slirp0" in inside(fresh, "na", "ip link")
    for _ in range(2):
        fresh("network", "connect", "two", "na")
        inside(fresh, "na", "ping -c1 -w5 nb")
        fresh("network", "disconnect", "one", "na")
        assert inside(fresh, "na", "ls /sys/class/net").split() == ["eth1", "lo", "slirp1"]
        inside(fresh, "na", "ping -c1 -w5 nb")
        fresh("network", "connect", "one", "na")
        fresh("network", "disconnect", "two", "na")
        assert inside(fresh, "na", "ls /sys/class/net").split() == ["eth0", "lo", "slirp0"]
