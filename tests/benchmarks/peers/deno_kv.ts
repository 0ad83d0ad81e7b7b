// What deno_kv.py measures: deno run ... deno_kv.ts <work> <file> <numbers of the work>

const [work, file, ...numbers] = Deno.args;
const [first, second, limitMs] = numbers.map(Number);
const MESSAGE = {
  type: "order.created",
  data: { order_id: 1, customer: "c-42", lines: [1, 2, 3] },
};
const BATCH = 500;
const kv = await Deno.openKv(file);

async function send(count: number, producers: number): Promise<void> {
  const produce = async () => {
    for (let i = 0; i < Math.floor(count / producers); i++) await kv.enqueue(MESSAGE);
  };
  await Promise.all(Array.from({ length: producers }, produce));
}

async function sendRate(count: number, producers: number): Promise<object> {
  await send(Math.max(producers, count / 10), producers);
  const began = performance.now();
  await send(count, producers);
  return { per_s: count * 1000 / (performance.now() - began) };
}

async function fill(count: number): Promise<void> {
  for (let left = count; left > 0; left -= BATCH) {
    const atomic = kv.atomic();
    for (let i = 0; i < Math.min(left, BATCH); i++) atomic.enqueue(MESSAGE);
    await atomic.commit();
  }
}

async function handleRate(waiting: number, count: number): Promise<object> {
  await fill(waiting);
  const warm = Math.max(Math.floor(count / 10), 1);
  let handled = 0, began = 0, at = 0;
  await new Promise<void>((resolve) => {
    setTimeout(resolve, limitMs);
    kv.listenQueue(() => {
      at = performance.now();
      if (++handled === warm) began = at;
      if (handled === count) resolve();
    });
  });
  return { per_s: (handled - warm) * 1000 / (at - began) };
}

async function latency(count: number, gapMs: number): Promise<object> {
  let started: (at: number) => void;
  kv.listenQueue(() => started(performance.now()));
  const taken: number[] = [];
  for (let i = 0; i <= count; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5 + Math.random() * (gapMs - 5)));
    const handled = new Promise<number>((resolve) => started = resolve);
    const began = performance.now();
    await kv.enqueue(MESSAGE);
    taken.push(await handled - began);
  }
  const sorted = taken.slice(1).sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.floor(sorted.length * share)];
  return { p50_ms: at(0.5), p99_ms: at(0.99) };
}

const measures: Record<string, (a: number, b: number) => Promise<object>> = {
  send: sendRate,
  handle: handleRate,
  latency,
};
console.log(JSON.stringify(await measures[work](first, second)));
Deno.exit(0);
