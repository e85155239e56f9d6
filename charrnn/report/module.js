// charrnn module: a language model that writes text ($description), by charrnn $version.
// It needs nothing else, and runs in browsers, Node and Deno:
//
//   import { load } from "./model.js";
//   const model = load();
//   model.sample({ prompt: "Once", length: 500, temperature: 0.5, seed: 1 }); // the text after the prompt
//   for await (const piece of model.stream({ prompt: "Once" })) show(piece); // the same, as it is written
//   model.next("Onc"); // a Map of symbols to their probabilities, the most likely first

$program
// The vocabulary, and the weights: rows of 8-bit integers with a scale each, in base64.
const DATA = $data;

// The model. It is ready at once, so `load()` and `await load()` are the same.
export function load() {
  return new LanguageModel(DATA);
}
