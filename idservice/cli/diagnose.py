"""How the command `doctor` is carried out."""

import argparse
from typing import TYPE_CHECKING

from idservice.cli import store_commands

if TYPE_CHECKING:
    from idservice.stores.findings import Finding
    from idservice.stores.protocol import Store


def doctor(arguments: argparse.Namespace) -> int:
    """Say what is wrong with a store, what may go wrong, and what to do."""
    import time

    from idservice.catalogue import doctor
    from idservice.stores.findings import LEVELS

    found: list[Finding] = []

    async def work(store: "Store") -> None:
        found.extend(await doctor.examine(store, time.time))
        found.sort(key=lambda finding: -LEVELS.index(finding.level))
        _print(store.address, found, as_json=arguments.json)

    store_commands.with_store(arguments, work, verify=False)
    return 1 if any(finding.is_worse_than_advice for finding in found) else 0


def _print(store: str, found: list["Finding"], *, as_json: bool) -> None:
    import msgspec

    from idservice.stores.findings import LEVELS

    if as_json:
        print(msgspec.json.encode({"store": store, "findings": found}).decode())
        return
    for finding in found:
        print(f"{finding.level:8} {finding.about}: {finding.found}")
        for more in filter(None, (finding.why, finding.run)):
            print(f"{'':10} {more}")
    levels = [finding.level for finding in found]
    print(", ".join(f"{level} {levels.count(level)}" for level in reversed(LEVELS)))
