// charrnn module: a language model that generates text ($description), written by charrnn $version.
// It has no dependencies and runs in browsers, Node and Deno:
//
//   import { load } from "./model.js";
//   const model = load();
//   model.sample({ prompt: "Once", length: 500, temperature: 0.5, seed: 1 }); // the text after the prompt
//   for await (const piece of model.stream({ prompt: "Once" })) show(piece); // the same, in pieces
//   model.next("Onc"); // a Map of symbols to their probabilities, the most likely first

$program
// The vocabulary, and the weights: 8-bit integers with one scale per row, in base64.
const DATA = $data;

// Load the model. This is synchronous, so `await load()` works too.
export function load() {
  return new LanguageModel(DATA);
}
