"""Platforms of images: os/architecture/variant, in the words of Go that the image specification uses (config.md)."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from rootless.model.errors import InvalidParameter

_SYSTEMS = ("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "aix", "wasip1")
# what users and kernels say
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
# what an image without a variant is of, and which variants run on which (containerd's platforms package)
_DEFAULT_VARIANTS = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
_NARROWER = {"amd64": ("386", ""), "arm64": ("arm", "v8")}  # whose programs run there as well, but rather its own


@dataclass(frozen=True)
class Platform:
    """A platform asked for or offered; `variant` may be empty, which stands for any."""

    system: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.system, self.architecture, self.variant) if part)

    def image_fields(self) -> dict[str, str]:
        """As an image's configuration and an index's `platform` say it."""
        fields = {"architecture": self.architecture, "os": self.system}
        return {**fields, "variant": self.variant} if self.variant else fields


def here() -> Platform:
    """This machine's."""
    machine = platform.machine()
    return Platform("linux", *_ARCHITECTURES.get(machine, (machine, "")))


def parse(text: str) -> Platform:
    """`linux/arm64/v8`, `linux/arm64`, or one of the two alone: the rest is this machine's. Raises InvalidParameter."""
    parts = text.lower().split("/")
    if not 1 <= len(parts) <= 3 or not all(part.replace("_", "").replace("-", "").isalnum() for part in parts):
        raise InvalidParameter(f"invalid platform {text!r}: it is os/architecture or os/architecture/variant")
    if len(parts) == 1 and parts[0] in _SYSTEMS:
        return Platform(parts[0], here().architecture)
    if len(parts) == 1:
        parts.insert(0, "linux")
    architecture, variant = _ARCHITECTURES.get(parts[1], (parts[1], ""))
    return Platform(parts[0], architecture, parts[2] if len(parts) == 3 else variant)


def rank(offered: Platform, wanted: Platform) -> int | None:
    """How well an offer suits, higher is better; None where it does not run there."""
    if offered.system != wanted.system:
        return None
    if offered.architecture != wanted.architecture:
        architecture, variant = _NARROWER.get(wanted.architecture, ("", ""))
        if offered.architecture != architecture or not architecture:
            return None
        suits = rank(offered, Platform(wanted.system, architecture, variant))
        return None if suits is None else suits - 2000
    if offered.variant == wanted.variant:
        return 1000
    default = _DEFAULT_VARIANTS.get(wanted.architecture, "")
    theirs, ours = _number(offered.variant or default), _number(wanted.variant or default)
    if theirs is None or ours is None:
        return 0 if not offered.variant or not wanted.variant else None
    return theirs if theirs <= ours else None


def mismatch(offered: Platform) -> list[str]:
    """docker's warning about an image that is used here and was not asked for by its platform."""
    host = here()
    if not offered.architecture or rank(offered, host) is not None:
        return []
    return [
        f"The requested image's platform ({offered}) does not match the detected host platform ({host}) and no "
        "specific platform was requested"
    ]


def _number(variant: str) -> int | None:
    """8 of "v8"."""
    digits = variant.removeprefix("v")
    return int(digits) if digits.isdigit() else None
