// In a notebook: one widget, and as many views of it as there are outputs. The state is the widget's, not a view's: a
// hand in one of them, or Python, sets it, and all others follow. anywidget's model and marimo's are the same here.

const PACE = 80; // milliseconds between two words to Python while a hand drags
const UNHEARD = 4000; // after which it is said that Python does not answer
const MORE = `<div class="bar training" role="group" aria-label="Training" hidden>
  <progress max="1" aria-label="Share of the training that is done"></progress><span class="going"></span>
  <button type="button" class="pause">Pause</button><button type="button" class="stop">Stop</button></div>
<p class="unheard" role="status" hidden></p><p class="about"></p>`;

function drawWidget({ model, el }) {
  const host = document.createElement("div"), shadow = host.attachShadow({ mode: "open" });
  host.setAttribute("data-lm-suppress-shortcuts", "true"); // else Jupyter takes the arrow keys for its cells
  host.className = "prunescope-widget";
  shadow.innerHTML = `<style>${PARTS.css}</style>${PARTS.html}`;
  el.append(host);
  fold(shadow.querySelector(".bits"), "Bits and patterns"); // a cell is low: what is asked for less is a click away
  const root = shadow.querySelector(".prunescope"), view = makeView(root), bound = new Bound(model, view, root);
  const dress = () => {
    if (!host.isConnected) return;
    dressed(host);
    view.theme = readTheme(root, false);
    if (view.header) view.repaint();
  };
  const size = new ResizeObserver(dress), look = new MutationObserver(dress);
  root.querySelector(".copy").hidden = true; // a cell has no address to hand on
  root.addEventListener("keydown", (event) => event.stopPropagation());
  size.observe(host); // a view may be drawn before it has its place in the page
  for (const one of [document.documentElement, document.body]) look.observe(one, { attributes: true });
  bound.begin();
  return () => {
    bound.end();
    size.disconnect();
    look.disconnect();
    host.remove();
  };
}

function fold(part, words) {
  const folded = document.createElement("details"), summary = document.createElement("summary");
  summary.textContent = words;
  part.replaceWith(folded);
  folded.append(summary, part);
}

// One view at one model
class Bound {
  constructor(model, view, root) {
    Object.assign(this, { model, view, root, by: Math.random().toString(36).slice(2), told: 0 });
    root.insertAdjacentHTML("afterbegin", MORE);
    this.at = (selector) => root.querySelector(selector);
    for (const what of ["pause", "stop"]) this.at(`.${what}`).addEventListener("click", () => this.press(what));
    view.teller.pace = PACE;
    this.hears = { "change:_packed": () => this.receive(), "change:_frames": () => this.frames(),
      "change:_state": () => this.follow(), "change:_exact": () => view.hear(model.get("_exact")),
      "change:_heard": () => this.answered(), "change:_training": () => this.training() };
  }

  begin() {
    const { model, view, hears } = this;
    for (const [what, act] of Object.entries(hears)) model.on(what, act);
    this.receive();
    for (const answer of model.get("_answers")) view.hear(answer);
    this.frames();
    this.follow();
    this.training();
  }

  end() {
    clearTimeout(this.patience);
    for (const [what, act] of Object.entries(this.hears)) this.model.off(what, act);
    this.view.player.stop();
  }

  receive() {
    const packed = bytesOf(this.model.get("_packed"));
    if (!packed.length) return;
    this.view.receive(packed, (said) => this.say(said));
    if (this.view.cut.formats) this.at("details").open = true;
    const { run, value, repaired } = this.view.header;
    this.at(".about").textContent = `${run}, blocks ranked by ${value}${repaired ? ", repaired after cutting" : ""}`;
  }

  frames() {
    const { view } = this, frames = bytesOf(this.model.get("_frames"));
    if (!frames.length) return;
    view.snapshots.keepFrames(new Uint16Array(frames.slice().buffer), this.model.get("_scale"));
    if (view.player.waiting) view.player.play();
  }

  // What another view or Python has set
  follow() {
    const state = this.model.get("_state");
    if (state.by !== this.by && state.run === this.view.header?.run) this.view.adopt(state);
  }

  // Every word has a number above the last, so that nobody takes an old one for a new one
  say(said) {
    if (!said.run) return;
    const number = (this.model.get("_state").number ?? 0) + 1;
    this.told = number;
    this.model.set("_state", { ...said, by: this.by, number });
    this.model.save_changes();
    clearTimeout(this.patience);
    this.patience = setTimeout(() => this.complain(), UNHEARD);
  }

  answered() {
    if (this.model.get("_heard") < this.told) return;
    clearTimeout(this.patience);
    this.at(".unheard").hidden = true;
  }

  complain() {
    const note = this.at(".unheard");
    note.textContent = "Python does not answer: it is busy, or it was started anew. The map still moves, but view.cut " +
      "and the like stay as they were; run the cell again if this stays.";
    note.hidden = false;
  }

  press(what) {
    this.model.set("_pressed", { what, number: Date.now() });
    this.model.save_changes();
  }

  // {words, share, paused, ended}; {} where nothing is trained
  training() {
    const { words, share = 0, paused, ended } = this.model.get("_training"), bar = this.at(".training");
    bar.hidden = !words;
    if (!words) return;
    bar.querySelector("progress").value = share;
    this.at(".going").textContent = words;
    this.at(".pause").textContent = paused ? "Go on" : "Pause";
    for (const what of ["pause", "stop"]) this.at(`.${what}`).hidden = Boolean(ended);
  }
}

// As Jupyter (a DataView) and marimo give bytes
function bytesOf(data) {
  if (!data) return new Uint8Array();
  return data.buffer ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
}

// The colours of the page around, light or dark, as the app calls them
function dressed(host) {
  const paper = behind(host), ink = hex(getComputedStyle(host.parentElement).color), dark = lightness(paper) < 380;
  const legible = Math.abs(lightness(ink) - lightness(paper)) > 250; // as in the app's own themes where it is not
  const [own, accent, line, tint] = dark ? ["#e7ecf3", "#2b78b8", "#343d4a", "#1c222b"]
    : ["#1b2430", "#0063a3", "#d9dee6", "#f3f5f8"];
  const colours = { "text-color": legible ? ink : own, "background-color": paper, "primary-color": accent,
    "border-color": line, "secondary-background-color": tint,
    font: getComputedStyle(document.body).fontFamily || "sans-serif" };
  for (const [name, value] of Object.entries(colours)) host.style.setProperty(`--st-${name}`, value);
}

// The first background that is one, from here outwards
function behind(element) {
  for (let at = element; at; at = at.parentElement ?? at.getRootNode().host) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/^(transparent|rgba\(.*, 0\))$/.test(colour)) return hex(colour);
  }
  return "#ffffff";
}

// Any colour of CSS as #rrggbb, by painting a dot
function hex(colour) {
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const parts = [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  return `#${parts.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

function lightness(colour) {
  return rgb(colour).reduce((a, b) => a + b);
}
