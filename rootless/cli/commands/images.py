"""`rootless images`."""

from __future__ import annotations

import sys
import time

from rootless.cli import image_rows
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.listing import align, render
from rootless.cli.types import FILTER, filters
from rootless.model.errors import InvalidParameter


@declare("images", "[REPOSITORY[:TAG]]", (0, 1))
@switch("-a", "--all", help="Those without a name that others are made of as well")
@switch("--digests", help="With digests")
@flag("-f", "--filter", multiple=True, kind=FILTER, help="Only those that fit, e.g. dangling=true")
@flag("--format", default="", help="table, table TEMPLATE, json, or a template")
@switch("--no-trunc", help="Whole ids")
@switch("-q", "--quiet", help="Ids only")
@switch("--tree", help="Each image with its platform")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    all: bool,
    digests: bool,
    filter: tuple[tuple[str, str], ...],
    format: str,
    no_trunc: bool,
    quiet: bool,
    tree: bool,
) -> None:
    """List images"""
    wanted = filters(filter)
    if args:
        wanted["reference"] = [args[0]]
    if tree and (digests or format or no_trunc or quiet):
        raise InvalidParameter("--tree cannot be used with --digests, --format, --no-trunc or --quiet")
    images = invocation.client.call("GET", "/images/json", {"all": all, "filters": wanted, "manifests": tree})
    images.sort(key=lambda image: -int(image.get("Created") or 0))
    if tree:
        lines = ["IMAGE\tID\tDISK USAGE\tEXTRA", *(line for image in images for line in image_rows.tree(image))]
        sys.stdout.write(align(lines))
        return
    with_digests = digests or ".Digest" in format
    rows = [row for image in images for row in image_rows.rows(image, not no_trunc, with_digests, time.time())]
    table = image_rows.TABLE_WITH_DIGESTS if digests else image_rows.TABLE
    sys.stdout.write(render(rows, image_rows.HEADERS, format, table, "ID" if quiet else ""))
