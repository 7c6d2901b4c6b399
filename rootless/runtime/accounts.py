"""Who a container's process is: docker's `--user` looked up in the container's own /etc/passwd and /etc/group. Pure.

The files belong to the image, so they are hostile: wrong lines are passed over, numbers are bounded. Formats:
passwd(5), group(5); the rules for `user` are those of dockerd's documentation of `docker run --user`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_ID = 2**31 - 1


class UnknownUser(Exception):
    """The name is in neither file; the message is docker's."""


@dataclass(frozen=True)
class Account:
    """A resolved process owner, ids as the container sees them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(user: str, additional: Sequence[str], passwd: str, group: str) -> Account:
    """`user` is "", "name", "uid", "name:group", "uid:gid"; `additional` are groups by name or number.

    Raises UnknownUser."""
    wanted, _, wanted_group = user.partition(":")
    users = list(_entries(passwd, 7))
    groups = list(_entries(group, 4))
    name, uid, gid, home = "", 0, 0, "/"
    row = next((row for row in users if row[0] == (wanted or "root")), None) or next(
        (row for row in users if wanted.isdecimal() and row[2] == wanted), None
    )
    if row is None and not wanted:
        row = next((row for row in users if row[2] == "0"), None)
    if row is not None:
        name, uid, gid, home = row[0], int(row[2]), int(row[3]), row[5] or "/"
    elif wanted.isdecimal() and int(wanted) <= MAX_ID:
        uid = int(wanted)
    elif wanted:
        raise UnknownUser(f"unable to find user {wanted}: no matching entries in passwd file")
    supplementary = {int(row[2]) for row in groups if name and name in row[3].split(",")}
    if wanted_group:
        gid = _group(wanted_group, groups)
        supplementary = set()
    supplementary |= {_group(text, groups) for text in additional}
    return Account(uid, gid, tuple(sorted(supplementary | {gid})), home)


def _entries(text: str, width: int) -> Iterator[list[str]]:
    id_columns = (2, 3) if width == 7 else (2,)
    for line in text.splitlines():
        row = line.strip().split(":")
        if len(row) >= width and all(row[i].isdecimal() and int(row[i]) <= MAX_ID for i in id_columns):
            yield row


def _group(text: str, groups: Sequence[Sequence[str]]) -> int:
    row = next((row for row in groups if row[0] == text), None)
    if row is not None:
        return int(row[2])
    if text.isdecimal() and int(text) <= MAX_ID:
        return int(text)
    raise UnknownUser(f"unable to find group {text}: no matching entries in group file")
