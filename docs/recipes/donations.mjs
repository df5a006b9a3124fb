// donations.mjs
const url = "http://127.0.0.1:8080/v1/tallies/donations/add";

async function ask(payment, amount) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": payment },
    body: JSON.stringify({ amount }), // as text: a number would be a float
    signal: AbortSignal.timeout(5000),
  });
  const body = await response.json();
  if (body.code || (response.ok && body.key === payment)) return body;
  throw new Error(`${response.status}, and not from idservice`);
}

export async function collect(payment, amount, triesLeft = 3) {
  const unknown = (error) => ({ code: "no_answer", retryable: true, detail: error.message });
  const body = await ask(payment, amount).catch(unknown);
  if (!body.code) return body.sum;
  if (!body.retryable || triesLeft === 0) throw Object.assign(new Error(body.detail), body);
  await new Promise((resolve) => setTimeout(resolve, 500 + 500 * Math.random()));
  return collect(payment, amount, triesLeft - 1); // with the same key, so it is counted once
}

console.log("JavaScript:", await collect("pay-4", "7.30"), await collect("pay-4", "7.30"));
