// Convert text to ids of characters, bytes or words and back, as in `text/tokenizers.py` and `text/words.py`.
"use strict";

// Character classes for words. These scripts have no spaces between words, so each letter is a word: Thai, Lao,
// Burmese, Khmer, kana, bopomofo, Han.
const UNSPACED =
  String.raw`\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff` +
  String.raw`\u{20000}-\u{3ffff}`;
const BLANK = String.raw`\t-\r\x1c-\x1f\x85\p{Z}`;
const LETTER = String.raw`(?![${UNSPACED}])[\p{L}\p{Nl}\p{No}]`;
const MARKS = String.raw`[\p{M}\xad\u200c\u200d]{0,8}`; // part of the letter before them
const PART = `(?:${LETTER}${MARKS}){1,64}`;

// A word with inner apostrophes and hyphens, a number, a repeated punctuation mark or another character, each with at
// most one space before it; or white space.
const WORDS = new RegExp(
  ` ?(?:${PART}(?:['\u2019\u2010\u2011-]${PART}){0,7}|[${UNSPACED}]${MARKS}|\\p{Nd}{1,16}` +
    `|-{1,16}|\\.{1,16}|\\*{1,16}|_{1,16}|={1,16}|[^${BLANK}])` +
    `| {1,16}(?= )| |\\n{1,16}|\\t{1,16}|[${BLANK}]`,
  "gu",
);

const EOS = "\udfff"; // stands for the end of a document; a lone surrogate, which no text contains

// Split a document into symbols of one of the three units.
const SPLIT = {
  char: (text) => Array.from(text),
  byte: (text) => Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)),
  word: (text) => text.match(WORDS) ?? [],
};
const NOUNS = { char: "characters", byte: "bytes", word: "words" };

// Remove the space before a word, or add one.
const respaced = (word) => (word.startsWith(" ") ? word.slice(1) : ` ${word}`);

class Vocabulary {
  constructor(data) {
    Object.assign(this, data); // see `_tokenizer` in `export.py`
    this.ids = new Map(this.symbols.map((symbol, i) => [symbol, i]));
    if (this.eos !== null) this.ids.set(EOS, this.eos);
    const excluded = new Set(this.excluded);
    this.drawable = Array.from({ length: this.size }, (_, i) => i).filter((i) => !excluded.has(i));
  }

  // The ids of a text to read. Throws: Error for symbols outside the vocabulary, unless it has <unk>.
  read(text) {
    const symbols = this.split(this.fold(text));
    const missing = symbols.filter((symbol) => (this.id_of(symbol) ?? this.unknown) === null);
    if (missing.length) throw this.error(missing);
    return this.with_start(symbols.map((symbol) => this.id_of(symbol) ?? this.unknown));
  }

  // Prepare a prompt. Returns: the ids to `read`; the `unfinished` word that the first drawn symbol must start with,
  // and the symbols that do, `first`; the prompt as it is `shown`; its `unknown` symbols, and whether they were
  // `left_out`. Only words may be read as <unk>.
  prompt(text) {
    const folded = this.fold(text), all = this.split(folded);
    const { size, unfinished, first } = this.unfinished_word(all);
    const symbols = all.slice(0, all.length - size), last = all.slice(all.length - size);
    const unknown = symbols.filter((symbol) => this.id_of(symbol) === null);
    const unk = this.unit === "word" ? this.unknown : null;
    const known = unk === null ? symbols.filter((symbol) => this.id_of(symbol) !== null) : symbols;
    const kept = [...known, ...last].map((symbol) => (symbol === EOS ? this.eos_text : symbol)).join("");
    const read = this.with_start(known.map((symbol) => this.id_of(symbol) ?? unk));
    const shown = this.unit === "byte" ? folded : kept;
    return { read, unfinished, first, shown, unknown, left_out: known.length < symbols.length };
  }

  error(missing) {
    const list = Array.from(new Set(missing), (symbol) => JSON.stringify(symbol)).join(", ");
    return new Error(`${NOUNS[this.unit]} outside the vocabulary of ${this.size} symbols: ${list}; leave them out`);
  }

  // Normalise a text in the same way as the corpus.
  fold(text) {
    if (this.unit !== "byte") text = text.replaceAll("\r\n", "\n").replaceAll("\ufeff", "");
    const normal = (text) => (this.normalize === "none" ? text : text.normalize(this.normalize.toUpperCase()));
    return this.lowercase ? normal(normal(text).toLowerCase()) : normal(text);
  }

  // Split a text into symbols, including unknown ones.
  split(text) {
    const documents = this.separator === null ? [text] : text.split(new RegExp(this.separator));
    const parts = documents.map(SPLIT[this.unit]);
    return parts.flatMap((symbols, i) => (i ? [EOS, ...symbols] : symbols));
  }

  // Prepend the start of a text: EOS, or a line feed for an empty text if the model has no documents.
  with_start(ids) {
    const has_start = this.eos === null ? ids.length : ids[0] === this.eos;
    return has_start ? ids : [this.start, ...ids];
  }

  // The last word of a prompt may be the beginning of a longer one, as may its last two symbols, such as "don" and "'".
  unfinished_word(symbols) {
    const last = symbols.slice(-1).join(""), two = symbols.slice(-2).join("");
    for (const [size, unfinished] of [[2, two], [1, last], [1, respaced(last)]]) {
      const first = this.drawable.filter((i) => this.symbols[i]?.startsWith(unfinished));
      if (this.unit === "word" && symbols.length >= size && first.length) return { size, unfinished, first };
    }
    return { size: 0, unfinished: "", first: this.drawable };
  }

  // The id of a symbol, or null. A word may be known only with, or only without, a space before it.
  id_of(symbol) {
    const other = this.unit === "word" ? respaced(symbol) : symbol;
    return this.ids.get(symbol) ?? this.ids.get(other) ?? null;
  }

  // The name of an id: <unk> is U+FFFD, EOS is empty.
  name(id) {
    return this.symbols[id] ?? (id === this.eos ? "" : "\ufffd");
  }

  // The text of an id in UTF-8; a byte may be an incomplete character.
  bytes(id) {
    if (this.unit === "byte" && id !== this.eos) return Uint8Array.of(id);
    return new TextEncoder().encode(id === this.eos ? this.eos_text : this.symbols[id]);
  }
}
