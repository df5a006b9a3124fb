// donations.mjs
const url = "http://127.0.0.1:8080/v1/tallies/donations/add";

export async function collect(payment, amount, triesLeft = 3) {
  let problem;
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": payment },
      body: JSON.stringify({ amount }), // text: a number would be a float
      signal: AbortSignal.timeout(5000),
    });
    const body = await response.json();
    if (response.ok && body.key === payment) return body.sum;
    problem = body;
  } catch (error) {
    problem = { retryable: true, outcome: "unknown", detail: error.message };
  }
  if (!problem.retryable || triesLeft === 0) throw Object.assign(new Error(problem.detail), problem);
  await new Promise((resolve) => setTimeout(resolve, 500 + 500 * Math.random()));
  return collect(payment, amount, triesLeft - 1); // the same key: it is counted once
}

console.log("JavaScript:", await collect("pay-4", "7.30"), await collect("pay-4", "7.30"));
