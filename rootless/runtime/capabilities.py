"""Names and numbers of capabilities (include/uapi/linux/capability.h), docker's default set, and its flags. Pure."""

from __future__ import annotations

from collections.abc import Iterable

NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
NUMBERS = {name: number for number, name in enumerate(NAMES)}
DEFAULT = (
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE "
    "SETFCAP"
).split()


def parse(name: str) -> str:
    """The bare name: "cap_net_raw", "NET_RAW" -> "NET_RAW"; "ALL" stays. Raises ValueError for an unknown name."""
    upper = name.upper().removeprefix("CAP_")
    if upper != "ALL" and upper not in NUMBERS:
        raise ValueError(f'invalid capability: "{name}"')
    return upper


def combine(add: Iterable[str], drop: Iterable[str], privileged: bool = False) -> tuple[str, ...]:
    """docker's --cap-add and --cap-drop over its default set, in the kernel's order. Raises ValueError."""
    adding, dropping = {parse(name) for name in add}, {parse(name) for name in drop}
    if privileged:
        return tuple(NAMES)
    chosen = set(NAMES) if "ALL" in adding else set() if "ALL" in dropping else set(DEFAULT)
    chosen = (chosen | adding if "ALL" not in adding else chosen) - dropping - {"ALL"}
    return tuple(name for name in NAMES if name in chosen)


def mask(names: Iterable[str]) -> int:
    """Bit mask for capset(2)."""
    return sum({1 << NUMBERS[name] for name in names})
