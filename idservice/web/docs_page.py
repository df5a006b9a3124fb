"""Makes the page that shows the API to people from the OpenAPI document. It loads nothing and has
no script."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html import escape

from idservice.web.components import REF, Schema

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font-family:ui-monospace,monospace;font-size:.9em}
pre{overflow-x:auto;padding:.5rem .8rem;border:1px solid #8885;border-radius:4px}
h3{border-top:1px solid #8885;padding-top:1rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}
"""
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'sha256-"
        + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
        + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def docs_page(document: Schema) -> bytes:
    """Return the page for a document."""
    return "\n".join(_page(document)).encode()


def _page(document: Schema) -> Iterator[str]:
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}: HTTP API")
    yield "<!doctype html>"
    yield f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
    yield f"<p>{_said(info['description'])} For machines: "
    yield '<a href="/openapi.json">openapi.json</a>.</p>'
    for tag in document["tags"]:
        yield f'<h2 id="{tag["name"]}">{tag["name"]}</h2><p>{_said(tag["description"])}</p>'
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if operation["tags"] == [tag["name"]]:
                    yield from _operation(f"{method.upper()} {path}", operation)
    yield '<h2 id="schemas">Schemas</h2>'
    for name, schema in document["components"]["schemas"].items():
        yield from _record(name, schema)
    yield "</body></html>"


def _operation(line: str, operation: Schema) -> Iterator[str]:
    yield f'<h3 id="{operation["operationId"]}"><code>{escape(line)}</code></h3>'
    yield f"<p>{_said(operation['summary'])}</p>"
    rows = [
        (one["name"], f"in {one['in']}: {_shape(one['schema'])}", one["description"])
        for one in operation["parameters"]
    ]
    yield from _table(rows)
    if "requestBody" in operation:
        yield from _content("Body", operation["requestBody"]["content"])
    for status, answer in operation["responses"].items():
        if status < "300":
            yield from _content(f"{status}: {_said(answer['description'])}", answer["content"])
    refusals = sorted(status for status in operation["responses"] if status >= "300")
    yield f'<p>Refusals: {", ".join(refusals)}, as <a href="#Problem">Problem</a>.</p>'


def _content(title: str, content: Schema) -> Iterator[str]:
    for kind, about in content.items():
        shape = f": {_shape(about['schema'])}" if "schema" in about else ""
        yield f"<p>{title} <code>{kind}</code>{shape}</p>"
        named = {name: one["value"] for name, one in about.get("examples", {}).items()}
        for value in named.values() or [about[key] for key in ("example",) if key in about]:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"<pre>{escape(text)}</pre>"


def _record(name: str, schema: Schema) -> Iterator[str]:
    yield f'<h3 id="{name}">{name}</h3><p>{_said(schema.get("description", ""))}</p>'
    required = schema.get("required", ())
    if "properties" not in schema:
        yield f"<p>{_shape(schema)}</p>"
    yield from _table(
        (
            field,
            _shape(about) + ("" if field in required else ", optional"),
            about.get("description", ""),
        )
        for field, about in schema.get("properties", {}).items()
    )


def _table(rows: Iterator[tuple[str, str, str]] | list[tuple[str, str, str]]) -> Iterator[str]:
    yield "<table>"
    for name, shape, description in rows:
        yield f"<tr><td><code>{name}</code></td><td>{shape}</td><td>{_said(description)}</td></tr>"
    yield "</table>"


def _said(text: str) -> str:
    """Return a text as HTML, with what stands between backquotes as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _shape(schema: Schema) -> str:
    """Return the type of a schema in words, as HTML."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REF)
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("oneOf", schema.get("anyOf")):
        return " or ".join(_shape(one) for one in choices)
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(one))}</code>" for one in schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    said = " or ".join(kinds)
    if "items" in schema:
        return f"{said} of {_shape(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"{said} of {_shape(schema['additionalProperties'])}"
    if "minimum" in schema:
        said += f" from {schema['minimum']}"
    if "maximum" in schema:
        said += f" to {schema['maximum']}"
    if "pattern" in schema:
        said += f" like <code>{escape(schema['pattern'])}</code>"
    return said
