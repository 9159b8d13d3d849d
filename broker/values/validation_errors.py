"""Turns a failed validation into the broker's own error, one line for each field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.errors import BadArgument, BadName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel, ValidationError


def refusal(model: type[BaseModel], error: ValidationError) -> BadArgument | BadName:
    """The broker's own error for a failed validation: BadName if a name alone is at fault."""
    found = error.errors(include_url=False)
    causes = [one.get("ctx", {}).get("error") for one in found]
    if len(found) == 1 and isinstance(causes[0], (BadArgument, BadName)):
        return causes[0]
    lines: list[str] = []
    for one, cause in zip(found, causes, strict=True):
        where = ".".join(str(part) for part in one["loc"]) or "arguments"
        if isinstance(cause, BadName):
            lines.append(f"{model.__name__}: {cause}")
            continue
        rule = _rule(model, one["type"], one["msg"], one.get("ctx", {}), where)
        given = "" if one["type"] in {"missing", "extra_forbidden"} else f", not {_brief(one['input'])}"
        lines.append(f"{model.__name__}: {where} {rule}{given}")
    return BadArgument(problems=tuple(lines))


def wants_keywords(model: type[BaseModel]) -> BadArgument:
    """The error of a call that gives fields by position, which may change."""
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    others = [name for name in model.model_fields if name not in required]
    first, optional = ", ".join(f"{name}=..." for name in required), f"; it may have {', '.join(others)}"
    line = f"{model.__name__}: name its arguments: {model.__name__}({first}){optional if others else ''}"
    return BadArgument(problems=(line,))


def _rule(model: type[BaseModel], kind: str, message: str, context: Mapping[str, Any], where: str) -> str:
    match kind:
        case "greater_than_equal":
            return f"must be {context['ge']} or more"
        case "less_than_equal":
            return f"must be {context['le']} or less"
        case "less_than":
            return f"must be below {context['lt']}"
        case "int_type" | "int_parsing_size":
            return "must be a whole number (int)"
        case "string_type":
            return "must be a str"
        case "literal_error":
            return f"must be one of {context['expected']}"
        case "missing":
            return "is required"
        case "extra_forbidden":
            from difflib import get_close_matches

            close = get_close_matches(where, model.model_fields, n=1)
            return "is not a field" + (f"; did you mean {close[0]}?" if close else "")
        case "value_error":
            return str(context["error"])
        case _:
            return f"is refused: {message}"


def _brief(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's repr raises, the message must come out
        text = f"a {type(value).__name__} (its repr raises {type(error).__name__})"
    return text if len(text) <= 80 else f"{text[:80]}..."
