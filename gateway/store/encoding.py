# SPDX-License-Identifier: GPL-2.0-or-later
"""Values to JSON text and back without loss, as the store keeps them.

Reads hostile text: addresses and HELO names may hold bytes that are no UTF-8 (as unpaired
surrogates), which msgspec refuses in both directions. For those few, `json` writes them as escapes,
so that a strange address can neither stop a message from being kept nor come back changed.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def to_json(value: object) -> str:
    """Encode dataclasses, tuples and plain values as JSON text that any database takes."""
    try:
        return _encoder.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value))


def from_json(text: str, kind: type[T] | Any) -> T:
    """Decode what `to_json` wrote into `kind`. Raises ValueError for anything else."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        return decoder.decode(text)  # type: ignore[no-any-return]  # one decoder for each kind
    except (msgspec.DecodeError, RecursionError):
        try:
            return msgspec.convert(json.loads(text), kind)
        except (msgspec.ValidationError, RecursionError) as error:
            raise ValueError(str(error)) from error
