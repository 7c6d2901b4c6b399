"""The user namespace U: which ids it has, and how they get there.

Lines of /etc/subuid and /etc/subgid (subuid(5)) are found by name or number. With them, and with newuidmap and
newgidmap (uidmap's set-UID helpers), root in U is the user and 1… are the subordinate ids. Without, U has one id.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rootless.model.errors import RootlessError

MAX_LINES = 340  # entries of a uid_map (user_namespaces(7))


@dataclass(frozen=True)
class IdMap:
    """Rows of (first inside, first outside, count). `reason` says why there is only one id."""

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]
    reason: str = ""

    @property
    def single_id(self) -> bool:
        return bool(self.reason)

    @property
    def count(self) -> int:
        """Ids 0 … count-1 exist inside, as users and as groups."""
        return min(sum(row[2] for row in self.uids), sum(row[2] for row in self.gids))

    def nested_uids(self) -> str:
        """The map of a child namespace in which every id keeps its number.

        Row by row as ours: the kernel wants each row inside one row of the parent's."""
        return _same(self.uids)

    def nested_gids(self) -> str:
        return _same(self.gids)


def _same(rows: tuple[tuple[int, int, int], ...]) -> str:
    return "\n".join(f"{inside} {inside} {count}" for inside, _, count in rows)


def find(uid: int, gid: int, name: str, subuid: str, subgid: str, helpers_missing: str = "") -> IdMap:
    """The map for a user from the texts of the two files. Pure."""
    single = ((0, uid, 1),), ((0, gid, 1),)
    if helpers_missing:
        return IdMap(*single, reason=helpers_missing)
    user_ranges = ranges(subuid, name, uid)
    group_ranges = ranges(subgid, name, uid)
    if not user_ranges or not group_ranges:
        file = "/etc/subuid" if not user_ranges else "/etc/subgid"
        return IdMap(*single, reason=f"no line for {name or uid} in {file}")
    return IdMap(_rows(uid, user_ranges), _rows(gid, group_ranges))


def remedy(reason: str, name: str) -> str:
    """What an administrator does about an IdMap's `reason`. Pure."""
    if "missing" in reason:
        return "apt-get install uidmap (elsewhere the package is called shadow-utils or shadow)"
    if reason.startswith("no line"):
        return f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
    return (
        f"chmod u+s $(command -v newuidmap newgidmap), and a look at the lines of {name} in /etc/subuid and /etc/subgid"
    )


def ranges(text: str, name: str, uid: int) -> list[tuple[int, int]]:
    """(first, count) of every line of a user in subuid(5) or subgid(5) text; wrong lines are passed over."""
    found: list[tuple[int, int]] = []
    for line in text.splitlines():
        owner, _, rest = line.strip().partition(":")
        first, _, count = rest.partition(":")
        if owner in (name, str(uid)) and owner and first.isdecimal() and count.isdecimal() and int(count) > 0:
            found.append((int(first), int(count)))
    return found


def _rows(own: int, subordinate: list[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    rows = [(0, own, 1)]
    inside = 1
    for first, count in subordinate[: MAX_LINES - 1]:
        rows.append((inside, first, count))
        inside += count
    return tuple(rows)


def probe() -> IdMap:
    """The map for the current user on this host."""
    try:
        import pwd

        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = ""
    missing = [helper for helper in ("newuidmap", "newgidmap") if shutil.which(helper) is None]
    complaint = f"{' and '.join(missing)} missing (Debian: package uidmap)" if missing else ""
    return find(os.getuid(), os.getgid(), name, _text("/etc/subuid"), _text("/etc/subgid"), complaint)


def write(pid: int, idmap: IdMap) -> IdMap:
    """Map the new user namespace of `pid`, a child of ours. Where the helpers refuse, the single-id map is written.

    Returns the map in force; raises RootlessError."""
    if not idmap.single_id:
        complaint = _helper("newuidmap", pid, idmap.uids) or _helper("newgidmap", pid, idmap.gids)
        if not complaint:
            return idmap
        if Path(f"/proc/{pid}/uid_map").read_text().strip():
            raise RootlessError(f"{complaint}; check /etc/subgid and the mode of newgidmap")
        idmap = IdMap(((0, os.getuid(), 1),), ((0, os.getgid(), 1),), reason=complaint)
    try:
        Path(f"/proc/{pid}/setgroups").write_text("deny")
        Path(f"/proc/{pid}/uid_map").write_text("{} {} {}".format(*idmap.uids[0]))
        Path(f"/proc/{pid}/gid_map").write_text("{} {} {}".format(*idmap.gids[0]))
    except OSError as error:
        raise RootlessError(f"cannot map ids of the user namespace: {error.strerror}. {USER_NAMESPACE_HINT}") from error
    return idmap


USER_NAMESPACE_HINT = (
    "User namespaces must be allowed to ordinary users: ask the administrator for sysctl "
    "user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1 (Debian) or "
    "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)"
)


def _helper(program: str, pid: int, rows: tuple[tuple[int, int, int], ...]) -> str:
    """Run newuidmap or newgidmap; returns its complaint, or nothing."""
    words = [str(number) for row in rows for number in row]
    try:
        done = subprocess.run([program, str(pid), *words], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program}: {error}"
    return "" if done.returncode == 0 else f"{program} refused: {done.stderr.strip() or done.returncode}"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
