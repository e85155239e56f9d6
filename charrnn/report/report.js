// Show the model's predictions for a symbol that is pointed at, tapped or selected with the arrow keys.
"use strict";

const rows = JSON.parse(document.getElementById("predictions").textContent);
const panel = document.getElementById("expected");
let chosen = null;
let hovered = null;

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function line([symbol, percent], came) {
  const made = element("div", "", came ? "came" : "");
  const bar = element("span", "", "bar");
  bar.style.width = `${percent}%`;
  made.append(element("span", symbol), bar, element("span", `${percent.toFixed(1)} %`));
  return made;
}

function choose(token) {
  chosen?.classList.remove("chosen");
  chosen = token;
  panel.hidden = token === null;
  if (token === null) return;
  token.classList.add("chosen");
  const [symbol, bits, expected, right] = rows[token.dataset.i];
  const heading = element("p", "");
  heading.append(element("b", symbol), ` came: ${bits.toFixed(1)} bits. Expected:`);
  panel.replaceChildren(heading, ...expected.map((each, i) => line(each, i === right)));
  place(token.getClientRects()[0]);
}

// Place the panel below the symbol, or above it if there is no room.
function place(box) {
  const { offsetWidth: width, offsetHeight: height } = panel;
  const below = box.bottom + 8;
  panel.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
  panel.style.top = `${below + height < innerHeight ? below : Math.max(8, box.top - height - 8)}px`;
}

const token_of = ({ target }) => target.closest?.("[data-i]") ?? null;

// Not pointerover, which also fires if the page scrolls under a pointer at rest, as with the arrow keys.
document.addEventListener("pointermove", (event) => {
  const token = token_of(event);
  if (token !== hovered) choose(token);
  hovered = token;
});
document.addEventListener("click", (event) => {
  choose(token_of(event));
  chosen?.scrollIntoView({ block: "nearest" }); // the panel may cover it on a phone
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") choose(null);
  const sheet = event.target.closest?.(".sheet");
  const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
  if (!sheet || !step) return;
  choose(chosen && sheet.contains(chosen) ? (chosen[step] ?? chosen) : sheet.firstElementChild);
  event.preventDefault();
});
addEventListener("scroll", () => chosen && place(chosen.getClientRects()[0]), { passive: true });
