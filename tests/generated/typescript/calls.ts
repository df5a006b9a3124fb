// Calls every operation of a service by the client of openapi-fetch, with the types that
// openapi-typescript made.
import createClient from "openapi-fetch";
import type { components, paths } from "./client.js";

type Schemas = components["schemas"];

const url = process.argv[2];
const client = createClient<paths>({ baseUrl: url });
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

const made = await answered(client.PUT("/v1/counters/{name}", { params: orders, body: { start: 1000 } }));
console.log("createCounter", made.start, made.limit);
const next = "/v1/counters/{name}/next";
const one = { params: { ...orders, query: { format: "json" } } } as const;
console.log("getNextOfCounter", ...(await ids(client.GET(next, one))));
console.log("getNextOfCounter", ...(await ids(client.GET(next, { params: { ...orders, query: { format: "json", count: 3 } } }))));
const ranges = { params: { ...orders, query: { format: "ranges", count: 5, nonce: "n" } } } as const;
console.log("postNextOfCounter", ...(await ids(client.POST(next, ranges))));
const page = await answered(client.GET("/v1/counters", { params: { query: { limit: 1 } } }));
console.log("listCounters", ...page.counters.map((each) => each.counter), page.next);
const rest = await answered(client.GET("/v1/counters", { params: { query: { after: page.next } } }));
console.log("listCounters", ...rest.counters.map((each) => each.counter));
const shown = await answered(client.GET("/v1/counters/{name}", { params: orders }));
console.log("showCounter", shown.state, Number(shown.next) > 1008, Object.keys(shown.gaps ?? {}).length);
console.log("status", (await answered(client.GET("/v1/status"))).in_use);

const suspended: Schemas["Patch"] = { state: "suspended", reason: "a test" };
console.log("patchCounter", (await answered(client.PATCH("/v1/counters/{name}", { params: orders, body: suspended }))).state);
const { error } = await client.GET(next, one);
if (error === undefined) throw new Error("a suspended counter gave an id");
console.log("refused", error.status, error.code, error.retryable);
const resumed: Schemas["Patch"] = { state: "active" };
console.log("patchCounter", (await answered(client.PATCH("/v1/counters/{name}", { params: orders, body: resumed }))).state);
const set: Schemas["SetTo"] = { next: 5000 };
console.log("setCounter", (await answered(client.POST("/v1/counters/{name}/set", { params: orders, body: set }))).state);
const after = await answered(client.GET("/v1/counters/{name}", { params: orders }));
console.log("showCounter", Number(after.next) >= 5000);
console.log("deleteCounter", (await answered(client.DELETE("/v1/counters/{name}", { params: orders, body: {} }))).state);

const big = { limit: "9007199254740993", strict: true };
console.log("createCounter", (await answered(client.PUT("/v1/counters/{name}", { params: { path: { name: "big" } }, body: big }))).limit);
console.log("getNext", ...(await ids(client.GET("/next", { params: { query: { format: "json" } } }))));
console.log("postNext", ...(await ids(client.POST("/next", { params: { query: { format: "json" } } }))));
