"""A Secret as helm sends it, in protobuf, read into what it is in JSON.

The numbers of the fields are those of Kubernetes' generated.proto.
"""

import base64
from collections.abc import Iterator
from typing import Any

MAGIC = b"k8s\x00"


def secret(data: bytes) -> dict[str, Any]:
    """Read a Secret."""
    raw = next(value for number, value in _fields(data.removeprefix(MAGIC)) if number == 2)
    name, labels, content = "", {}, {}
    for number, value in _fields(raw):
        if number == 1:
            for part, text in _fields(value):
                if part == 1:
                    name = text.decode()
                elif part == 11:
                    labels |= {key.decode(): of.decode() for key, of in [_entry(text)]}
        elif number == 2:
            content |= {key.decode(): base64.b64encode(of).decode() for key, of in [_entry(value)]}
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {"name": name, "labels": labels}, "data": content,
    }  # fmt: skip


def _entry(data: bytes) -> tuple[bytes, bytes]:
    fields = dict(_fields(data))
    return fields[1], fields.get(2, b"")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field that has a length; numbers are passed over."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        length, place = _varint(data, place)
        if tag & 7 == 2:
            yield tag >> 3, data[place : place + length]
            place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        shift, place = shift + 7, place + 1
        if byte < 128:
            return value, place
