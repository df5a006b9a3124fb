// Calls every operation of a service by the client of openapi-fetch, with the types that
// openapi-typescript made.
import createClient from "openapi-fetch";
import type { components, paths } from "./client.js";

type Schemas = components["schemas"];

const url = process.argv[2];
const client = createClient<paths>({ baseUrl: url });
const counter = "/v1/counters/{name}";
const next = "/v1/counters/{name}/next";
const orders = { path: { name: "orders" } };

/** The answer, which is there unless the request was refused. */
async function answered<T>(call: Promise<{ data?: T; error?: unknown }>): Promise<T> {
  const { data, error } = await call;
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

async function ids(call: Promise<{ data?: Schemas["Ids"] | string; error?: unknown }>) {
  const data = await answered(call);
  if (typeof data === "string") throw new Error(`text: ${data}`);
  const ranges = data.ranges?.flatMap((each) => [each.first, each.step, each.count, data.nonce]);
  return ranges ?? data.ids ?? [data.id];
}

const text = { parseAs: "text" } as const;
console.log("livez", await answered(client.GET("/livez", text)));
console.log("readyz", await answered(client.GET("/readyz", text)));
console.log("metrics", (await answered(client.GET("/metrics", text))).includes("idservice_"));
console.log("statusPage", (await client.GET("/", text)).response.status);
console.log("docs", (await client.GET("/docs", text)).response.status);
console.log("openapi", (await answered(client.GET("/openapi.json"))).openapi);

const start = { params: orders, body: { start: 1000 } };
const made = await answered(client.PUT(counter, start));
console.log("createCounter", made.start, made.limit);
const one = { params: { ...orders, query: { format: "json" } } } as const;
console.log("getNextOfCounter", ...(await ids(client.GET(next, one))));
const batch = { params: { ...orders, query: { format: "json", count: 3 } } } as const;
console.log("getNextOfCounter", ...(await ids(client.GET(next, batch))));
const query = { format: "ranges", count: 5, nonce: "n" } as const;
const ranges = await ids(client.POST(next, { params: { ...orders, query } }));
console.log("postNextOfCounter", ...ranges);
const list = "/v1/counters";
const page = await answered(client.GET(list, { params: { query: { limit: 1 } } }));
console.log("listCounters", ...page.counters.map((each) => each.counter), page.next);
const rest = await answered(client.GET(list, { params: { query: { after: page.next } } }));
console.log("listCounters", ...rest.counters.map((each) => each.counter));
const shown = await answered(client.GET(counter, { params: orders }));
const lost = Object.keys(shown.gaps ?? {}).length;
console.log("showCounter", shown.state, Number(shown.next) > 1008, lost);
console.log("status", (await answered(client.GET("/v1/status"))).in_use);

async function patched(body: Schemas["Patch"]) {
  return (await answered(client.PATCH(counter, { params: orders, body }))).state;
}

console.log("patchCounter", await patched({ state: "suspended", reason: "a test" }));
const { error } = await client.GET(next, one);
if (error === undefined) throw new Error("a suspended counter gave an id");
console.log("refused", error.status, error.code, error.retryable);
console.log("patchCounter", await patched({ state: "active" }));
const to = { params: orders, body: { next: 5000 } };
console.log("setCounter", (await answered(client.POST("/v1/counters/{name}/set", to))).state);
const after = await answered(client.GET(counter, { params: orders }));
console.log("showCounter", Number(after.next) >= 5000);
const none = { params: orders, body: {} };
console.log("deleteCounter", (await answered(client.DELETE(counter, none))).state);

const big = { params: { path: { name: "big" } }, body: { limit: "9007199254740993", strict: true } };
console.log("createCounter", (await answered(client.PUT(counter, big))).limit);
const json = { params: { query: { format: "json" } } } as const;
console.log("getNext", ...(await ids(client.GET("/next", json))));
console.log("postNext", ...(await ids(client.POST("/next", json))));

const tally = "/v1/tallies/{name}";
const donations = { path: { name: "donations" } };
const keyed = (key: string) => ({ ...donations, header: { "Idempotency-Key": key } });
const wish = { params: donations, body: { decimals: 2, floor: "0" } };
const created = await answered(client.PUT(tally, wish));
console.log("createTally", created.sum, created.floor);
for (let n = 0; n < 2; n++) {
  const gift = { params: keyed("don-1"), body: { amount: "12.50" } };
  const told = await answered(client.POST("/v1/tallies/{name}/add", gift));
  console.log("addToTally", told.amount, told.sum, told.replayed);
}
const much = { params: keyed("don-2"), body: { amount: "-100" } };
const below = (await client.POST("/v1/tallies/{name}/add", much)).error;
if (below === undefined) throw new Error("an add went below the floor");
console.log("refused", below.status, below.code, below.sum);
const first = { params: { path: { name: "donations", key: "don-1" } } };
const record = await answered(client.GET("/v1/tallies/{name}/adds/{key}", first));
console.log("showAdd", record.kind, record.amount);
const sum = await answered(client.GET(tally, { params: donations }));
console.log("showSum", typeof sum === "string" ? sum : sum.sum);
const zero = { params: keyed("year"), body: { sum: "0" } };
const set = await answered(client.POST("/v1/tallies/{name}/set", zero));
console.log("setSum", set.before, set.sum);
const state = { state: "suspended" } as const;
const changed = await answered(client.PATCH(tally, { params: donations, body: state }));
console.log("patchTally", changed.state, changed.floor);
const tallies = await answered(client.GET("/v1/tallies"));
console.log("listTallies", ...tallies.tallies.map((each) => each.tally));
const gone = await answered(client.DELETE(tally, { params: donations, body: {} }));
console.log("deleteTally", gone.state);

const asked = { role: "use", note: "checkout" } as const;
const key = await answered(client.POST("/v1/keys", { body: { ...asked, scopes: ["acme.*"] } }));
console.log("createKey", key.role, ...key.scopes, key.key.startsWith(`idk_use_${key.id}`));
const bearer = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${key.key}` } });
const acme = await bearer.GET(next, { params: { path: { name: "acme.orders" } } });
console.log("keyed", acme.response.status, acme.error?.code);
const globex = await bearer.GET(next, { params: { path: { name: "globex.orders" } } });
console.log("refused", globex.response.status, globex.error?.code);
const { keys } = await answered(client.GET("/v1/keys"));
console.log("listKeys", keys[0].state, keys[0].note);
const end = { params: { path: { id: key.id } }, body: { reason: "replaced" } };
const revoked = await answered(client.DELETE("/v1/keys/{id}", end));
console.log("revokeKey", revoked.state, revoked.reason);
const scoped = { params: { query: { scope: "acme.*" } } };
const used = await answered(client.GET("/v1/usage", scoped));
if (typeof used === "string") throw new Error(`CSV: ${used}`);
console.log("reportUsage", used.scope, used.totals.ids);
