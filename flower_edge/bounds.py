"""How large a message of the other side becomes when Flower puts it together; counted before it does."""

from __future__ import annotations

import json
from collections.abc import Mapping

from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
)

from flower_edge.records import MAX_ARRAY_BYTES
from pp_model.errors import ProtocolError


def check_unpacked_size(contents: Mapping[str, bytes]) -> None:
    """Returns if the arrays of a message, put together from its parts, take no more than `MAX_ARRAY_BYTES`.

    An array may name one part many times: a megabyte on the way would become gigabytes in memory.

    Args:
        contents: the message's parts by their id, as Flower carries them.

    Raises:
        ProtocolError: more, or parts that are not Flower's.
    """
    total = 0
    try:
        for content in contents.values():
            kind, parts, _ = get_object_head_values_from_object_content(content)
            if kind == Array.__name__:
                named = json.loads(get_object_body(content, Array))["arraychunk_ids"]
                total += sum(len(contents[parts[position]]) for position in named)
    except Exception as error:  # whatever the other side can put together
        raise ProtocolError("a message whose parts are not Flower's") from error
    if total > MAX_ARRAY_BYTES:
        raise ProtocolError(f"a message that unpacks to {total} bytes of arrays; allowed: {MAX_ARRAY_BYTES}")
