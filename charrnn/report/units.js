// A user's text to symbols and back: characters, bytes or words, as `text/tokenizers.py` and `text/words.py` have them.
"use strict";

// The classes of characters in the pattern of words. Letters of these scripts, which are written without spaces, are
// a word each: Thai, Lao, Burmese, Khmer, kana, bopomofo, Han.
const UNSPACED =
  String.raw`\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff` +
  String.raw`\u{20000}-\u{3ffff}`;
const BLANK = String.raw`\t-\r\x1c-\x1f\x85\p{Z}`;
const LETTER = String.raw`(?![${UNSPACED}])[\p{L}\p{Nl}\p{No}]`;
const MARKS = String.raw`[\p{M}\xad\u200c\u200d]{0,8}`; // which belong to the letter before them
const PART = `(?:${LETTER}${MARKS}){1,64}`;

// A word with inner apostrophes and hyphens, a number, a repeated mark or any other, each with one space before it;
// or blanks.
const WORDS = new RegExp(
  ` ?(?:${PART}(?:['\u2019\u2010\u2011-]${PART}){0,7}|[${UNSPACED}]${MARKS}|\\p{Nd}{1,16}` +
    `|-{1,16}|\\.{1,16}|\\*{1,16}|_{1,16}|={1,16}|[^${BLANK}])` +
    `| {1,16}(?= )| |\\n{1,16}|\\t{1,16}|[${BLANK}]`,
  "gu",
);

const BORDER = "\udfff"; // between two documents: half a character, which no text has

// The symbols of a document in one of the three units.
const SPLIT = {
  char: (text) => Array.from(text),
  byte: (text) => Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)),
  word: (text) => text.match(WORDS) ?? [],
};
const NOUNS = { char: "characters", byte: "bytes", word: "words" };

// A word without the space before it, or with one if it has none.
const respaced = (word) => (word.startsWith(" ") ? word.slice(1) : ` ${word}`);

class Vocabulary {
  constructor(data) {
    Object.assign(this, data); // which `export.py` describes
    this.indices = new Map(this.symbols.map((symbol, i) => [symbol, i]));
    if (this.border !== null) this.indices.set(BORDER, this.border);
    const excluded = new Set(this.excluded);
    this.drawable = Array.from({ length: this.size }, (_, i) => i).filter((i) => !excluded.has(i));
  }

  // The indices of a text that is read. Throws: Error for symbols that are unknown, unless one represents them.
  read(text) {
    const symbols = this.split(this.fold(text));
    const missing = symbols.filter((symbol) => (this.index_of(symbol) ?? this.unknown) === null);
    if (missing.length) throw this.error(missing);
    return this.started(symbols.map((symbol) => this.index_of(symbol) ?? this.unknown));
  }

  // How a prompt is continued. Returns: the indices that are `read`; the text `begun` that the first symbol of the
  // continuation begins with, and which may be `first`; the prompt as it is `shown`; its symbols that are `unknown`,
  // and whether they were `left_out`. Only a word may be read as the unknown symbol.
  prompt(text) {
    const folded = this.fold(text), all = this.split(folded);
    const { size, begun, first } = this.begun_word(all);
    const symbols = all.slice(0, all.length - size), last = all.slice(all.length - size);
    const unknown = symbols.filter((symbol) => this.index_of(symbol) === null);
    const other = this.unit === "word" ? this.unknown : null;
    const known = other === null ? symbols.filter((symbol) => this.index_of(symbol) !== null) : symbols;
    const kept = [...known, ...last].map((symbol) => (symbol === BORDER ? this.border_text : symbol)).join("");
    const read = this.started(known.map((symbol) => this.index_of(symbol) ?? other));
    const shown = this.unit === "byte" ? folded : kept;
    return { read, begun, first, shown, unknown, left_out: known.length < symbols.length };
  }

  error(missing) {
    const list = Array.from(new Set(missing), (symbol) => JSON.stringify(symbol)).join(", ");
    return new Error(`${NOUNS[this.unit]} outside the vocabulary of ${this.size} symbols: ${list}; leave them out`);
  }

  // A text as the corpus was prepared.
  fold(text) {
    if (this.unit !== "byte") text = text.replaceAll("\r\n", "\n").replaceAll("\ufeff", "");
    const normal = (text) => (this.normalize === "none" ? text : text.normalize(this.normalize.toUpperCase()));
    return this.lowercase ? normal(normal(text).toLowerCase()) : normal(text);
  }

  // The symbols of a text, known or not.
  split(text) {
    const documents = this.separator === null ? [text] : text.split(new RegExp(this.separator));
    const parts = documents.map(SPLIT[this.unit]);
    return parts.flatMap((symbols, i) => (i ? [BORDER, ...symbols] : symbols));
  }

  // Indices after those that a text starts with: the end of a document, or a line feed if there is nothing else.
  started(indices) {
    const is_started = this.border === null ? indices.length : indices[0] === this.border;
    return is_started ? indices : [this.start, ...indices];
  }

  // A prompt's last word may be the beginning of another one, and so may the last two symbols, such as "don" and "'".
  begun_word(symbols) {
    const last = symbols.slice(-1).join(""), two = symbols.slice(-2).join("");
    for (const [size, begun] of [[2, two], [1, last], [1, respaced(last)]]) {
      const first = this.drawable.filter((i) => this.symbols[i]?.startsWith(begun));
      if (this.unit === "word" && symbols.length >= size && first.length) return { size, begun, first };
    }
    return { size: 0, begun: "", first: this.drawable };
  }

  // The index of a symbol, or null. A word that is only known with the space before it, or without, is read as that.
  index_of(symbol) {
    const other = this.unit === "word" ? respaced(symbol) : symbol;
    return this.indices.get(symbol) ?? this.indices.get(other) ?? null;
  }

  // The name of an index: the unknown symbol is U+FFFD, the end of a document is empty.
  name(index) {
    return this.symbols[index] ?? (index === this.border ? "" : "\ufffd");
  }

  // The text of an index that is written, in UTF-8: of bytes not always a whole character.
  bytes(index) {
    if (this.unit === "byte" && index !== this.border) return Uint8Array.of(index);
    return new TextEncoder().encode(index === this.border ? this.border_text : this.symbols[index]);
  }
}
