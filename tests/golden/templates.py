#!/usr/bin/env python3
"""Writes Jinja2's answers into templates.json, in an environment set up as transformers does for chat templates.

Needs jinja2 3.1. A case is a template (or @ and the name of one of `sources`) and what it writes when it sees the group's
`names`, or null where it is an error. New cases are added by hand, with any answer.
"""
import json
import pathlib

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """The block of what the assistant said: shown as it is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("shown"), [], [], body).set_lineno(line)

    def shown(self, caller):
        return caller()


def raise_exception(message):
    raise TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception
ENVIRONMENT.globals["strftime_now"] = lambda _format: "26 Jul 2024"


def answer(source, names):
    try:
        return ENVIRONMENT.from_string(source).render(**names)
    except Exception:  # whatever Python raises is an error of the template
        return None


def main():
    path = pathlib.Path(__file__).with_suffix(".json")
    golden = json.loads(path.read_text())
    lines = ['{\n"sources": {']
    sources = [f"{json.dumps(name)}: {json.dumps(text, ensure_ascii=False)}" for name, text in golden["sources"].items()]
    lines.append(",\n".join(sources) + '\n},\n"groups": [')
    groups = []
    for group in golden["groups"]:
        cases = []
        for source, _ in group["cases"]:
            text = golden["sources"][source[1:]] if source.startswith("@") else source
            cases.append(json.dumps([source, answer(text, group["names"])], ensure_ascii=False))
        names = json.dumps(group["names"], ensure_ascii=False)
        groups.append('{"names": ' + names + ',\n"cases": [\n' + ",\n".join(cases) + "\n]}")
    lines.append(",\n".join(groups) + "\n]\n}")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
