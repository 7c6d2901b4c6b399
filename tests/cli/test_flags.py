"""Flags in docker's manner."""

from __future__ import annotations

import pytest

from rootless.cli.flags import Flag, FlagError, parse

FLAGS = [
    Flag("interactive", ("-i", "--interactive"), boolean=True),
    Flag("tty", ("-t", "--tty"), boolean=True),
    Flag("env", ("-e", "--env"), repeated=True),
    Flag("name", ("--name",)),
    Flag("number", ("-n", "--last")),
]


@pytest.mark.parametrize(
    ("line", "values", "words"),
    [
        ("-it debian sh -i", {"interactive": True, "tty": True}, ["debian", "sh", "-i"]),
        ("-e A=1 --env=B=2 -eC -e=D=4 x", {"env": ["A=1", "B=2", "C", "D=4"]}, ["x"]),
        ("-itn3 x", {"interactive": True, "tty": True, "number": "3"}, ["x"]),
        ("-in 3 x", {"interactive": True, "number": "3"}, ["x"]),
        ("--tty=false --interactive=1 x", {"tty": False, "interactive": True}, ["x"]),
        ("-t=false x", {"tty": False}, ["x"]),
        ("--name a --name b -- --tty", {"name": "b"}, ["--tty"]),
        ("--name= - x", {"name": ""}, ["-", "x"]),
        ("--name --tty x", {"name": "--tty"}, ["x"]),
        ("", {}, []),
    ],
)
def test_until_the_first_word(line: str, values: dict[str, object], words: list[str]) -> None:
    assert parse(line.split(), FLAGS, interspersed=False)[:2] == (values, words)


def test_among_the_words() -> None:
    assert parse(["a", "-t", "b", "--", "-i"], FLAGS, interspersed=True)[:2] == ({"tty": True}, ["a", "b", "-i"])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--nope", "unknown flag: --nope"),
        ("--nope=1", "unknown flag: --nope"),
        ("-tz", "unknown shorthand flag: 'z' in -z"),
        ("--name", "flag needs an argument: --name"),
        ("-tn", "flag needs an argument: 'n' in -n"),
        (
            "--tty=maybe",
            'invalid argument "maybe" for "-t, --tty" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        ("--=x", "bad flag syntax: --=x"),
    ],
)
def test_complaints_are_dockers(line: str, complaint: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(line.split(), FLAGS, interspersed=True)
    assert str(caught.value) == complaint
