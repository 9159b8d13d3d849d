"""Checks manifests against the schemas of Kubernetes: `kubernetes_schema.json` beside this file has the kinds in use.

Its definitions are those of the API of Kubernetes 1.37 (the Kubernetes authors, Apache License 2.0), without
descriptions, states and other kinds; the license is the one of this project. They come from the package
`kubernetes-validate` on PyPI, which has one folder for each version. To renew them: `python -m
tests.deploy.kubernetes_schema FOLDER/_definitions.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

SCHEMA = Path(__file__).with_name("kubernetes_schema.json")
KINDS = {
    "ConfigMap": "core.v1",
    "Deployment": "apps.v1",
    "Job": "batch.v1",
    "Namespace": "core.v1",
    "PersistentVolumeClaim": "core.v1",
    "PodDisruptionBudget": "policy.v1",
    "Secret": "core.v1",
    "Service": "core.v1",
    "StatefulSet": "apps.v1",
}

Schema = dict[str, Any]
_TYPES: dict[str, Any] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "string": str,
}
#: What a definition may say. `required` and the others that are strict count; `format` is not looked at.
_WORDS = {"$ref", "additionalProperties", "enum", "format", "items", "oneOf", "properties", "required", "type"}


def problems(document: Any, definitions: dict[str, Schema]) -> Iterator[str]:
    """What is wrong with a manifest, a sentence each."""
    kind = document["kind"]
    if kind not in KINDS:
        yield f"{kind}: no definition: add the kind, and renew the schema"
        return
    yield from _problems(document, {"$ref": _name(kind)}, definitions, kind)


def _name(kind: str) -> str:
    return f"io.k8s.api.{KINDS[kind]}.{kind}"


def _problems(value: Any, schema: Schema, definitions: dict[str, Schema], at: str) -> Iterator[str]:
    assert schema.keys() <= _WORDS, schema
    if "$ref" in schema:
        yield from _problems(value, definitions[schema["$ref"]], definitions, at)
    elif "oneOf" in schema:
        if all(any(_problems(value, one, definitions, at)) for one in schema["oneOf"]):
            yield f"{at}: {value!r} is none of what is possible"
    elif "type" in schema and not _is(value, schema["type"]):
        yield f"{at}: {value!r} is not of type {schema['type']}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is not one of {schema['enum']}"
    elif isinstance(value, dict):
        given = cast("dict[str, Any]", value)
        fields, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        yield from (f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in given)
        for name, part in given.items():
            if name not in fields and others is False:
                yield f"{at}: there is no field {name}"
            else:
                rule: Any = fields.get(name, others if others is not True else {})
                yield from _problems(part, rule, definitions, f"{at}.{name}")
    elif isinstance(value, list):
        for i, part in enumerate(cast("list[Any]", value)):
            yield from _problems(part, schema.get("items", {}), definitions, f"{at}[{i}]")


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def definitions_in_use(every: dict[str, Schema]) -> dict[str, Schema]:
    """The definitions of the kinds, and of all that these refer to, without what a manifest does not need."""
    found: dict[str, Schema] = {}
    left = [_name(kind) for kind in KINDS]
    while left:
        name = left.pop()
        if name not in found:
            found[name] = _lean(every[name])
            if name.rpartition(".")[2] in KINDS:
                found[name]["properties"].pop("status", None)
            left += _named_in(found[name])
    return dict(sorted(found.items()))


def _lean(schema: Schema) -> Schema:
    lean = {word: rule for word, rule in sorted(schema.items()) if word in _WORDS}
    if "$ref" in lean:
        lean["$ref"] = lean["$ref"].rpartition("/")[2]
    if "properties" in lean:
        lean["properties"] = {name: _lean(field) for name, field in sorted(lean["properties"].items())}
    for word in {"items", "additionalProperties"} & lean.keys():
        if isinstance(lean[word], dict):
            lean[word] = _lean(lean[word])
    if "oneOf" in lean:
        lean["oneOf"] = [_lean(rule) for rule in lean["oneOf"]]
    if isinstance(lean.get("type"), list):
        (lean["type"],) = set(lean["type"]) - {"null"}  # who gives null says nothing: leave the field out
    return lean


def _named_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for word, rule in cast("Schema", schema).items():
            if word == "$ref" and isinstance(rule, str):
                yield rule
            else:
                yield from _named_in(rule)
    elif isinstance(schema, list):
        for rule in cast("list[Any]", schema):
            yield from _named_in(rule)


if __name__ == "__main__":
    stored = json.loads(Path(sys.argv[1]).read_text())
    rows = (f"{json.dumps(name)}: {json.dumps(rule)}" for name, rule in definitions_in_use(stored["$defs"]).items())
    SCHEMA.write_text("{\n" + ",\n".join(rows) + "\n}\n")
