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

const BORDER = "\ud800"; // between two documents: half a character, which no text has

// The symbols of a text in one of the three units.
const SPLIT = {
  char: (text) => Array.from(text),
  byte: (text) => Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)),
  word: (text) => text.match(WORDS) ?? [],
};

class Vocabulary {
  constructor(data) {
    Object.assign(this, data); // which `export.py` describes
    this.split = SPLIT[this.unit];
    this.indices = new Map(this.symbols.map((symbol, i) => [symbol, i]));
    if (this.border !== null) this.indices.set(BORDER, this.border);
    const excluded = new Set(this.excluded);
    this.drawable = Array.from({ length: this.size }, (_, i) => i).filter((i) => !excluded.has(i));
  }

  // How a prompt is continued. Returns: the indices that are `read`; the text `begun` that the first symbol of the
  // continuation begins with, and which may be `first`; the prompt as it is `shown`; its symbols that are `unknown`,
  // and whether they were `left_out`.
  prompt(text) {
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // which holds the first bytes of a character
    const folded = this.fold(text);
    const documents = this.separator === null ? [folded] : folded.split(this.separator);
    const parts = documents.map((document) => this.split(document));
    const { size, begun, first } = this.begun_word(parts.at(-1));
    const all = parts.flatMap((symbols, i) => (i === 0 ? symbols : [BORDER, ...symbols]));
    const symbols = all.slice(0, all.length - size);
    const known = symbols.filter((symbol) => this.index_of(symbol) !== null);
    const read = known.map((symbol) => this.index_of(symbol));
    if (this.border !== null || !read.length) read.unshift(this.start);
    const unknown = symbols.filter((symbol) => [null, this.unknown].includes(this.index_of(symbol)));
    const kept = known.map((symbol) => (symbol === BORDER ? this.separator : symbol)).join("") + begun;
    const shown = this.unit === "byte" ? folded : kept;
    return { read, begun, first, shown, unknown, left_out: known.length < symbols.length };
  }

  // A text as the corpus was prepared.
  fold(text) {
    const normal = (text) => (this.normalize === "none" ? text : text.normalize(this.normalize.toUpperCase()));
    return this.lowercase ? normal(normal(text).toLowerCase()) : normal(text);
  }

  // A prompt's last word may be the beginning of another one, and so may the last two symbols, such as "don" and "'".
  begun_word(symbols) {
    for (const size of this.unit === "word" ? [2, 1] : []) {
      const begun = symbols.slice(-size).join("");
      const first = this.drawable.filter((i) => this.symbols[i]?.startsWith(begun));
      if (symbols.length >= size && first.length) return { size, begun, first };
    }
    return { size: 0, begun: "", first: this.drawable };
  }

  // The index of a symbol, or null. A word that is only known with the space before it, or without, is read as that,
  // any other unknown one as the symbol of rare words, if there is one.
  index_of(symbol) {
    if (this.indices.has(symbol) || this.unit !== "word") return this.indices.get(symbol) ?? null;
    const other = symbol.startsWith(" ") ? symbol.slice(1) : ` ${symbol}`;
    return this.indices.get(other) ?? this.unknown;
  }

  // The text of a symbol that is written; of bytes as many as are whole characters by now.
  show(index) {
    const text = index === this.border ? this.border_text : this.symbols[index];
    if (this.unit !== "byte") return text;
    const bytes = index === this.border ? new TextEncoder().encode(text) : Uint8Array.of(index);
    return this.decoder.decode(bytes, { stream: true });
  }
}
