"""The OpenAPI document, made from the list of operations."""

from __future__ import annotations

import re
from typing import Any

import siamese_search
from siamese_search.serving.routes import ROUTES

PREFIX = "/api/v1"


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all operations."""
    paths: dict[str, Any] = {}
    for one in ROUTES:
        path = re.sub(r":int}", "}", PREFIX + one.path)
        names = re.findall(r"{(\w+)(:int)?}", one.path)
        given = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "integer" if number else "string"},
            }
            for name, number in names
        ]
        given += [{"name": name, "in": "query", "schema": {}} for name in one.query]
        problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
        said: dict[str, Any] = {
            "operationId": one.handler.__name__,
            "summary": (one.handler.__doc__ or "").split("\n")[0],
            "parameters": given,
            "responses": {
                "2XX": {"description": "The answer.", "content": {one.gives: {}}},
                "default": {
                    "description": "It was refused, or failed.",
                    "content": {"application/problem+json": problem},
                },
            },
        }
        if one.parts:
            file = {"type": "array", "items": {"type": "string", "format": "binary"}}
            properties: dict[str, Any] = dict.fromkeys(one.parts, file)
            properties |= {name: {"type": "string"} for name in one.body}
            schema = {"type": "object", "properties": properties, "required": list(one.parts)}
            said["requestBody"] = {
                "required": True,
                "content": {"multipart/form-data": {"schema": schema}},
            }
        elif one.body:
            schema = {"type": "object", "properties": {name: {} for name in one.body}}
            said["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        paths.setdefault(path, {})[one.method.lower()] = said
    text = {"type": "string"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "siasearch", "version": siamese_search.__version__},
        "paths": paths,
        "components": {
            "schemas": {
                "Problem": {
                    "type": "object",
                    "properties": {
                        "type": text,
                        "title": text,
                        "status": {"type": "integer"},
                        "detail": text,
                    },
                }
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }
