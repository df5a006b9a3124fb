"""Examines the tallies of a store: a sum that disagrees with its records, a bound that is reached,
a suspension that lasts."""

import shlex
from collections.abc import Iterator

from idservice import errors
from idservice.core.amounts import written
from idservice.core.tally import Tally, TallyState
from idservice.stores.findings import ADVICE, FAULT, WARNING, Clock, Finding, fine
from idservice.stores.tally_store import TallyStore
from idservice.tallies.audit import audited

SUSPENDED_LONG_S = 86_400.0


async def examine_tallies(store: TallyStore, address: str, clock: Clock) -> list[Finding]:
    """Return all findings about tallies. Reads every record; changes nothing, raises nothing."""
    again = f" --store {shlex.quote(address)}"
    try:
        found = [one for one in await store.tallies() if one.state is not TallyState.DELETED]
        findings = [
            finding
            for tally in found
            for finding in (await _sum(store, tally, again), *_state(tally, clock(), again))
            if finding is not None
        ]
    except errors.StoreError as error:
        why = "no sum was compared with its records; run this again when the fault is mended"
        return [Finding(WARNING, "tally_sum", f"the tallies cannot be read: {error}", why)]
    if found and not any(finding.is_worse_than_advice for finding in findings):
        findings.append(fine("tally_sum", f"{len(found)} in use, each agrees with its records"))
    return findings


async def _sum(store: TallyStore, tally: Tally, again: str) -> Finding | None:
    audit = await audited(store, tally)
    if audit.agrees:
        return None
    has, makes = (written(one, tally.decimals) for one in (tally.sum, audit.sum))
    what = f"its sum is {has}, and its records make {makes}"
    if has == makes:
        what = (
            f"its number of records is {tally.adds} and its revision {tally.rev}, and there are"
            f" {audit.records}, the last at revision {audit.rev}"
        )
    return Finding(
        FAULT, "tally_sum", f"tally {tally.name}: {what}",
        "it was restored in part, or changed by hand; this command makes the sum from the records",
        f"idservice fence --all --ahead N{again}",
    )  # fmt: skip


def _state(tally: Tally, now: float, again: str) -> Iterator[Finding]:
    """Find a tally that refuses adds."""
    for flag, bound in (("--floor", tally.floor), ("--ceiling", tally.ceiling)):
        if tally.adds and tally.sum == bound:
            yield Finding(
                ADVICE, "tally_bound",
                f"tally {tally.name}: its sum is its {flag[2:]}, {written(bound, tally.decimals)}",
                "each add beyond it is refused, for good under its key",
                f"idservice tally configure {tally.name} {flag} X{again}",
            )  # fmt: skip
    change = tally.change
    days = (now - change.at / 1000) / SUSPENDED_LONG_S if change is not None else 0
    if tally.state is TallyState.SUSPENDED and days >= 1:
        yield Finding(
            ADVICE, "tally_state", f"tally {tally.name}: it is suspended for {_days(int(days))}",
            "its adds are refused, and their callers may not ask again",
            f"idservice tally resume {tally.name}{again}",
        )  # fmt: skip


def _days(days: int) -> str:
    return "a day" if days == 1 else f"{days} days"
