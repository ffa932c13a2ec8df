"""JSON schemas of Python types and of shapes made from them. Knows nothing of the API."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

_PLAIN: dict[Any, dict[str, Any]] = {
    Any: {},
    None: {"type": "null"},
    types.NoneType: {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}


class Schema(dict[str, Any]):
    """A schema that is made already."""


def fields_of(record: type, without: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass with their types, as a shape."""
    hints = get_type_hints(record)
    return {f.name: hints[f.name] for f in dataclasses.fields(record) if f.name not in without}


def within(shape: Any, **keywords: Any) -> Schema:
    """A shape with further keywords of JSON Schema, itself a shape."""
    return Schema(schema_of(shape) | keywords)


def one_of(values: Iterable[str]) -> Schema:
    """One of some texts."""
    return Schema({"enum": list(values)})


def taken(fields: Mapping[str, Any], needs: Iterable[str] = ()) -> Schema:
    """An object that may have some fields, needs some, and has no others."""
    properties = {name: schema_of(shape) for name, shape in fields.items()}
    return Schema(
        type="object", properties=properties, required=list(needs), additionalProperties=False
    )


def schema_of(shape: Any) -> Schema:
    """The JSON schema of what ``json`` makes of values of a type.

    Beside types, a shape is ``{name: shape}``, an object with just these fields; ``[shape]``, a
    list; and ``(shape, shape)``, either.
    """
    if isinstance(shape, Schema):
        return shape
    if isinstance(shape, Mapping):
        return taken(shape, shape)
    if isinstance(shape, list):
        return Schema(type="array", items=schema_of(shape[0]))
    if isinstance(shape, tuple):
        return Schema(anyOf=[schema_of(one) for one in shape])
    if dataclasses.is_dataclass(shape):
        assert isinstance(shape, type)
        return schema_of(fields_of(shape))
    if shape in _PLAIN:
        return Schema(_PLAIN[shape])
    return _generic(get_origin(shape), get_args(shape))


def _generic(origin: Any, inner: tuple[Any, ...]) -> Schema:
    if origin in (Union, types.UnionType):
        return schema_of(inner)
    if origin is dict:
        return Schema(type="object", additionalProperties=schema_of(inner[1]))
    if origin is tuple and inner[-1] is not Ellipsis:
        # Not as `prefixItems`, which tools for OpenAPI 3.1 still get wrong.
        return within([tuple(dict.fromkeys(inner))], minItems=len(inner), maxItems=len(inner))
    return schema_of([inner[0]])
