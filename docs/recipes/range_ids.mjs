// range_ids.mjs
const url = "http://127.0.0.1:8080/v1/counters/orders/next?format=ranges&count=100";
let held = [], until = 0, refill;

async function takeRanges() {
  const asked = Date.now(), response = await fetch(url, { method: "POST" });
  if (!response.ok) throw new Error(await response.text());
  held = (await response.json()).ranges.flatMap(({ first, step, count }) =>
    Array.from({ length: count }, (_, index) => first + step * index));
  until = asked + 10_000;
}

export async function nextId() {
  while (held.length === 0 || Date.now() > until) {
    await (refill ??= takeRanges().finally(() => (refill = undefined)));
  }
  return held.shift();
}

const ids = await Promise.all(Array.from({ length: 250 }, nextId));
console.log(`JavaScript: ${new Set(ids).size} different ids of ${ids.length}`);
