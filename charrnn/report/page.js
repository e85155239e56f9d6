// The page and its worker, which are one script. The worker holds the model and sends what it writes.
"use strict";

function work() {
  let model, pieces, options, remaining, timer;
  let bits; // of symbols that show no text yet
  let written, seconds;

  const commands = {
    load({ json }) {
      const data = JSON.parse(json);
      model = new LanguageModel(data);
      const { unit, border } = model.vocabulary;
      postMessage({ ready: { title: data.title, description: data.description, unit, border } });
    },
    write(message) {
      const prompt = model.vocabulary.prompt(message.text);
      postMessage({ begun: prompt });
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
    const begin = performance.now();
    const shown = [];
    while (remaining > 0 && performance.now() < begin + SLICE_MS) {
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
    seconds += (performance.now() - begin) / 1000;
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

// Characters that would steer the display are shown by their numbers.
function visible(text) {
  const steering = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
  return text.replace(steering, (char) => `[U+${char.charCodeAt().toString(16).toUpperCase().padStart(4, "0")}]`);
}

function show(script) {
  const at = (id) => document.getElementById(id);
  const worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  const say = (text) => (at("status").textContent = text);
  let noun;

  // Successive symbols of about the same surprisal share an element.
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
    ready({ title, description, unit, border }) {
      noun = NOUNS[unit];
      document.title = at("title").textContent = visible(title);
      at("description").textContent = description;
      at("noun").textContent = noun;
      at("prompt").placeholder = `nothing: the model begins a ${border === null ? "line" : "document"}`;
      at("write").disabled = false;
      say("");
    },
    begun({ shown, unknown, left_out }) {
      const begin = document.createElement("b");
      begin.textContent = visible(shown);
      at("text").replaceChildren(begin);
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
      say(`${written.toLocaleString("en")} ${noun}${rate}`);
    },
  };

  worker.onmessage = ({ data }) => {
    const [[name, argument]] = Object.entries(data);
    events[name](argument);
  };
  worker.onerror = ({ message }) => say(`This browser cannot run the model: ${message}`);
  worker.postMessage({ load: { json: at("model").textContent } });

  function ask(name) {
    if (!at("form").reportValidity()) return;
    set_running(true);
    say("writing …");
    const number = (id) => at(id).valueAsNumber;
    const message = { text: at("prompt").value, temperature: number("temperature"), length: number("length") };
    worker.postMessage({ [name]: { ...message, seed: number("seed") } });
  }

  at("form").onsubmit = (event) => {
    event.preventDefault();
    ask("write");
  };
  at("go_on").onclick = () => ask("go_on");
  at("stop").onclick = () => worker.postMessage({ stop: {} });
  at("temperature").oninput = () => (at("shown_temperature").textContent = at("temperature").value);
}

if (typeof document === "undefined") work();
else show(document.currentScript.textContent);
