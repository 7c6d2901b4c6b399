"""index.json: what is believed, and what is kept of one that is not."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.store import index
from rootless.store.index import MANIFEST_ANNOTATION, NAME_ANNOTATION, PULLED_ANNOTATION, REF_ANNOTATION

A, B = (f"sha256:{letter * 64}" for letter in "ab")
NAME = "docker.io/library/app:1"
NAMED = {NAME_ANNOTATION: NAME, REF_ANNOTATION: NAME}
PULLED = {PULLED_ANNOTATION: f"localhost:5000/team/app@{B}", MANIFEST_ANNOTATION: B}
OTHER = {"digest": B, "size": 7, "annotations": {**NAMED, **PULLED, "other.program": 7}}


def written(*entries: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": entries}, indent=1).encode()


def of(**annotations: object) -> dict[str, Any]:
    return {"digest": A, "annotations": {**NAMED, **annotations}}


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"digest": A}],
        [{"digest": A, "annotations": {REF_ANNOTATION: "latest"}}],
        [OTHER, of(), {"digest": B, "mediaType": "x"}],
    ],
)
def test_what_is_written_is_believed(entries: list[dict[str, Any]]) -> None:
    assert index.parse(written(*entries)) == index.salvage(written(*entries)) == entries


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"{}", b"null", b"7", b"\xff", b"\0", b"[" * 100_000),
        *(b'{"manifests": {}}', b'{"manifests": null}', b'{"manifests": [', b'{"manifests": [' + b"9" * 5000 + b"]}"),
        written(OTHER)[:-3],
    ],
)
def test_no_list_of_manifests_is_not_an_empty_one(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        index.parse(data)
    assert index.salvage(data) == []


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        (None, None),
        (["digest"], None),
        ({}, None),
        ({**of(), "digest": f"{A[:-1]}%"}, None),
        ({**of(), "digest": f"{A}\n"}, None),
        ({**of(), "digest": f"sha512:{'a' * 64}"}, None),
        ({**of(), "digest": 7}, None),
        ({"digest": A, "annotations": "x"}, {"digest": A}),
        ({"digest": A, "annotations": None}, {"digest": A}),
        ({"digest": A, "size": 3, "annotations": [NAMED]}, {"digest": A, "size": 3}),
        (of(**{NAME_ANNOTATION: "docker.io/library/app:%"}), of()),
        (of(**{NAME_ANNOTATION: "app:1"}), of()),
        (of(**{NAME_ANNOTATION: 7}), of()),
        (of(**{REF_ANNOTATION: "docker.io/library/APP:1"}), of()),
        (of(**dict.fromkeys(NAMED, "")), {"digest": A}),
        (of(**dict.fromkeys(NAMED, f"docker.io/library/app@{B}")), {"digest": A}),
        (of(**{PULLED_ANNOTATION: "docker.io/library/app@"}), of()),
        (of(**{PULLED_ANNOTATION: NAME}), of()),
        (of(**PULLED) | {"digest": f"{A}0"}, None),
        (of(**{**PULLED, PULLED_ANNOTATION: f"docker.io/library/app@sha256%{B[7:]}"}), of(**{MANIFEST_ANNOTATION: B})),
        (of(**{MANIFEST_ANNOTATION: B[7:]}), of()),
        (of(**{MANIFEST_ANNOTATION: {}}), of()),
    ],
)
def test_what_is_wrong_with_an_entry_is_left_out(entry: object, kept: dict[str, Any] | None) -> None:
    """The others stay as they are, and so does the image where its digest can be read."""
    data = written(OTHER, entry, OTHER)
    with pytest.raises(ValueError, match=r"is no entry|annotations of sha256:a|of sha256:a+ is"):
        index.parse(data)
    assert index.salvage(data) == [OTHER, *([kept] if kept is not None else []), OTHER]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([A, NAME, f"a/b@{A}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([NAME_ANNOTATION, REF_ANNOTATION, PULLED_ANNOTATION, MANIFEST_ANNOTATION]) | st.text()
ENTRIES = st.fixed_dictionaries(
    {"digest": st.just(A) | VALUES}, optional={"annotations": st.dictionaries(KEYS, VALUES) | VALUES, "size": VALUES}
)


@given(st.lists(ENTRIES | VALUES, max_size=4))
def test_what_is_salvaged_is_believed(entries: list[object]) -> None:
    kept = index.salvage(written(*entries))
    assert json.dumps(index.parse(written(*kept))) == json.dumps(kept)
    assert len(kept) == sum(isinstance(one, dict) and one.get("digest") == A for one in entries)


@given(st.binary())
def test_any_bytes_can_be_asked(data: bytes) -> None:
    assert index.salvage(data) == []


@given(st.randoms(use_true_random=False))
def test_a_damaged_file_is_as_it_was_or_refused_or_means_something_else(chance: random.Random) -> None:
    data = bytearray(written(OTHER, of(), {"digest": B}))
    for _ in range(chance.randrange(1, 4)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    data = data[: chance.choice([len(data), chance.randrange(len(data))])]
    kept = index.salvage(bytes(data))
    assert json.dumps(index.parse(written(*kept))) == json.dumps(kept)
    try:
        found = index.parse(bytes(data))
    except ValueError:
        return
    assert [entry["digest"] for entry in found] == [entry["digest"] for entry in kept]
