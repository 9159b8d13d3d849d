"""The base of checked values: strict, frozen, with the broker's own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from broker.values.validation_errors import refusal, wants_keywords


class Model(BaseModel, frozen=True):
    """Base of the models: strict, frozen; pydantic's errors become the broker's own."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    # Hidden from type checkers, which derive a precise signature from the fields instead.
    if not TYPE_CHECKING:

        def __init__(self, *by_position: Any, **given: Any) -> None:
            if by_position:
                raise wants_keywords(type(self))
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise refusal(type(self), error) from None

        @classmethod
        def model_validate(cls, obj: Any, **options: Any) -> Self:
            """As pydantic's, with BadArgument and BadName instead of its ValidationError."""
            try:
                return super().model_validate(obj, **options)
            except ValidationError as error:
                raise refusal(cls, error) from None

        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
            """As `model_validate`."""
            try:
                return super().model_validate_json(json_data, **options)
            except ValidationError as error:
                raise refusal(cls, error) from None
