"""Go's templates: a table of cases as Go prints them, errors, and properties."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.cli.template import Template, TemplateError

DATA = {
    "ID": "4a5b",
    "Name": "web",
    "Names": ["web", "site"],
    "Empty": "",
    "None": None,
    "Zero": 0,
    "Int": 42,
    "Negative": -7,
    "Float": 1.5,
    "Big": 12345678901234567890.0,
    "Whole": 3.0,
    "Tiny": 0.00001234,
    "Huge": 1e21,
    "True": True,
    "False": False,
    "NoList": [],
    "NoMap": {},
    "Html": "<a href=\"x\">&'b'</a>",
    "Config": {"Env": ["PATH=/bin", "A=1"], "Labels": {"z": "26", "a": "1", "with.dot": "d"}, "Cmd": None},
    "Nested": [[1, 2], {"k": None, "b": True}],
    "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": None},
    "Mounts": [{"Source": "/a", "Destination": "/b"}, {"Source": "/c", "Destination": "/d"}],
    "Unicode": "žluťoučký",
    "Label": lambda name: {"a": "1"}.get(name, ""),
    "Method": lambda: "called",
}

CASES = [
    # text, delimiters, trimming, comments
    ("", ""),
    ("plain } text }} {", "plain } text }} {"),
    ("{{.ID}}", "4a5b"),
    ("a {{ .ID }} b", "a 4a5b b"),
    ("a \n{{- .ID -}}\n b", "a4a5bb"),
    ("a {{/* nothing */}} b", "a  b"),
    ("a {{- /* nothing */ -}} b", "ab"),
    ("{{-3}}", "-3"),
    ("{{- -3 -}} ", "-3"),
    ("{{\n.ID\n}}", "4a5b"),
    ("{{`raw {{x}}`}}", "raw {{x}}"),
    # printing of values
    ("{{.Missing}}", "<no value>"),
    ("{{.Missing.Deeper}}", "<no value>"),
    ("{{.None}}", "<nil>"),
    ("{{.Zero}} {{.Int}} {{.Negative}}", "0 42 -7"),
    ("{{.Float}} {{.Whole}} {{.Tiny}} {{.Huge}}", "1.5 3 1.234e-05 1e+21"),
    ("{{.Big}}", "12345678901234567000"),
    ("{{.True}} {{.False}}", "true false"),
    ("{{.Names}} {{.NoList}} {{.NoMap}}", "[web site] [] map[]"),
    ("{{.Config.Labels}}", "map[a:1 with.dot:d z:26]"),
    ("{{.Nested}}", "[[1 2] map[b:true k:<nil>]]"),
    ("{{1e3}} {{1.0}} {{0x1F}} {{017}} {{1_000}} {{'a'}} {{'\\n'}} {{true}}", "1000 1 31 15 1000 97 10 true"),
    ('{{"q\\"uo\\ttes\\u00e9\\xc3\\xa9"}}', 'q"uo\tteséé'),
    # fields, chains, variables
    ("{{.Config.Env}}", "[PATH=/bin A=1]"),
    ("{{$.ID}}{{$x := .Config}}{{$x.Env}}", "4a5b[PATH=/bin A=1]"),
    ("{{(index .Mounts 0).Source}}", "/a"),
    ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
    ("{{$x := 1}}{{$x = 2}}{{$x}}", "2"),
    ("{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}", "1"),
    ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
    ("{{(.Name)}}", "web"),
    ("{{.Method}} {{.Label `a`}} {{`a` | .Label}}|{{.Label `no`}}", "called 1 1|"),
    # docker's functions
    ("{{json .Names}}", '["web","site"]'),
    ("{{json .Html}}", '"<a href=\\"x\\">&\'b\'</a>"'),
    ("{{json .Config}}", '{"Env":["PATH=/bin","A=1"],"Labels":{"z":"26","a":"1","with.dot":"d"},"Cmd":null}'),
    ("{{json .None}}{{json .Missing}}", "nullnull"),
    ("{{json .Whole}} {{json .Tiny}} {{json .Huge}} {{json .Float}}", "3 0.00001234 1e+21 1.5"),
    ("{{.Names | json}}", '["web","site"]'),
    ('{{json "\\u2028\\x01\\t"}}', '"\\u2028\\u0001\\t"'),
    ('{{join .Names ","}}', "web,site"),
    ('{{join .Missing ","}}', ""),
    ('{{split "a:b:c" ":"}} {{index (split "a:b" ":") 1}}', "[a b c] b"),
    ('{{title "hello wor-ld it\'s"}} {{upper .Name}} {{lower "ABC"}}', "Hello Wor-Ld It'S WEB abc"),
    ("[{{pad .Name 1 2}}] [{{pad .Empty 1 2}}]", "[ web  ] []"),
    ("{{truncate .Name 2}} {{truncate .Name 9}}", "we web"),
    ("{{println .Name 1}}", "web 1\n"),
    # Go's functions
    ('{{print .Name 1 2 "x" "y" 3}}', "web1 2xy3"),
    ('{{printf "%s=%d %v" .Name .Int .Names}}', "web=42 [web site]"),
    ('{{.Name | printf "%-6s|%6s|" "a"}}', "a     |   web|"),
    ("{{len .Name}} {{len .Names}} {{len .Config.Labels}} {{len .Unicode}}", "3 2 3 13"),
    ('{{index .Names 1}} {{index .Config.Labels "with.dot"}} {{index .Nested 0 1}}', "site d 2"),
    ('{{index .Config.Labels "nope"}}', "<no value>"),
    ('{{index "abc" 1}}', "98"),
    ("{{slice .Name 1}} {{slice .Name 0 2}} {{slice .Names 1}}", "eb we [site]"),
    ("{{eq .Name `web`}} {{eq .Int 1 42}} {{ne .Int 42}} {{eq 0.0 .Zero}}", "true true false true"),
    ("{{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge `b` `a`}}", "true true false true"),
    ("{{eq .None nil}} {{eq .Name nil}}", "true false"),
    ("{{and 1 0 .X}} {{or 0 `` `x`}} {{not 0}} {{and true `y`}}", "0 x true y"),
    ("{{or .Missing `default`}}", "default"),
    ("{{html .Html}}", "&lt;a href=&#34;x&#34;&gt;&amp;&#39;b&#39;&lt;/a&gt;"),
    ("{{urlquery `a b&c`}} {{js `it's`}}", "a+b%26c it\\'s"),
    # control
    ("{{if .Name}}y{{else}}n{{end}}{{if .Empty}}y{{else}}n{{end}}", "yn"),
    ("{{if .Zero}}a{{else if .None}}b{{else if .Int}}c{{else}}d{{end}}", "c"),
    ("{{if .NoList}}y{{end}}{{if .NoMap}}y{{end}}{{if .Missing}}y{{end}}-", "-"),
    ("{{with .Config}}{{.Env}}{{end}}{{with .Empty}}x{{else}}{{.Name}}{{end}}", "[PATH=/bin A=1]web"),
    ("{{with $x := .Name}}{{$x}}{{end}}", "web"),
    ("{{with .Empty}}a{{else with .Name}}{{.}}{{end}}", "web"),
    ("{{range .Names}}{{.}},{{end}}", "web,site,"),
    ("{{range $i, $n := .Names}}{{if $i}}, {{end}}{{$i}}={{$n}}{{end}}", "0=web, 1=site"),
    ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a=1;with.dot=d;z=26;"),
    ("{{range $n := .Names}}{{$n}}{{end}}", "website"),
    ("{{range .NoList}}x{{else}}none{{end}}{{range .Missing}}x{{else}}none{{end}}", "nonenone"),
    ("{{range .Mounts}}{{.Source}}:{{.Destination}} {{end}}", "/a:/b /c:/d "),
    ("{{range 3}}{{.}}{{end}}", "012"),
    ("{{range .Names}}{{break}}{{end}}{{range .Names}}{{continue}}x{{end}}.", "."),
    ("{{range .Names}}{{$.ID}}{{end}}", "4a5b4a5b"),
    ("{{$last := ``}}{{range .Names}}{{$last = .}}{{end}}{{$last}}", "site"),
    (
        "{{range $p, $c := .Ports}}{{$p}} -> {{with $c}}{{(index . 0).HostPort}}{{end}}\n{{end}}",
        "443/tcp -> \n80/tcp -> 8080\n",
    ),
    # named templates
    ('{{define "x"}}<{{.}}>{{end}}{{template "x" .Name}}', "<web>"),
    ('{{block "x" .Name}}[{{.}}]{{end}}', "[web]"),
]

PRINTF = [
    ('"%d %5d %-5d| %05d %+d % d" 1 2 3 4 5 6', "1     2 3    | 00004 +5  6"),
    ('"%x %X %#x %o %b %c %U %q" 255 255 255 8 5 65 65 65', "ff FF 0xff 10 101 A U+0041 'A'"),
    ('"%s %q %x %10s %-5s| %.2s" "a" "b\\n" "hi" "r" "l" "cut"', 'a "b\\n" 6869          r l    | cu'),
    ('"%f %.2f %e %g %8.3f" 1.5 2.0 1.5 1.5 3.14159', "1.500000 2.00 1.500000e+00 1.5    3.142"),
    ('"%t %v %T %T %T" true false "s" 1 1.5', "true false string int float64"),
    ('"%d" "s"', "%!d(string=s)"),
    ('"%s" 3', "%!s(int=3)"),
    ('"%d"', "%!d(MISSING)"),
    ('"x" 1', "x%!(EXTRA int=1)"),
    ('"%"', "%!(NOVERB)"),
    ('"100%%"', "100%"),
    ('"%*d|" 4 7', "   7|"),
    ('"%z" 1', "%!z(int=1)"),
    ('"%v %s" nil nil', "<nil> %!s(<nil>)"),
]

ERRORS = [
    ("{{.Name", "unclosed action"),
    ("{{", "unclosed action"),
    ("{{}}", "missing value for command"),
    ("{{nope}}", 'function "nope" not defined'),
    ("{{.Name}", "bad character U+007D '}'"),
    ("{{$x}}", 'undefined variable "$x"'),
    ("{{if .Name}}", "unexpected EOF"),
    ("{{end}}", "unexpected {{end}}"),
    ("{{else}}", "unexpected {{else}}"),
    ("{{if}}x{{end}}", "missing value for if"),
    ('{{"abc}}', "unterminated quoted string"),
    ("{{`abc}}", "unterminated raw quoted string"),
    ("{{/* x}}", "unclosed comment"),
    ("{{(.Name}}", "unclosed left paren"),
    ("{{.Name)}}", "unexpected right paren"),
    ("{{.Name | }}", "missing value for command"),
    ("{{break}}", "outside {{range}}"),
    ("{{1x}}", "bad number syntax"),
    ("{{.Name # .ID}}", "bad character U+0023 '#'"),
    ("{{.Name | 3}}", "non executable command"),
    ("{{.Name.Sub}}", "can't evaluate field Sub in type string"),
    ("{{.None.Sub}}", "nil pointer evaluating interface {}.Sub"),
    ("{{index .Names 5}}", "error calling index: index out of range: 5"),
    ("{{index .Name}}x{{index}}", "wrong number of args for index: want at least 1 got 0"),
    ("{{len 3}}", "error calling len: len of type int"),
    ("{{upper 3}}", "wrong type for value; expected string; got int"),
    ("{{.Name 1}}", "Name has arguments but cannot be invoked as function"),
    ("{{1 2}}", "can't give argument to non-function 1"),
    ("{{nil}}", "nil is not a command"),
    ("{{eq 1 `a`}}", "incompatible types for comparison"),
    ("{{eq .Names .Names}}", "non-comparable type"),
    ("{{range .Int | print}}{{end}}", "range can't iterate over 42"),
    ('{{template "nope"}}', 'template "nope" not defined'),
    ('{{define "x"}}{{template "x"}}{{end}}{{template "x"}}', "exceeded maximum template depth"),
    ("{{.Label}}", "error calling Label"),
    ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "too deeply nested"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_renders_as_go(text: str, expected: str) -> None:
    assert Template(text).render(DATA) == expected


@pytest.mark.parametrize(("arguments", "expected"), PRINTF)
def test_printf(arguments: str, expected: str) -> None:
    assert Template("{{printf " + arguments + "}}").render({}) == expected


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(text).render(DATA)
    assert message in str(caught.value)
    assert str(caught.value).startswith("template: ")


def test_an_error_says_where() -> None:
    with pytest.raises(TemplateError) as caught:
        Template("a\n{{.Name}}{{.Foo}}").render({"Name": 1}, strict=True)
    assert str(caught.value) == 'template: :2:11: executing "" at <.Foo>: map has no entry for key "Foo"'


def test_strict_finds_a_missing_key_deep_inside() -> None:
    assert Template("{{.A.B}}").render({"A": {"B": 1}}, strict=True) == "1"
    with pytest.raises(TemplateError, match='map has no entry for key "C"'):
        Template("{{.A.C}}").render({"A": {"B": 1}}, strict=True)


def test_a_template_renders_again_with_other_data() -> None:
    template = Template("{{$n := .N}}{{range .L}}{{$n}}{{.}} {{end}}")
    assert template.render({"N": 1, "L": ["a", "b"]}) == "1a 1b "
    assert template.render({"N": 2, "L": ["c"]}) == "2c "


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-30, 30) | st.floats() | st.text(),  # `range` takes its time for more
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
PIECES = st.sampled_from(
    "{{ }} {{- -}} . .Name .A.B $ $x := = | ( ) , if else end range with define template block json index "
    'printf len eq and or not slice "s" `r` "%d" 1 -2 1.5 nil true \'c\' /* */ break  \n é'.split(" ")
)


@given(st.text().filter(lambda text: "{{" not in text))
@settings(max_examples=50)
def test_text_without_actions_is_itself(text: str) -> None:
    assert Template(text).render({}) == text


@given(st.lists(PIECES, max_size=14).map("".join) | st.text(alphabet="{}.|()$\"`'-/*ax1 \n", max_size=30), JSON)
@settings(max_examples=400, deadline=None)
def test_nothing_but_template_errors(text: str, data: object) -> None:
    for candidate in (text, "{{" + text + "}}", "{{range .}}{{" + text + "}}{{end}}"):
        try:
            Template(candidate).render(data)
        except TemplateError:
            pass


@given(
    st.sampled_from("json printf print len html js urlquery title truncate pad index slice eq lt".split()), JSON, JSON
)
@settings(max_examples=300, deadline=None)
def test_functions_of_anything(name: str, first: object, second: object) -> None:
    for text in (
        "{{%s .A}}",
        "{{%s .A .B}}",
        "{{%s .A .B .B}}",
        "{{.A | printf `%%5.3d%%x%%q%%v%%e%%+d` .B}}{{%s .A}}",
    ):
        try:
            Template(text % name).render({"A": first, "B": second})
        except TemplateError:
            pass
