"""Calls every operation of a service by the client that openapi-python-client made."""

import sys

from client import AuthenticatedClient, Client
from client.api.counters import (
    create_counter,
    delete_counter,
    list_counters,
    patch_counter,
    set_counter,
    show_counter,
)  # fmt: skip
from client.api.ids import get_next, get_next_of_counter, post_next, post_next_of_counter
from client.api.keys import create_key, list_keys, revoke_key
from client.api.service import docs, livez, metrics, openapi, readyz, status, status_page
from client.api.tallies import (
    add_to_tally,
    create_tally,
    delete_tally,
    list_tallies,
    patch_tally,
    set_sum,
    show_add,
    show_sum,
)  # fmt: skip
from client.api.usage import report_usage
from client.models import (
    AddRequest,
    CounterConfiguration,
    Deletion,
    GetNextFormat,
    GetNextOfCounterFormat,
    KeyRequest,
    KeyRequestRole,
    Patch,
    PatchStateType1,
    PostNextFormat,
    PostNextOfCounterFormat,
    Revocation,
    SetSumRequest,
    SetTo,
    TallyConfiguration,
    TallyDeletion,
    TallyPatchRequest,
    TallyPatchRequestStateType1,
)  # fmt: skip


def say(*values: object) -> None:
    print(*(str(value).lower() if isinstance(value, bool) else value for value in values))


client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
with client:
    say("livez", livez.sync(client=client))
    say("readyz", readyz.sync(client=client))
    say("metrics", "idservice_" in str(metrics.sync(client=client)))
    say("statusPage", status_page.sync_detailed(client=client).status_code.value)
    say("docs", docs.sync_detailed(client=client).status_code.value)
    say("openapi", openapi.sync(client=client)["openapi"])

    made = create_counter.sync("orders", client=client, body=CounterConfiguration(start=1000))
    say("createCounter", made.start, made.limit)
    one = get_next_of_counter.sync("orders", client=client, format_=GetNextOfCounterFormat.JSON)
    say("getNextOfCounter", one.id)
    batch = get_next_of_counter.sync(
        "orders", client=client, format_=GetNextOfCounterFormat.JSON, count=3
    )
    say("getNextOfCounter", *batch.ids)
    ranges = post_next_of_counter.sync(
        "orders", client=client, format_=PostNextOfCounterFormat.RANGES, count=5, nonce="n"
    )
    for each in ranges.ranges:
        say("postNextOfCounter", each.first, each.step, each.count, ranges.nonce)
    page = list_counters.sync(client=client, limit=1)
    say("listCounters", *(each.counter for each in page.counters), page.next_)
    page = list_counters.sync(client=client, after=page.next_)
    say("listCounters", *(each.counter for each in page.counters))
    shown = show_counter.sync("orders", client=client)
    say("showCounter", shown.state, shown.next_ > 1008, len(shown.gaps.additional_properties))
    say("status", status.sync(client=client).in_use)

    wanted = Patch(state=PatchStateType1.SUSPENDED, reason="a test")
    say("patchCounter", patch_counter.sync("orders", client=client, body=wanted).state)
    refused = get_next_of_counter.sync("orders", client=client, format_=GetNextOfCounterFormat.JSON)
    say("refused", refused.status, refused.code.value, refused.retryable)
    wanted = Patch(state=PatchStateType1.ACTIVE)
    say("patchCounter", patch_counter.sync("orders", client=client, body=wanted).state)
    say("setCounter", set_counter.sync("orders", client=client, body=SetTo(next_=5000)).state)
    say("showCounter", show_counter.sync("orders", client=client).next_ >= 5000)
    say("deleteCounter", delete_counter.sync("orders", client=client, body=Deletion()).state)

    wanted = CounterConfiguration(limit="9007199254740993", strict=True)
    say("createCounter", create_counter.sync("big", client=client, body=wanted).limit)
    say("getNext", get_next.sync(client=client, format_=GetNextFormat.JSON).id)
    say("postNext", post_next.sync(client=client, format_=PostNextFormat.JSON).id)

    wanted = TallyConfiguration(decimals=2, floor="0")
    tally = create_tally.sync("donations", client=client, body=wanted)
    say("createTally", tally.sum_, tally.floor)

    def add(key: str, amount: str) -> object:
        body = AddRequest(amount=amount)
        return add_to_tally.sync("donations", client=client, body=body, idempotency_key=key)

    for _ in range(2):
        told = add("don-1", "12.50")
        say("addToTally", told.amount, told.sum_, told.replayed)
    refused = add("don-2", "-100")
    say("refused", refused.status, refused.code.value, refused.sum_)
    record = show_add.sync("donations", "don-1", client=client)
    say("showAdd", record.kind.value, record.amount)
    say("showSum", show_sum.sync("donations", client=client).sum_)
    body = SetSumRequest(sum_="0")
    done = set_sum.sync("donations", client=client, body=body, idempotency_key="year")
    say("setSum", done.before, done.sum_)
    wanted = TallyPatchRequest(state=TallyPatchRequestStateType1.SUSPENDED)
    tally = patch_tally.sync("donations", client=client, body=wanted)
    say("patchTally", tally.state.value, tally.floor)
    say("listTallies", *(each.tally for each in list_tallies.sync(client=client).tallies))
    deleted = delete_tally.sync("donations", client=client, body=TallyDeletion())
    say("deleteTally", deleted.state.value)

    wish = KeyRequest(role=KeyRequestRole.USE, scopes=["acme.*"], note="checkout")
    key = create_key.sync(client=client, body=wish)
    whole = key.key.startswith(f"idk_use_{key.id}")
    say("createKey", key.role.value, *key.scopes, whole)
    keyed = AuthenticatedClient(base_url=sys.argv[1], token=key.key)
    with keyed:
        for what, name in (("keyed", "acme.orders"), ("refused", "globex.orders")):
            done = get_next_of_counter.sync_detailed(name, client=keyed)
            say(what, done.status_code.value, done.parsed.code.value)
    (listed,) = list_keys.sync(client=client).keys
    say("listKeys", listed.state.value, listed.note)
    revoked = revoke_key.sync(key.id, client=client, body=Revocation(reason="replaced"))
    say("revokeKey", revoked.state.value, revoked.reason)
    used = report_usage.sync(client=client, scope="acme.*")
    say("reportUsage", used.scope, used.totals.ids)
