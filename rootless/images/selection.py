"""Filters of `images` and `image prune`. Pure: what the filters name has been looked up before.

Source: docker's documentation of `docker image ls --filter`; patterns are Go's path.Match: `*` stops at a slash."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from rootless.images.image import Image, seconds
from rootless.model import clock, reference
from rootless.model.errors import InvalidParameter

LIST_FILTERS = ("before", "dangling", "label", "reference", "since", "until")
PRUNE_FILTERS = ("dangling", "label", "label!", "until")


def select(
    images: Sequence[Image], filters: Mapping[str, Sequence[str]], find: Callable[[str], Image], now_seconds: float
) -> list[Image]:
    """Those that fit all filters. `find` resolves the image that before and since name. Raises InvalidParameter,
    NotFound."""
    tests = [_test(name, values, find, now_seconds) for name, values in filters.items() if name != "dangling"]
    return [image for image in images if all(test(image) for test in tests)]


def names_shown(image: Image, filters: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """(RepoTags, RepoDigests), of which a reference filter leaves only those that fit."""
    tags, digests = image.repo_tags, image.repo_digests
    if patterns := filters.get("reference"):
        fits = _reference_test(patterns)
        tags, digests = [tag for tag in tags if fits(tag)], [digest for digest in digests if fits(digest)]
    return tags, digests


def _test(
    name: str, values: Sequence[str], find: Callable[[str], Image], now_seconds: float
) -> Callable[[Image], bool]:
    match name:
        case "label":
            return lambda image: all(_has_label(image, value) for value in values)
        case "label!":
            return lambda image: not any(_has_label(image, value) for value in values)
        case "reference":
            fits = _reference_test(values)
            return lambda image: any(fits(name) for name in (*image.repo_tags, *image.repo_digests))
        case "before" | "since":
            border = _nanoseconds(find(values[0]))
            if name == "before":
                return lambda image: _nanoseconds(image) < border
            return lambda image: _nanoseconds(image) > border
        case "until":
            return _until(values, now_seconds)
    raise InvalidParameter(f"invalid filter '{name}'")


def _nanoseconds(image: Image) -> int:
    try:
        return clock.nanoseconds(image.created)
    except ValueError:
        return 0


def _has_label(image: Image, text: str) -> bool:
    key, equals, value = text.partition("=")
    labels = image.process_config.get("Labels") or {}
    return key in labels and (not equals or labels[key] == value)


def _until(values: Sequence[str], now_seconds: float) -> Callable[[Image], bool]:
    if len(values) != 1:
        raise InvalidParameter("more than one until filter specified")
    from rootless.model.moments import query_moment  # fractions: 2 ms that the engine's start need not pay

    border = float(query_moment(values[0], now_seconds) or 0)
    return lambda image: seconds(image.created) < border


def _reference_test(patterns: Sequence[str]) -> Callable[[str], bool]:
    compiled = [path_match(pattern) for pattern in patterns]

    def fits(name: str) -> bool:
        repository = reference.parse(name).familiar_repository
        return any(pattern.fullmatch(text) for pattern in compiled for text in (name, repository))

    return fits


def path_match(pattern: str) -> re.Pattern[str]:
    """Go's path.Match as a regular expression. Raises InvalidParameter."""
    parts = re.findall(r"\*|\?|\[\^?(?:\\.|[^\]\\])+\]|\\.|[^*?\[\\]", pattern, re.DOTALL)
    if sum(map(len, parts)) != len(pattern):
        raise InvalidParameter(f"invalid filter 'reference={pattern}': syntax error in pattern")
    words = {"*": "[^/]*", "?": "[^/]"}
    plain = [part if part[0] == "[" else re.escape(part.removeprefix("\\")) for part in parts]
    text = "".join(words.get(part, other) for part, other in zip(parts, plain, strict=True))
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise InvalidParameter(f"invalid filter 'reference={pattern}': {error}") from None
