"""The OpenAPI document, made from the list of operations."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import siamese_search
from siamese_search.serving.routes import ROUTES, Operation
from siamese_search.serving.schema import schema_of, taken
from siamese_search.serving.shapes import BODIES, FIELDS, PARAMETERS, PARTS, PROBLEM

PREFIX = "/api/v1"
_PATH = {"g": {"type": "string"}, "n": {"type": "integer", "minimum": 0}, "id": {"type": "string"}}
_PATH_SAID = {"g": "The gallery's name.", "n": "The number.", "id": "The job's."}


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all operations."""
    paths: dict[str, Any] = {}
    for one in ROUTES:
        paths.setdefault(PREFIX + one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "siasearch", "version": siamese_search.__version__},
        "paths": paths,
        "components": {
            "schemas": {"Problem": schema_of(PROBLEM)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(one: Operation) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": one.handler.__name__,
        "summary": (one.handler.__doc__ or "").split("\n")[0],
        "parameters": [*map(_in_path, re.findall(r"{(\w+)}", one.path))],
        "responses": _responses(one),
    }
    for name in one.query:
        schema = _schema(PARAMETERS, one, name)
        needed = name in ("item", "name")
        said["parameters"].append(
            {"name": name, "in": "query", "required": needed, "schema": schema}
        )
    if one.parts or one.body:
        kind = "multipart/form-data" if one.parts else "application/json"
        needs = [*one.parts, *one.needs]
        content = {kind: {"schema": _body(one, needs)}}
        said["requestBody"] = {"required": bool(needs), "content": content}
    return said


def _body(one: Operation, needs: list[str]) -> dict[str, Any]:
    if one.handler.__name__ in BODIES:
        return schema_of(BODIES[one.handler.__name__])
    fields = {name: _schema(FIELDS, one, name) for name in one.body}
    parts = {name: _schema(PARTS, one, name) for name in one.parts}
    return taken(fields | parts, needs)


def _in_path(name: str) -> dict[str, Any]:
    described = {"description": _PATH_SAID[name], "schema": _PATH[name]}
    return {"name": name, "in": "path", "required": True, **described}


def _responses(one: Operation) -> dict[str, Any]:
    json = one.gives == "application/json"
    content = {one.gives: {"schema": schema_of(one.answer)} if json else {}}
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    responses: dict[str, Any] = {
        str(one.status): {"description": HTTPStatus(one.status).phrase, "content": content},
        "default": {
            "description": "It was refused, or failed: `detail` says why.",
            "content": {"application/problem+json": problem},
        },
    }
    if one.tagged:
        responses["304"] = {"description": "It is as its ETag says."}
    return responses


def _schema(shapes: dict[str, Any], one: Operation, name: str) -> dict[str, Any]:
    own = f"{one.handler.__name__}.{name}"
    return schema_of(shapes[own] if own in shapes else shapes[name])
