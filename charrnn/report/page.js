// The script of the page and of its worker. The worker runs the model and sends the generated text to the page.
"use strict";

function work() {
  let model, pieces, options, remaining, timer;
  let bits; // of symbols whose bytes are not a complete character yet
  let written, seconds;

  const commands = {
    load({ json }) {
      const data = JSON.parse(json);
      model = new LanguageModel(data);
      const { unit, eos } = model.vocabulary;
      postMessage({ ready: { title: data.title, description: data.description, unit, eos } });
    },
    write(message) {
      const prompt = model.vocabulary.prompt(message.text);
      postMessage({ started: prompt });
      options = { seed: message.seed, length: Infinity };
      pieces = model.write(prompt, options);
      bits = 0;
      commands.go_on(message);
    },
    go_on({ temperature, length }) {
      options.temperature = temperature;
      [remaining, written, seconds] = [length, 0, 0];
      write_some();
    },
    stop() {
      remaining = 0;
      write_some();
    },
  };

  function write_some() {
    const start = performance.now();
    const shown = [];
    while (remaining > 0 && performance.now() < start + SLICE_MS) {
      const piece = pieces.next().value;
      if (piece.bits === undefined) continue; // a symbol of the prompt
      bits += piece.bits;
      if (piece.text) {
        shown.push([piece.text, bits]);
        bits = 0;
      }
      remaining--;
      written++;
    }
    seconds += (performance.now() - start) / 1000;
    postMessage({ pieces: shown });
    if (remaining > 0) timer = setTimeout(write_some);
    else postMessage({ ended: { written, seconds } });
  }

  onmessage = ({ data }) => {
    clearTimeout(timer);
    const [[name, argument]] = Object.entries(data);
    commands[name](argument);
  };
}

// Replace control characters by their code points.
function visible(text) {
  const controls = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
  return text.replace(controls, (char) => `[U+${char.charCodeAt().toString(16).toUpperCase().padStart(4, "0")}]`);
}

function show(script) {
  const at = (id) => document.getElementById(id);
  const worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  const set_status = (text) => (at("status").textContent = text);
  let noun;

  // Successive symbols with the same colour are in one element.
  function append(symbol, bits) {
    const level = String(Math.min(8, Math.floor(bits)));
    let last = at("text").lastElementChild;
    if (last?.dataset.bits !== level) {
      last = document.createElement("span");
      last.dataset.bits = level;
      last.append("");
      at("text").append(last);
    }
    last.firstChild.appendData(visible(symbol));
  }

  function set_running(is_running) {
    at("stop").disabled = !is_running;
    at("write").disabled = at("go_on").disabled = is_running;
  }

  const events = {
    ready({ title, description, unit, eos }) {
      noun = NOUNS[unit];
      document.title = at("title").textContent = visible(title);
      at("description").textContent = description;
      at("noun").textContent = noun;
      at("prompt").placeholder = `nothing: the model begins a ${eos === null ? "line" : "document"}`;
      at("write").disabled = false;
      set_status("");
    },
    started({ shown, unknown, left_out }) {
      const prompt = document.createElement("b");
      prompt.textContent = visible(shown);
      at("text").replaceChildren(prompt);
      const list = Array.from(new Set(unknown), (symbol) => symbol.trim() || symbol).join(" ");
      const note = `${left_out ? "Left out" : "Read as rare words"}, unknown to the model: ${visible(list)}`;
      at("notes").textContent = unknown.length ? note : "";
    },
    pieces(pieces) {
      for (const [symbol, bits] of pieces) append(symbol, bits);
    },
    ended({ written, seconds }) {
      set_running(false);
      const rate = seconds > 0 ? `, ${Math.round(written / seconds).toLocaleString("en")} a second` : "";
      set_status(`${written.toLocaleString("en")} ${noun}${rate}`);
    },
  };

  worker.onmessage = ({ data }) => {
    const [[name, argument]] = Object.entries(data);
    events[name](argument);
  };
  worker.onerror = ({ message }) => set_status(`This browser cannot run the model: ${message}`);
  worker.postMessage({ load: { json: at("model").textContent } });

  function send(name) {
    if (!at("form").reportValidity()) return;
    set_running(true);
    set_status("writing …");
    const number = (id) => at(id).valueAsNumber;
    const message = { text: at("prompt").value, temperature: number("temperature"), length: number("length") };
    worker.postMessage({ [name]: { ...message, seed: number("seed") } });
  }

  at("form").onsubmit = (event) => {
    event.preventDefault();
    send("write");
  };
  at("go_on").onclick = () => send("go_on");
  at("stop").onclick = () => worker.postMessage({ stop: {} });
  at("temperature").oninput = () => (at("shown_temperature").textContent = at("temperature").value);
}

if (typeof document === "undefined") work();
else show(document.currentScript.textContent);
