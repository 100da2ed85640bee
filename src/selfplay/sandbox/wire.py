"""Serialisation of values between the process that runs proposed code and the judge, as plain data.

Only exact built-in and standard library types are sent by value and rebuilt on the other side; other objects are
encoded by the callback `other`. This module runs inside the sandbox and imports no module of selfplay.
"""

import json
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

LONGEST = 1 << 24  # maximum bytes of a message
SEQUENCES: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
BUFFERS: dict[str, Callable[[Any], Any]] = {"bytes": bytes, "bytearray": bytearray}
KEPT = 1 << 53  # integers below it are JSON numbers
MORE: dict[str, Callable[[Any], tuple[Any, ...]]] = {  # class -> constructor arguments of an equal value
    "decimal.Decimal": lambda x: (str(x),),
    "fractions.Fraction": lambda x: (x.numerator, x.denominator),
    "datetime.date": lambda x: (x.year, x.month, x.day),
    "datetime.datetime": lambda x: (x.year, x.month, x.day, x.hour, x.minute, x.second, x.microsecond, x.tzinfo),
    "datetime.time": lambda x: (x.hour, x.minute, x.second, x.microsecond, x.tzinfo),
    "datetime.timedelta": lambda x: (x.days, x.seconds, x.microseconds),
    "datetime.timezone": lambda x: (x.utcoffset(None),),
    "collections.Counter": lambda x: (dict(x),),
    "collections.OrderedDict": lambda x: (list(x.items()),),
    "collections.defaultdict": lambda x: (None, dict(x)),
    "collections.deque": lambda x: (list(x), x.maxlen),
}


def send(pipe: int, message: Any) -> None:
    """Send a message of JSON types.

    Raises:
        ValueError: the message is too long.
    """
    data = json.dumps(message).encode()
    if len(data) > LONGEST:
        raise ValueError("the value is too large to be sent")
    data = struct.pack("<I", len(data)) + data
    while data:
        data = data[os.write(pipe, data) :]


def receive(pipe: int) -> Any:
    """Receive a message.

    Raises:
        EOFError: the other side is gone, or sent an invalid message.
    """
    (size,) = struct.unpack("<I", _exactly(pipe, 4))
    if size > LONGEST:
        raise EOFError
    try:
        return json.loads(_exactly(pipe, size))
    except (ValueError, RecursionError):
        raise EOFError from None


def _exactly(pipe: int, size: int) -> bytes:
    parts = []
    while size:
        data = os.read(pipe, min(size, 1 << 20))
        if not data:
            raise EOFError
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def encode(value: Any, other: Callable[[Any], Any]) -> Any:
    """Encode a value as JSON types; `other` encodes non-plain objects as a list that starts with a distinct tag."""
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if -KEPT < value < KEPT else ["int", hex(value)]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind in (list, tuple, set, frozenset):
        return [kind.__name__, [encode(x, other) for x in value]]
    if kind is dict:
        return ["dict", [[encode(k, other), encode(v, other)] for k, v in value.items()]]
    if kind in (bytes, bytearray):
        return [kind.__name__, value.hex()]
    if kind is range:
        return ["range", [encode(x, other) for x in (value.start, value.stop, value.step)]]
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in MORE and _known(name) is kind:
        return [name, [encode(x, other) for x in MORE[name](value)]]
    return other(value)


def decode(data: Any, other: Callable[[Any], Any]) -> Any:
    """Invert `encode`; values have exact types.

    Raises:
        ValueError, TypeError, LookupError: the data is not an encoded value.
    """
    if data is None or type(data) in (bool, str, float, int):
        return data
    if type(data) is not list or not data or type(data[0]) is not str:
        raise ValueError("not an encoded value")
    kind, rest = data[0], data[1:]
    if kind == "int":
        return int(rest[0], 16)
    if kind == "complex":
        return complex(float(rest[0]), float(rest[1]))
    if kind in SEQUENCES:
        return SEQUENCES[kind](decode(x, other) for x in rest[0])
    if kind == "dict":
        return {decode(k, other): decode(v, other) for k, v in rest[0]}
    if kind in BUFFERS:
        return BUFFERS[kind](bytes.fromhex(rest[0]))
    if kind == "range" or kind in MORE:
        make: Any = range if kind == "range" else _known(kind, needed=True)
        return make(*(decode(x, other) for x in rest[0]))
    return other(data)


def _known(name: str, needed: bool = False) -> Any:
    """A class of the standard library; None if its module is not loaded and not `needed`."""
    module, _, kind = name.rpartition(".")
    if needed:
        __import__(module)
    return getattr(sys.modules.get(module), kind, None)
