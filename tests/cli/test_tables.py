"""Tables, templates and texts as docker prints them."""

from __future__ import annotations

from typing import Any

import pytest

from rootless.cli import container_rows, image_rows, units
from rootless.cli.listing import align, go_json, label_method, render
from rootless.cli.template import TemplateError

NOW = 1_795_485_000.0
CONTAINER: dict[str, Any] = {
    "Id": "873fc9af2abe22c3f09c3a6448fe83cb5d92f7f3eb2add77116d0d3e3d8430e3",
    "Names": ["/keep", "/other/alias"],
    "Image": "docker.io/library/debian:12",
    "Command": 'sh -c "echo a long command"',
    "Created": int(NOW) - 130,
    "Ports": [{"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
    "Labels": {"b": "2", "a": "1"},
    "State": "running",
    "Status": "Up 2 minutes",
    "Mounts": [{"Name": "a-volume-with-a-long-name", "Driver": "local"}, {"Source": "/src"}],
    "NetworkSettings": {"Networks": {"bridge": {}}},
    "SizeRw": 12,
    "SizeRootFs": 170_402_379,
}


def listed(format_text: str = "", quiet: str = "") -> str:
    rows = [container_rows.row(CONTAINER, True, NOW)]
    return render(rows, container_rows.HEADERS, format_text, container_rows.TABLE, quiet)


def test_the_table_is_aligned_as_dockers() -> None:
    wide = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Names}}"
    assert listed(f"table {wide}") == (
        "CONTAINER ID   IMAGE       COMMAND                   CREATED         NAMES\n"
        '873fc9af2abe   debian:12   "sh -c \\"echo a long …"   2 minutes ago   keep\n'
    )
    assert listed().split("\n")[0].split() == "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES".split()
    assert align(["A\tB\tC", "1\t2\t3"]) == "A         B         C\n1         2         3\n"


@pytest.mark.parametrize(
    ("format_text", "text"),
    [
        ("{{.ID}} {{.Names}} {{.Size}}", "873fc9af2abe keep 12B (virtual 170MB)\n"),
        ('{{.Label "a"}}\\t{{.Labels}}', "1\ta=1,b=2\n"),
        ("{{.Mounts}} {{.LocalVolumes}} {{.Networks}}", "a-volume-with-… ,/src 1 bridge\n".replace("… ,", "…,")),
        ("table {{.Names}}\\t{{.State}}", "NAMES     STATE\nkeep      running\n"),
        ('table {{.Names}}\\t{{.Label "com.x.some-name"}}', "NAMES     some name\nkeep      \n"),
        ("{{json .Names}}", '"keep"\n'),
    ],
)
def test_formats(format_text: str, text: str) -> None:
    assert listed(format_text) == text


def test_quiet_and_json() -> None:
    assert listed(quiet="ID") == "873fc9af2abe\n"
    assert listed("table", quiet="ID") == "873fc9af2abe\n"
    assert listed("json").startswith('{"Command":')
    assert "\\u003e80/tcp" in listed("json")
    assert 'Label"' not in listed("json")


def test_complaints_about_templates() -> None:
    with pytest.raises(TemplateError, match=r"^template parsing error: template: :1: unclosed action"):
        listed("{{.X")
    with pytest.raises(TemplateError, match=r"^failed to execute template: template: :1:2: .*Nope"):
        listed("{{.Nope}}")


def port(inside: int, outside: int = 0, address: str = "", kind: str = "tcp") -> dict[str, Any]:
    return {"PrivatePort": inside, "Type": kind} | ({"PublicPort": outside, "IP": address} if address else {})


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([], ""),
        ([port(80), port(443)], "80/tcp, 443/tcp"),
        ([port(82), port(80), port(81), port(81, kind="udp")], "80-82/tcp, 81/udp"),
        ([port(80, 80, "0.0.0.0"), port(81, 81, "0.0.0.0")], "0.0.0.0:80-81->80-81/tcp"),
        ([port(80, 8080, "::"), port(80, 8080, "0.0.0.0")], "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
    ],
)
def test_ports(ports: list[dict[str, Any]], text: str) -> None:
    assert container_rows.ports(ports) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (12, "12B"), (1000, "1kB"), (1234, "1.23kB"), (170_402_379, "170MB"), (5_000_000_000, "5GB")],
)
def test_sizes(size: int, text: str) -> None:
    assert units.human_size(size) == text


def test_binary_sizes_ids_and_ellipses() -> None:
    assert units.binary_size(25276448768) == "23.54GiB"
    assert units.short_id("sha256:" + "a" * 64) == "a" * 12
    assert (units.ellipsis("abc", 3), units.ellipsis("abcd", 3)) == ("abc", "ab…")
    assert units.ago(NOW - 60, NOW) == "About a minute ago"
    assert container_rows.quoted('a"b\\c\né') == '"a\\"b\\\\c\\né"'


def test_an_image_has_a_row_for_each_name() -> None:
    image = {
        "Id": "sha256:" + "c" * 64,
        "RepoTags": ["docker.io/library/debian:12", "localhost:5000/a/b:x"],
        "RepoDigests": ["docker.io/library/debian@sha256:1"],
        "Created": NOW - 7200,
        "Size": 170_402_379,
    }
    rows = image_rows.rows(image, True, False, NOW)
    assert render(rows, image_rows.HEADERS, "", image_rows.TABLE) == (
        "REPOSITORY           TAG       IMAGE ID       CREATED       SIZE\n"
        "debian               12        cccccccccccc   2 hours ago   170MB\n"
        "localhost:5000/a/b   x         cccccccccccc   2 hours ago   170MB\n"
    )
    assert [row["Digest"] for row in image_rows.rows(image, True, True, NOW)] == ["sha256:1", "<none>"]
    assert image_rows.rows({"Id": "sha256:1"}, True, False, NOW)[0]["Repository"] == "<none>"


def test_go_json() -> None:
    assert go_json({"b": "<&>", "a": [1, None]}) == '{"a":[1,null],"b":"\\u003c\\u0026\\u003e"}'
    assert label_method(None)("x") == ""
