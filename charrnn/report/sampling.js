// Sampling. With the same weights and seed the text equals that of `charrnn sample`.
//
// Letters in shapes: V symbols.
"use strict";

const SLICE_MS = 30; // max duration before other events are processed

// The key of the random numbers for a seed: the first 8 bytes of the SHA-256 of a short text.
function stream_key(seed) {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  const fraction = (x) => ((x % 1) * 2 ** 32) | 0;
  const rotate = (x, n) => (x >>> n) | (x << (32 - n));

  const text = new TextEncoder().encode(`${seed}/0/0`);
  const block = new DataView(new ArrayBuffer(64));
  [...text, 0x80].forEach((byte, i) => block.setUint8(i, byte));
  block.setUint32(60, 8 * text.length);
  const words = Array.from({ length: 16 }, (_, t) => block.getInt32(4 * t));
  for (let t = 16; t < 64; t++) {
    const [x, y] = [words[t - 15], words[t - 2]];
    const mixed = (rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3)) + (rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10));
    words[t] = (words[t - 16] + words[t - 7] + mixed) | 0;
  }

  const initial = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
  let [a, b, c, d, e, f, g, h] = initial;
  for (let t = 0; t < 64; t++) {
    const chosen = (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g));
    const majority = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    const sum = h + chosen + fraction(Math.cbrt(primes[t])) + words[t];
    [a, b, c, d, e, f, g, h] = [(sum + majority) | 0, a, b, c, (d + sum) | 0, e, f, g];
  }
  block.setInt32(0, initial[0] + a);
  block.setInt32(4, initial[1] + b);
  return block.getBigUint64(0, true);
}

// Standard Gumbel noise at a position of a stream, by SplitMix64, as in `sampling/noise.py`.
function gumbel(key, position) {
  let bits = BigInt.asUintN(64, key + 0x9e3779b97f4a7c15n * BigInt(position));
  bits = BigInt.asUintN(64, (bits ^ (bits >> 30n)) * 0xbf58476d1ce4e5b9n);
  bits = BigInt.asUintN(64, (bits ^ (bits >> 27n)) * 0x94d049bb133111ebn);
  bits = BigInt.asUintN(63, bits ^ (bits >> 31n));
  const uniform = Math.fround(Number(bits)) * 2 ** -63;
  return -Math.log(-Math.log1p(-Math.min(Math.max(uniform, 2 ** -63), 1 - 2 ** -24)));
}

// Draw one of these symbols from softmax(logits / temperature), by the Gumbel-max trick.
function choose(logits, symbols, temperature, noise) {
  let drawn, highest = -Infinity;
  for (const i of symbols) {
    const sum = logits[i] + temperature * noise(i);
    if (sum > highest) [drawn, highest] = [i, sum];
  }
  return drawn;
}

function softmax(logits) {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const weights = logits.map((logit) => Math.exp(logit - highest));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

const is_count = (value) => Number.isSafeInteger(value) && value >= 0;

// The options for sampling: default, check, limits.
const OPTIONS = {
  prompt: [() => "", (value) => typeof value === "string", "a string"],
  length: [() => 1000, is_count, "an integer of at least 0"],
  temperature: [() => 1, (value) => Number.isFinite(value) && value >= 0 && value <= 1000, "a number from 0 to 1000"],
  seed: [() => Math.floor(Math.random() * 2 ** 31), is_count, "an integer of at least 0"],
};

// Add defaults and check the options. Throws: RangeError.
function complete(options) {
  const other = Object.keys(options).find((name) => !Object.hasOwn(OPTIONS, name));
  if (other) throw new RangeError(`${other} is not an option: the options are { ${Object.keys(OPTIONS).join(", ")} }`);
  const all = Object.entries(OPTIONS).map(([name, [make_default, is_valid, limits]]) => {
    const value = options[name] ?? make_default();
    if (!is_valid(value)) throw new RangeError(`${name} is ${value}: it must be ${limits}`);
    return [name, value];
  });
  return Object.fromEntries(all);
}

class LanguageModel {
  constructor({ vocabulary, model }) {
    this.vocabulary = new Vocabulary(vocabulary);
    this.network = new CharRNN(model);
  }

  // The probabilities of the next symbol after a text, as a Map, most likely first. <unk> is shown as U+FFFD, EOS as
  // the empty text, and a byte as the character with its number. Throws: Error for a text outside the vocabulary.
  next(text = "") {
    const state = this.network.initial_state();
    let logits;
    for (const symbol of this.vocabulary.read(text)) logits = this.network.step(symbol, state);
    const named = Array.from(softmax(logits), (p, i) => [this.vocabulary.name(i), p]);
    const probabilities = new Map();
    for (const [name, p] of named.sort(([, p], [, q]) => q - p)) {
      probabilities.set(name, (probabilities.get(name) ?? 0) + p); // U+FFFD may also be a symbol of the text
    }
    return probabilities;
  }

  // A continuation of the prompt by `length` symbols. Without a seed each call returns a different text.
  // Throws: Error for a prompt outside the vocabulary, RangeError for an option out of its range.
  sample(options) {
    return Array.from(this.generate(options), ({ text }) => text).join("");
  }

  // Yield the text that `sample` returns, in pieces as they are drawn. Other events are processed between them.
  async *stream(options) {
    let start = performance.now();
    for (const { text } of this.generate(options)) {
      if (text) yield text;
      if (performance.now() < start + SLICE_MS) continue;
      await new Promise((resolve) => setTimeout(resolve));
      start = performance.now();
    }
  }

  generate(options = {}) {
    const all = complete(options);
    const prompt = this.vocabulary.prompt(all.prompt);
    if (prompt.left_out) throw this.vocabulary.error(prompt.unknown);
    return this.write(prompt, all);
  }

  // Continue a prompt from `Vocabulary.prompt`. Yields the text and the surprisal in bits of each symbol drawn, and an
  // empty text for each symbol read. The temperature may be changed between two symbols.
  *write({ read, unfinished, first }, options) {
    const { vocabulary, network } = this;
    const key = stream_key(options.seed), state = network.initial_state();
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // keeps the first bytes of an incomplete character
    let logits;
    for (const symbol of read) {
      logits = network.step(symbol, state);
      yield { text: "" };
    }
    for (let n = 0; n < options.length; n++) {
      const noise = (i) => gumbel(key, n * vocabulary.size + i);
      const symbol = choose(logits, n ? vocabulary.drawable : first, options.temperature, noise);
      const text = decoder.decode(vocabulary.bytes(symbol), { stream: true });
      yield { text: n ? text : text.slice(unfinished.length), bits: -Math.log2(softmax(logits)[symbol]) };
      logits = network.step(symbol, state);
    }
    yield { text: decoder.decode() };
  }
}
