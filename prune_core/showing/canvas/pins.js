// Pinned settings: cuts that are kept, to compare others with them.

const LETTERS = "ABCDEFGH";

// The pins and one more; the same where there are as many as letters. `even`: whether the score is that of such cuts
function withPin(pins, snapshot, cut, counted, even) {
  const used = pins.map((pin) => pin.name), name = [...LETTERS].find((letter) => !used.includes(letter));
  if (!name) return pins;
  const { sparsity, encoder, model, speedup, score } = counted;
  const numbers = {
    sparsity, encoder: Number.isFinite(encoder) ? encoder : null, model, speedup, score: even ? score : null };
  return [...pins, { name, moment: snapshot, cut: settled(cut), numbers }];
}

// Two buttons for each: go there, remove it
function drawPins(place, pins, { goTo, unpin }) {
  place.replaceChildren(...pins.flatMap((pin) => {
    const words = `${pin.name}: ${percent(pin.numbers.sparsity)}`;
    return [chip(words, `Go to pinned setting ${pin.name}`, "chip", () => goTo(pin)),
      chip("×", `Remove pinned setting ${pin.name}`, "chip away", () => unpin(pin))];
  }));
}

function chip(words, label, className, action) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: words, className });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", action);
  return button;
}
