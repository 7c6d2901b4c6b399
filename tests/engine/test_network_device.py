"""What is said of the network's device: nothing, a notice in `info`, a warning at every container."""

from pathlib import Path

import pytest

from rootless.engine import network_device


@pytest.mark.parametrize(
    ("tun", "veth", "problem", "notice"),
    [
        (True, True, "", ""),
        (True, False, "", ""),
        (False, True, "", "veth pairs instead"),
        (False, False, "no network but loopback", ""),
    ],
)
def test_the_device_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tun: bool, veth: bool, problem: str, notice: str
) -> None:
    device = tmp_path / "tun"
    if tun:
        device.touch()
    monkeypatch.setattr(network_device, "TUN_DEVICE", str(device))
    monkeypatch.setattr(network_device, "_veth_possible", lambda: veth)
    for said, expected in ((network_device.device_problem(), problem), (network_device.device_notice(), notice)):
        assert expected in said
        assert bool(said) == bool(expected)
        if said:
            assert f"{device} cannot be opened (no such file or directory)" in said
            assert "ask the administrator for: modprobe tun" in said
