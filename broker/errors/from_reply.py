"""Makes the broker's errors from the server's error replies."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote

from broker.errors import BY_CODE, BrokerError

_REPLY_FIELD: Final = re.compile(r"([A-Za-z_]\w*)=(\S*)")


def from_reply(text: str) -> BrokerError:
    """Makes the error of a server's error reply.

    Args:
        text: the reply without its leading `-`: `CODE name=value ...` from the broker's scripts, or `CODE free text`
            from the server itself, which becomes the field `message`.

    Returns:
        An instance of the code's class, or of `BrokerError` with that code if it is unknown. All values are strings.
    """
    code, _, rest = text.strip().partition(" ")
    kind = BY_CODE.get(code, BrokerError)
    own_code = kind.code if kind is not BrokerError else code or BrokerError.code
    fields: dict[str, Any] = {}
    for word in rest.split():
        field = _REPLY_FIELD.fullmatch(word)
        if field is None:
            return kind(own_code, message=rest.strip())
        fields[field[1]] = unquote(field[2])
    return kind(own_code, **fields)
