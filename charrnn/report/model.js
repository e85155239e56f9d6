// The network: one symbol in, the logits of the next one out.
//
// Letters in shapes: V symbols, H hidden size, G rows of gates: 4 H of an LSTM, 3 H of a GRU, H of a tanh RNN.
"use strict";

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

// One time step of each kind of cell. `x` (G) is W_ih x + b_ih, and `r` (G) is W_hh h + b_hh: the gates one after
// another, each of length H. The state is updated in place.
const CELLS = {
  lstm(x, r, { h, c }) {
    const H = h.length;
    for (let j = 0; j < H; j++) {
      const input = sigmoid(x[j] + r[j]);
      const forget = sigmoid(x[H + j] + r[H + j]);
      const candidate = Math.tanh(x[2 * H + j] + r[2 * H + j]);
      const output = sigmoid(x[3 * H + j] + r[3 * H + j]);
      c[j] = forget * c[j] + input * candidate;
      h[j] = output * Math.tanh(c[j]);
    }
  },
  gru(x, r, { h }) {
    const H = h.length;
    for (let j = 0; j < H; j++) {
      const reset = sigmoid(x[j] + r[j]);
      const update = sigmoid(x[H + j] + r[H + j]);
      const candidate = Math.tanh(x[2 * H + j] + reset * r[2 * H + j]);
      h[j] = (1 - update) * candidate + update * h[j];
    }
  },
  rnn(x, r, { h }) {
    for (let j = 0; j < h.length; j++) h[j] = Math.tanh(x[j] + r[j]);
  },
};

// Decode an array of numbers from base64.
function decode(base64, NumberArray) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new NumberArray(bytes.buffer);
}

// A matrix of 8-bit integers with one scale per row. In memory four rows are interleaved, as floats, which makes
// products faster.
class Matrix {
  constructor({ columns, integers, scales }) {
    this.columns = columns;
    this.scales = decode(scales, Float32Array);
    const stored = decode(integers, Int8Array), rows = this.scales.length;
    this.integers = new Float32Array(4 * Math.ceil(rows / 4) * columns);
    for (let i = 0, k = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++, k++) this.integers[this.place(i, j)] = stored[k];
    }
  }

  // The index of row i, column j.
  place(i, j) {
    return 4 * ((i >> 2) * this.columns + j) + (i & 3);
  }

  // Row i as an input for `times`.
  row(i) {
    return Float64Array.from({ length: this.columns }, (_, j) => this.scales[i] * this.integers[this.place(i, j)]);
  }

  // W x + bias.
  times(x, bias) {
    const { integers, columns, scales } = this;
    const sums = new Float64Array(integers.length / columns); // rounded up to a multiple of four rows
    for (let i = 0, k = 0; i < sums.length; i += 4) {
      let a = 0, b = 0, c = 0, d = 0;
      for (let j = 0; j < columns; j++, k += 4) {
        a += integers[k] * x[j];
        b += integers[k + 1] * x[j];
        c += integers[k + 2] * x[j];
        d += integers[k + 3] * x[j];
      }
      sums[i] = a;
      sums[i + 1] = b;
      sums[i + 2] = c;
      sums[i + 3] = d;
    }
    return sums.subarray(0, bias.length).map((sum, i) => scales[i] * sum + bias[i]);
  }

  // W x + bias for a one-hot x: column j.
  column(j, bias) {
    return Float64Array.from(bias, (value, i) => value + this.scales[i] * this.integers[this.place(i, j)]);
  }
}

class CharRNN {
  constructor({ cell, hidden_size, embedding, layers, head }) {
    this.step_cell = CELLS[cell];
    this.hidden_size = hidden_size;
    this.embedding = embedding && new Matrix(embedding);
    this.layers = layers.map(({ weight_ih, weight_hh, bias_ih, bias_hh }) => ({
      weight_ih: new Matrix(weight_ih),
      weight_hh: new Matrix(weight_hh),
      bias_ih: decode(bias_ih, Float32Array),
      bias_hh: decode(bias_hh, Float32Array),
    }));
    this.head = { weight: new Matrix(head.weight), bias: decode(head.bias, Float32Array) };
  }

  // The initial state of each layer: zeros.
  initial_state() {
    const zeros = () => new Float64Array(this.hidden_size);
    return this.layers.map(() => ({ h: zeros(), c: zeros() }));
  }

  // Read a symbol and update the state; return the logits (V) of the next symbol.
  step(symbol, state) {
    let x = this.embedding?.row(symbol); // without an embedding the input is one-hot
    for (const [i, { weight_ih, weight_hh, bias_ih, bias_hh }] of this.layers.entries()) {
      const from_input = x ? weight_ih.times(x, bias_ih) : weight_ih.column(symbol, bias_ih);
      this.step_cell(from_input, weight_hh.times(state[i].h, bias_hh), state[i]);
      x = state[i].h;
    }
    return this.head.weight.times(x, this.head.bias);
  }
}
