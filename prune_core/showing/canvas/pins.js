// Pinned settings: cuts that are kept, to compare others with them.

const PATIENCE = 4000; // milliseconds for which a copied link waits for Python's answer
const LETTERS = "ABCDEFGH";

// The pins and one more; the same where there are as many as letters. `cut`: what it cuts and of which weights;
// `score`: what is known of its score. One that is only so far stands nowhere for good: then as it was counted
function withPin(pins, cut, counted, score) {
  const used = pins.map((pin) => pin.name), name = [...LETTERS].find((letter) => !used.includes(letter));
  if (!name) return pins;
  const { sparsity, encoder, model, speedup, bytes, encoderBytes } = counted;
  const { score: value, how } = score.how === "so far" ? counted : score;
  const numbers = { sparsity, encoder: Number.isFinite(encoder) ? encoder : null, model, speedup, bytes, encoderBytes };
  return [...pins, { name, ...cut, numbers: { ...numbers, score: value ?? null, how: how ?? null } }];
}

// The pins with the exact score of this cut, where one of them is of it; the same where none is
function withAnswer(pins, told) {
  if (told.doing !== "done") return pins;
  const news = ({ thresholds, numbers, ...pin }) =>
    thresholds && (numbers.how !== "exact" || numbers.score !== told.score) &&
    keyOf({ ...pin, run: told.run, scope: pin.cut.scope, formats: pin.cut.formats, thresholds }) === keyOf(told);
  if (!pins.some(news)) return pins;
  return pins.map((pin) => (!news(pin) ? pin : { ...pin, numbers: { ...pin.numbers, score: told.score, how: "exact" } }));
}

// Two buttons for each: go there, remove it. `against`: the name of the one that the cards are compared with
function drawPins(place, pins, against, { goTo, unpin }) {
  place.replaceChildren(...pins.flatMap((pin) => {
    const dtype = pin.dtype ?? "fp32", other = dtype === "fp32" ? "" : ` ${dtype}`;
    const formats = pin.cut.formats ? parseFormats(pin.cut.formats) : null, { encoderBytes } = pin.numbers;
    const words = [`${pin.name}${pin.repaired ? " repaired" : ""}${other}: ${percent(pin.numbers.sparsity)}`];
    if (formats) words.push(shortly(formats));
    if (encoderBytes != null) words.push(size(encoderBytes));
    if (pin.numbers.score != null) words.push(pin.numbers.score.toFixed(3));
    const go = chip(words.join(", "), `Go to pinned setting ${pin.name}`, "chip", () => goTo(pin));
    const how = pin.numbers.score == null ? "" : `, score ${pin.numbers.how ?? "predicted"}`;
    const ranked = (pin.ranking ?? "norm") === "norm" ? "" : `, ranked by ${pin.ranking}`;
    const wanted = (pin.precision ?? "auto") === "auto" ? "" : `, speedup in ${pin.precision}`;
    const stored = formats ? `, ${formatsWords(formats)}` : "";
    const bytes = encoderBytes == null ? "" : `, encoder ${size(encoderBytes)}`;
    go.title = `${pin.repaired ? "Repaired" : "Not repaired"}${ranked}${stored}${bytes}${wanted}` +
      `${other && `, exact score in${other}`}${how}` +
      (pin.name === against ? ". The cards are compared with it" : "");
    go.classList.toggle("chosen", pin.name === against);
    return [go, chip("×", `Remove pinned setting ${pin.name}`, "chip away", () => unpin(pin))];
  }));
}

// '8b 2:4 a8', 'mixed'
function shortly({ scope, weights, activations, embeddings }) {
  const number = scope === "global" ? badgeOf(weights[0]) : "mixed";
  return [number, activations ? "a8" : "", embeddings === 8 ? "e8" : ""].filter(Boolean).join(" ");
}

function chip(words, label, className, action) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: words, className });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", action);
  return button;
}

// The address holds what is in view once Python has answered what it was told last
function copyAddress(button) {
  const say = (words) => {
    button.textContent = words;
    setTimeout(() => (button.textContent = "Copy link"), 1500);
  };
  const pressed = Date.now();
  const write = () => {
    const { prunescopeTold: told = 0, prunescopeAnswered: answered = 0 } = document;
    if (answered < told && Date.now() - pressed < PATIENCE) return setTimeout(write, 50);
    const written = navigator.clipboard?.writeText(location.href) ?? Promise.reject();
    written.then(() => say("Copied"), () => say(copyByHand(location.href, button) ? "Copied" : "Not copied"));
  };
  write();
}

// Where the browser gives no clipboard: over a plain connection that is not this machine
function copyByHand(text, button) {
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  button.focus();
  return copied;
}
