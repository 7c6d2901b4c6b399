"""Where a layer is known to be in packed form: the repositories it came from or went to, beside the layer itself.

A push asks here which blob to look for or to mount, and so need not pack anything. What is lost or outdated costs
time, nothing else: so a file that cannot be read is an empty one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rootless.model.reference import is_digest, parse
from rootless.store import files
from rootless.store.layout import Layout

_NAME = "sources"
KEPT = 32


@dataclass(frozen=True)
class Source:
    """`repository` is canonical (docker.io/library/debian); `digest` and `size` of the packed layer; `form` is "gzip",
    "zstd", or "" for a plain tar."""

    repository: str
    digest: str
    size: int
    form: str = ""


def form_of(media_type: str) -> str:
    """Of a layer, by its media type."""
    return next((form for form in ("gzip", "zstd") if media_type.endswith(form)), "")


def known(layout: Layout, diff_id: str) -> list[Source]:
    """The latest first."""
    try:
        rows = json.loads((layout.layer(diff_id) / _NAME).read_bytes())
        found = [Source(**row) for row in rows]
        for source in found:
            parse(source.repository)
        return [source for source in found if is_digest(source.digest) and source.size >= 0]
    except Exception:  # see above
        return []


def remember(layout: Layout, diff_id: str, source: Source) -> None:
    """Nothing happens where the layer has gone meanwhile."""
    before = known(layout, diff_id)
    if source in before:
        return
    rows = [source, *(one for one in before if (one.repository, one.digest) != (source.repository, source.digest))]
    try:
        files.write_file(layout.layer(diff_id) / _NAME, json.dumps([asdict(row) for row in rows[:KEPT]]).encode())
    except OSError:
        return
