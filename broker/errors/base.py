"""The base of the broker's errors: a code, fields, and a sentence made of the fields when `str` asks for it."""

from __future__ import annotations

from string import Formatter
from typing import Any, ClassVar, Final

from broker.errors.words import count

#: Longest text of one field within a sentence, in characters; the field itself is never cut.
_SHOWN_CHARS: Final = 300

#: Fields for the client only, not shown to people: the number of the trainer's call that was refused.
_INTERNAL: Final = frozenset({"used_call", "supply"})


class BrokerError(Exception):
    """Base of all errors of the broker.

    Args:
        code: stable code in capitals; each subclass has its own as default.
        fields: facts about the error, by name. Fields that the class's sentence does not mention are added to it.
    """

    code: str = "ERROR"
    fields: dict[str, Any]

    #: What happened, to what: the first whose placeholders are all among the fields is used. One like
    #: `{left:task is|tasks are}` is a number with its noun.
    happened: ClassVar[tuple[str, ...]] = ("{message}", "the broker reported an error")
    #: What to do.
    remedy: ClassVar[str] = ""

    def __init__(self, code: str | None = None, /, **fields: Any) -> None:
        super().__init__()
        if code is not None:
            self.code = code
        self.fields = fields

    def __str__(self) -> str:
        template, used = self._choose()
        # A server's message may end with a full stop, but the sentence goes on after it.
        sentence = template.format_map({name: _Shown(self.fields[name]) for name in used}).removesuffix(".")
        hidden = used | _INTERNAL
        rest = [f"{name}={_shown(value)}" for name, value in self.fields.items() if name not in hidden]
        if rest:
            sentence += f" ({', '.join(rest)})"
        if advice := self._advice():
            sentence += f": {advice}"
        return f"{sentence} [{self.code}]"

    def __repr__(self) -> str:
        fields = "".join(f", {name}={value!r}" for name, value in self.fields.items())
        return f"{type(self).__name__}({self.code!r}{fields})"

    # Exceptions pickle by their positional arguments only; the fields are keywords.
    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.code, self.fields, getattr(self, "__notes__", None))

    def _advice(self) -> str:
        """What to do, for classes in which that depends on the fields."""
        return self.remedy

    def _choose(self) -> tuple[str, frozenset[str]]:
        for template in self.happened:
            used = frozenset(name for _, name, _, _ in Formatter().parse(template) if name)
            if used <= self.fields.keys():
                return template, used
        return "the broker reported an error", frozenset()


def _rebuild(kind: type[BrokerError], code: str, fields: dict[str, Any], notes: list[str] | None) -> BrokerError:
    error = kind(code, **fields)
    for note in notes or ():
        error.add_note(note)
    return error


class _Shown:
    """A field within a sentence."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __format__(self, spec: str) -> str:
        singular, is_counted, plural = spec.partition("|")
        return count(int(str(self._value)), singular, plural) if is_counted else _shown(self._value)


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        items: tuple[object, ...] = tuple(value)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType] - of anything
        return "\n".join(map(str, items))
    text = str(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}... ({len(text)} characters)"
