"""What an answer with ids looks like: as text, as JSON, or as ranges."""

from collections.abc import Sequence

import msgspec

from idservice.catalogue.describe import as_strings, number
from idservice.stores.records import Counter
from idservice.web.request import Ask

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


def one(counter: Counter, ask: Ask, id: int) -> tuple[str, bytes]:
    """Content type and body for a single id; as text its digits and nothing else."""
    if ask.form == "text":
        return TEXT, b"%d" % id
    return JSON, msgspec.json.encode({"counter": counter.name, "id": number(counter, id)})


def several(counter: Counter, ask: Ask, blocks: Sequence[range]) -> tuple[str, bytes]:
    """Content type and body for a batch, in the order of `blocks`."""
    if ask.form == "ranges":
        return JSON, _ranges(counter, ask, blocks)
    ids = [id for block in blocks for id in block]
    if ask.form == "text":
        # Five times as fast as formatting one by one: the list as JSON, with line ends for commas.
        return TEXT, msgspec.json.encode(ids)[1:-1].replace(b",", b"\n") + b"\n"
    shown = [str(id) for id in ids] if as_strings(counter) else ids
    return JSON, msgspec.json.encode({"counter": counter.name, "count": ask.count, "ids": shown})


def _ranges(counter: Counter, ask: Ask, blocks: Sequence[range]) -> bytes:
    """Ranges cost the same whatever they hold."""
    body = {
        "counter": counter.name,
        "count": ask.count or 1,
        "epoch": counter.ordinal,
        "mode": "strict" if counter.strict else "block",
        "ranges": [
            {"first": number(counter, block.start), "step": block.step, "count": len(block)}
            for block in blocks
        ],
    }
    if ask.nonce is not None:
        body["nonce"] = ask.nonce
    return msgspec.json.encode(body)
