"""The OpenAPI document (3.1) of the HTTP interface, made of the table of calls."""

from __future__ import annotations

import json
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from historymap_lib import __version__
from historymap_lib.server.calls import CALLS
from historymap_lib.server.messages import Job, Problem

if TYPE_CHECKING:
    from pydantic import BaseModel

    from historymap_lib.server.calls import Call

REFERENCE = "#/components/schemas/{model}"
ALWAYS = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)
"""Statuses that every call may have."""
READS = (HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE)
"""Those of a call that reads files."""
LATER = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Those that say when to ask again."""


@cache
def document(base: str) -> str:
    """Return the document as JSON, for a server whose addresses begin with `base`."""
    return json.dumps(build(base), ensure_ascii=False)


def build(base: str) -> dict[str, Any]:
    """Return the document."""
    answers = [(call.answer, "serialization") for call in CALLS]
    bodies = [(call.body, "validation") for call in CALLS if call.body is not None]
    names, schemas = models_json_schema([*answers, *bodies, (Problem, "serialization")], ref_template=REFERENCE)  # type: ignore[list-item]
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(f"/{call.path}", {})[call.method.lower()] = _operation(call, names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "historymap",
            "version": __version__,
            "description": "Which of today's buildings already stood when an old aerial photo was taken? "
            "Logs come by WebSocket at `logs`: JSON messages `connected`, `log` and `job_status` of all jobs, or with "
            "`?job=ID&offset=BYTE` of one.",
        },
        "servers": [{"url": f"{base.rstrip('/')}/historymap/api"}],
        "security": [{"token": []}, {"cookie": [], "xsrf": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`token THE-TOKEN`, that of Jupyter Server",
                },
                "cookie": {"type": "apiKey", "in": "cookie", "name": "username-HOST-PORT", "description": "of Jupyter"},
                "xsrf": {"type": "apiKey", "in": "header", "name": "X-XSRFToken", "description": "the cookie `_xsrf`"},
            },
        },
    }


def _operation(call: Call, names: Any) -> dict[str, Any]:
    answer = {"schema": names[call.answer, "serialization"]}
    responses = {str(int(call.status)): {"description": call.help, "content": {call.media_type: answer}}}
    problem = {"application/json": {"schema": names[Problem, "serialization"]}}
    for status in sorted({*ALWAYS, *(() if call.at_once else READS), *call.fails}):
        responses[str(int(status))] = {"description": HTTPStatus(status).phrase, "content": problem}
        if status in LATER:
            responses[str(int(status))]["headers"] = {
                "Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "description": "seconds"}
            }
    operation = {
        "operationId": call.name,
        "summary": call.help,
        "parameters": [*(_parameters(Job, "path") if "{job}" in call.path else []), *_parameters(call.query, "query")],
        "responses": responses,
    }
    if call.body is not None:
        body = {"application/json": {"schema": names[call.body, "validation"]}}
        operation["requestBody"] = {"required": not call.body_optional, "content": body}
    return operation


def _parameters(model: type[BaseModel], place: str) -> list[dict[str, Any]]:
    """Return the fields of a model as parameters; one that may be left out is never null in an address."""
    schema = model.model_json_schema()
    found = []
    for name, told in schema.get("properties", {}).items():
        described = {key: value for key, value in told.items() if key not in ("description", "title", "anyOf")}
        if "anyOf" in told:
            described |= next(one for one in told["anyOf"] if one.get("type") != "null")
            described.pop("default", None)
        found.append(
            {
                "name": name,
                "in": place,
                "required": name in schema.get("required", []),
                "description": told.get("description", ""),
                "schema": described,
            }
        )
    return found
