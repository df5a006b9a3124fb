// ids.mjs
const url = "http://127.0.0.1:8080/v1/counters/orders/next?format=json";

export async function nextId(triesLeft = 3) {
  const response = await fetch(url, { method: "POST", signal: AbortSignal.timeout(5000) });
  const body = await response.json();
  if (response.ok) return body.id;
  if (!body.retryable || triesLeft === 0) throw new Error(`${body.code}: ${body.detail}`);
  const seconds = Number(response.headers.get("Retry-After") ?? 1);
  await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  return nextId(triesLeft - 1);
}

console.log(await nextId());
