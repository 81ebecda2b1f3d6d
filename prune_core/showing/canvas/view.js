// Draws the encoder's map and the histogram of its norms, and lets a hand move the threshold. Python is told when the hand rests.

const REST = 250; // milliseconds without a movement after which the hand rests
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const BINS = 140;
const KEPT = 64, KEPT_BYTES = 100e6; // moments whose norms stay in the browser

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// 256 shades of the scale, then the colour of what is cut
function palette(cutColour) {
  const found = new Uint8Array(257 * 3), stops = VIRIDIS.map(rgb);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1), low = Math.min(stops.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++) found[3 * i + c] = Math.round(stops[low][c] + (stops[low + 1][c] - stops[low][c]) * (place - low));
  }
  found.set(rgb(cutColour), 768);
  return found;
}

// The shortest decimal that is this float32
function shortest(value) {
  for (let digits = 1; digits < 10; digits++) {
    const found = Number(value.toPrecision(digits));
    if (ROUNDED(found) === value) return found;
  }
  return value;
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;
const times = (value) => (value === Infinity ? "all cut" : `${value.toFixed(2)}x`);
const brief = (value) => (value === 0 ? "0" : value.toPrecision(3).replace(/\.?0+$/, ""));

class View {
  constructor(root) {
    this.root = root;
    this.at = (selector) => root.querySelector(selector);
    this.past = [];
    this.future = [];
    this.pins = [];
    this.kept = new Map(); // id -> header and norms of a moment, as they came
    this.frames = null;
    this.wantsFrames = false;
    this.playing = null;
    this.dirty = false;
    this.panels = new Map();
    this.listen();
  }

  // ---- what Python sends

  receive(bytes, tell) {
    this.tellPython = tell;
    const { id, header, now, norms, frames } = unpack(bytes);
    if (header) this.keep(id, { header, norms });
    if (!this.kept.has(id)) return this.askForAll();
    if (frames) {
      this.frames = { values: frames, scale: now.frames.scale };
      this.wantsFrames = false;
    }
    const sent = this.kept.get(id).header, other = sent.run !== this.header?.run;
    const commanded = now.command && now.command.id !== this.commandSeen;
    if (other) {
      this.use(id);
      this.moment = sent.moment;
      if (!frames) this.frames = null;
      this.past = [];
      this.future = [];
      this.pins = sent.start.pins ?? [];
      this.zoom = sent.start.zoom ?? null;
      this.cut = this.complete(sent.start.cut);
      this.key = sent.start.key ?? null;
      this.commandSeen = now.command?.id;
      this.past.push(this.copy());
      this.fill();
    } else if (id !== this.id && (sent.moment === this.moment || this.header.moment !== this.moment)) {
      this.use(id);
      if (sent.moment === this.moment) this.cut = this.complete(this.cut);
      else this.show(this.moment); // a hand has moved on since it asked
      this.fill();
    }
    this.present = Boolean(now.present);
    if (commanded && !other) {
      this.commandSeen = now.command.id;
      this.cut = this.complete(now.command.cut);
      this.key = null;
      this.fill();
      this.commit();
    }
    this.root.classList.toggle("present", this.present);
    this.theme();
    this.paint();
    if (this.playWhenReady && this.frames) this.play();
    if (other) requestAnimationFrame(() => this.tell()); // it stands there: the page may go on with what is slower to draw
  }

  // What came stays here, the oldest goes first: going back to a moment needs no server
  keep(id, found) {
    this.kept.delete(id);
    this.kept.set(id, found);
    const room = Math.min(KEPT, Math.max(2, Math.floor(KEPT_BYTES / found.norms.byteLength)));
    for (const oldest of [...this.kept.keys()].slice(0, -room)) if (oldest !== this.id) this.kept.delete(oldest);
  }

  // Python takes this browser for having what it has not (a new element): it is told what is really here
  askForAll() {
    this.told = null;
    if (this.header) this.tell();
    else this.say({ has: [] });
  }

  // Header and norms as Python has sent them are what is shown and counted
  use(id) {
    const { header, norms } = this.kept.get(id);
    this.id = id;
    this.header = header;
    this.exact = norms;
    this.model = makeModel(header, norms);
    this.shades = new Uint8Array(header.groups);
    this.shade();
    this.binned = null;
  }

  // A cut by share follows the norms; one by thresholds stays where it is
  complete(cut) {
    const keys = scopeKeys(this.header, cut.scope);
    if (cut.share != null) return { ...cut, thresholds: thresholdsFor(this.model, cut.scope, cut.share) };
    const given = cut.thresholds ?? {};
    return { scope: cut.scope, share: null, thresholds: Object.fromEntries(keys.map((key) => [key, ROUNDED(given[key] ?? 0)])) };
  }

  copy() {
    return JSON.parse(JSON.stringify(this.cut));
  }

  theme() {
    const style = getComputedStyle(this.root), read = (name, other) => style.getPropertyValue(name).trim() || other;
    this.ink = read("--st-text-color", "#1b2430");
    this.paper = read("--st-background-color", "#ffffff");
    this.accent = read("--st-primary-color", "#0063a3");
    this.font = read("--st-font", "sans-serif");
    const dark = /^#/.test(this.paper) && rgb(this.paper).reduce((a, b) => a + b) < 380;
    this.quiet = dark ? "#9aa4b2" : "#59626f";
    this.cutColour = dark ? "#20262e" : "#dcd7f0"; // on the map: near the page, and nowhere near the scale
    this.goneColour = dark ? "#736c8c" : "#c9c2e6"; // in the histogram: to be seen against the page
    this.keptColour = dark ? "#5aa9e6" : "#2e86c8";
    this.colours = palette(this.cutColour);
    this.root.style.setProperty("--cut", this.cutColour);
    this.root.style.setProperty("--kept", this.keptColour);
    this.root.style.setProperty("--quiet", this.quiet);
  }

  shade() {
    const { norms, header } = this.model, scale = 255 / header.high;
    for (let i = 0; i < norms.length; i++) this.shades[i] = Math.min(255, Math.round(norms[i] * scale));
  }

  // ---- moving the threshold

  // The one key that the handle moves; null where it moves all of them together
  get target() {
    return this.cut.scope === "global" ? "all" : this.key;
  }

  setThreshold(value) {
    if (this.target === null) return this.setShare(shareUpTo(this.model, "global", "all", value));
    this.cut = { ...this.cut, share: null, thresholds: { ...this.cut.thresholds, [this.target]: ROUNDED(Math.max(0, value)) } };
    this.changed();
  }

  setShare(share) {
    share = Math.min(0.999, Math.max(0, share));
    if (this.cut.scope === "global" || this.target === null) this.cut = this.complete({ scope: this.cut.scope, share });
    else this.cut = { ...this.cut, share: null, thresholds: { ...this.cut.thresholds, [this.target]: thresholdFor(this.model, this.cut.scope, this.target, share) } };
    this.changed();
  }

  // The share that the handle stands for
  get share() {
    if (this.cut.share != null) return this.cut.share;
    if (this.target === null) return this.found?.sparsity ?? 0;
    return shareUpTo(this.model, this.cut.scope, this.target, this.cut.thresholds[this.target]);
  }

  // The norm at which the handle stands
  get handle() {
    return this.target === null ? thresholdFor(this.model, "global", "all", this.share) : this.cut.thresholds[this.target];
  }

  setScope(scope) {
    if (scope === this.cut.scope) return;
    const { sparsity } = this.found;
    this.key = null;
    this.cut = this.complete({ scope, share: Math.round(sparsity * 1000) / 1000 });
    this.fill();
    this.changed();
    this.commit();
  }

  changed() {
    this.repaint();
    announce(false);
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.tell(), REST);
  }

  // The hand has left: what can be undone, and what Python is told
  commit() {
    clearTimeout(this.resting);
    const now = this.copy();
    if (JSON.stringify(now) !== JSON.stringify(this.past.at(-1))) {
      this.past.push(now);
      if (this.past.length > 200) this.past.shift();
      this.future = [];
    }
    this.repaint();
    this.tell();
  }

  undo() {
    if (this.past.length < 2) return;
    this.future.push(this.past.pop());
    this.go(this.past.at(-1));
  }

  redo() {
    if (!this.future.length) return;
    this.past.push(this.future.pop());
    this.go(this.past.at(-1));
  }

  go(cut) {
    if (cut.scope !== this.cut.scope) this.key = null;
    this.cut = this.complete(JSON.parse(JSON.stringify(cut)));
    this.fill();
    this.repaint();
    this.tell();
  }

  tell() {
    clearTimeout(this.resting);
    const thresholds = this.cut.share == null ? Object.fromEntries(Object.entries(this.cut.thresholds).map(([key, t]) => [key, shortest(ROUNDED(t))])) : null;
    const view = { run: this.header.run, moment: this.moment, cut: { scope: this.cut.scope, share: this.cut.share, thresholds }, key: this.key,
      zoom: this.zoom ?? null, pins: this.pins, frames: this.wantsFrames ? "want" : this.frames ? "have" : "none" };
    const text = JSON.stringify(view);
    if (text === this.told) return;
    this.told = text;
    this.say({ ...view, has: [...this.kept.keys()] });
    announce(true);
  }

  say(view) {
    document.prunescopeTold = Date.now();
    this.tellPython({ ...view, number: document.prunescopeTold });
  }

  // ---- pins

  pin() {
    const used = this.pins.map((pin) => pin.name), name = [..."ABCDEFGH"].find((letter) => !used.includes(letter));
    if (!name) return;
    const thresholds = this.cut.share == null ? this.cut.thresholds : null;
    const { sparsity, encoder, model, speedup, score } = this.found;
    this.pins = [...this.pins, { name, moment: this.moment, cut: { scope: this.cut.scope, share: this.cut.share, thresholds },
      numbers: { sparsity, encoder: Number.isFinite(encoder) ? encoder : null, model, speedup, score: alike(this.model.header, this.cut) ? score : null } }];
    this.fill();
    this.commit();
  }

  unpin(name) {
    this.pins = this.pins.filter((pin) => pin.name !== name);
    this.fill();
    this.commit();
  }

  recall(pin) {
    this.stop();
    this.key = null;
    this.cut = this.complete(JSON.parse(JSON.stringify(pin.cut)));
    if (pin.moment !== this.moment) this.show(pin.moment);
    this.fill();
    this.commit();
  }

  // ---- the trajectory

  // Show another moment: at once where its norms or its frame are here, else when Python has sent it
  show(moment) {
    this.moment = Math.max(0, Math.min(this.header.moments.length - 1, moment));
    const known = this.playing === null && this.keptAt(this.moment);
    if (known && known !== this.id) this.use(known);
    if (this.moment === this.header.moment) this.useNorms(this.exact);
    else if (this.frames) {
      const { values, scale } = this.frames, found = new Float32Array(this.header.groups), from = this.moment * found.length;
      for (let i = 0; i < found.length; i++) found[i] = (values[from + i] / 65535) * scale;
      this.useNorms(found);
    }
    this.fillMoment();
    this.repaint();
  }

  // The id under which this moment came last, ranked and predicted as what is in view
  keptAt(moment) {
    const { run, kind, moments } = this.header;
    return [...this.kept].findLast(([, { header }]) => header.moment === moment && header.run === run && header.kind === kind && header.moments.length === moments.length)?.[0];
  }

  useNorms(norms) {
    this.model.norms = norms;
    this.model.sorted.clear();
    this.model.header = norms === this.exact ? this.header : { ...this.header, value: "norm", surfaces: this.header.moments[this.moment].surfaces };
    this.binned = null;
    this.shade();
    this.cut = this.complete(this.cut);
  }

  play() {
    this.playWhenReady = false;
    if (!this.frames) {
      this.playWhenReady = this.wantsFrames = true;
      this.fillMoment();
      this.tell();
      return;
    }
    if (this.moment >= this.header.moments.length - 1) this.show(0);
    this.playing = setInterval(() => {
      if (this.moment >= this.header.moments.length - 1) return this.stop();
      this.show(this.moment + 1);
    }, 420);
    this.fillMoment();
  }

  stop() {
    this.playWhenReady = false;
    if (this.playing === null) return;
    clearInterval(this.playing);
    this.playing = null;
    this.fillMoment();
    this.tell();
  }

  step(by) {
    this.stop();
    this.show(this.moment + by);
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.tell(), REST);
  }

  // ---- controls

  listen() {
    const on = (selector, kind, action) => this.at(selector).addEventListener(kind, action);
    const histogram = this.at(".histogram"), map = this.at(".map");
    let held = false;
    const follow = (event) => {
      const box = histogram.getBoundingClientRect();
      this.setThreshold(this.normAt(event.clientX - box.left));
    };
    on(".histogram", "pointerdown", (event) => {
      if (event.button) return;
      held = true;
      histogram.setPointerCapture(event.pointerId);
      this.at(".handle").focus({ preventScroll: true });
      this.stop();
      follow(event);
      event.preventDefault();
    });
    on(".histogram", "pointermove", (event) => held && follow(event));
    for (const kind of ["pointerup", "pointercancel"])
      on(".histogram", kind, () => {
        if (held) this.commit();
        held = false;
      });
    on(".handle", "keydown", (event) => {
      const steps = { ArrowRight: 0.0025, ArrowUp: 0.0025, ArrowLeft: -0.0025, ArrowDown: -0.0025, PageUp: 0.05, PageDown: -0.05 };
      const to = event.key in steps ? this.share + steps[event.key] : { Home: 0, End: 0.99 }[event.key];
      if (to === undefined || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.setShare(Math.round(to * 1e6) / 1e6);
    });
    on(".handle", "keyup", (event) => /Arrow|Page|Home|End/.test(event.key) && this.commit());
    on(".share", "change", (event) => event.target.value !== "" && (this.setShare(Number(event.target.value) / 100), this.commit()));
    on(".norm", "change", (event) => event.target.value !== "" && (this.setThreshold(Number(event.target.value)), this.commit()));
    on(".key", "change", (event) => ((this.key = event.target.value || null), (this.binned = null), this.fill(), this.commit()));
    for (const button of this.root.querySelectorAll("[data-scope]")) button.addEventListener("click", () => this.setScope(button.dataset.scope));
    on(".undo", "click", () => this.undo());
    on(".redo", "click", () => this.redo());
    on(".reset", "click", () => ((this.key = null), (this.cut = this.complete(this.header.usual)), this.fill(), this.commit()));
    on(".pin", "click", () => this.pin());
    on(".play", "click", () => (this.playing === null && !this.playWhenReady ? this.play() : this.stop()));
    on(".back", "click", () => this.step(-1));
    on(".forward", "click", () => this.step(1));
    on(".moment", "input", (event) => {
      this.stop();
      this.show(Number(event.target.value));
      clearTimeout(this.resting);
      this.resting = setTimeout(() => this.tell(), REST);
    });
    on(".zoom", "change", (event) => this.setZoom(event.target.value || null));
    on(".whole", "click", () => this.setZoom(null));
    on(".png", "click", () => this.save("png"));
    on(".svg", "click", () => this.save("svg"));
    on(".csv", "click", () => this.save("csv"));
    map.addEventListener("click", (event) => {
      const here = this.groupAt(event);
      if (here && !this.zoom) this.setZoom(here.matrix.name);
    });
    map.addEventListener("pointermove", (event) => this.hover(event));
    map.addEventListener("pointerleave", () => (this.at(".tip").hidden = true));
    this.root.addEventListener("keydown", (event) => {
      const letter = event.key.toLowerCase();
      if ((event.ctrlKey || event.metaKey) && (letter === "z" || letter === "y")) {
        if (letter === "y" || event.shiftKey) this.redo();
        else this.undo();
        event.preventDefault();
      } else if (event.key === "Escape" && this.zoom) this.setZoom(null);
    });
    this.sizes = new ResizeObserver(() => this.header && this.repaint());
    this.sizes.observe(this.root);
  }

  setZoom(name) {
    this.zoom = name;
    this.fill();
    this.repaint();
    this.tell();
  }

  // Everything but numbers and pictures: what changes with a click, not in a drag
  fill() {
    const { header, cut } = this;
    for (const button of this.root.querySelectorAll("[data-scope]")) button.setAttribute("aria-pressed", button.dataset.scope === cut.scope);
    const select = this.at(".key"), keys = cut.scope === "global" ? [] : scopeKeys(header, cut.scope);
    const words = { layer: "all layers alike", type: "all types alike", matrix: "all matrices alike" };
    options(select, [["", words[cut.scope] ?? "one for all"], ...keys.map((key) => [key, cut.scope === "matrix" ? nameOf(header, key) : key])], this.key ?? "");
    select.disabled = !keys.length;
    options(this.at(".zoom"), [["", "whole encoder"], ...header.matrices.map((m) => [m.name, `layer ${m.layer} ${m.type}`])], this.zoom ?? "");
    this.at(".whole").hidden = !this.zoom;
    const pins = this.at(".pins");
    pins.replaceChildren(...this.pins.flatMap((pin) => {
      const go = button(`${pin.name}: ${percent(pin.numbers.sparsity)}`, `Go to pinned setting ${pin.name}`, () => this.recall(pin));
      const away = button("×", `Remove pinned setting ${pin.name}`, () => this.unpin(pin.name));
      go.className = "chip";
      away.className = "chip away";
      return [go, away];
    }));
    this.binned = null;
    this.fillMoment();
  }

  fillMoment() {
    const { moments } = this.header, range = this.at(".moment"), here = moments[this.moment];
    range.max = moments.length - 1;
    range.value = this.moment;
    range.setAttribute("aria-valuetext", here.label);
    this.at(".when").textContent = this.playWhenReady ? "loading the moments …" : here.label;
    const play = this.at(".play"), going = this.playing !== null || this.playWhenReady;
    play.textContent = going ? "❚❚" : "▶";
    play.setAttribute("aria-label", going ? "Pause" : "Play the reweighting");
    play.disabled = this.header.playable === false;
    play.title = play.disabled ? "Too large to be played at once: step through it, or drag" : "";
    this.at(".back").disabled = this.moment === 0;
    this.at(".forward").disabled = this.moment === moments.length - 1;
    this.at(".player").hidden = moments.length < 2;
    this.at(".legend .top").textContent = `≥ ${brief(this.header.high)}`;
    const marks = this.at(".marks");
    marks.replaceChildren(...moments.flatMap((moment, number) => {
      if (!moment.milestone && !moment.end) return [];
      const mark = document.createElement("i");
      mark.className = moment.end ? "end" : "milestone";
      mark.style.left = `${(100 * number) / Math.max(1, moments.length - 1)}%`;
      mark.title = moment.label;
      return [mark];
    }));
  }

  // ---- pictures

  repaint() {
    if (this.dirty) return;
    this.dirty = true;
    requestAnimationFrame(() => {
      this.dirty = false;
      this.paint();
    });
  }

  paint() {
    if (!this.header || !this.root.isConnected || !this.root.clientWidth) return;
    const start = performance.now();
    this.found = numbers(this.model, this.cut);
    this.write();
    this.drawHistogram();
    this.drawMap();
    this.root.dataset.drawMs = (performance.now() - start).toFixed(2);
  }

  write() {
    const { found } = this, beside = this.pins.at(-1);
    const shown = { sparsity: percent, encoder: times, model: times, speedup: times, score: (v) => v.toFixed(3) };
    for (const [name, words] of Object.entries(shown)) {
      const card = this.at(`[data-number=${name}]`), value = found[name], small = card.querySelector(".beside"), other = beside?.numbers[name];
      const unlike = name === "score" && !alike(this.model.header, this.cut) && value !== undefined;
      card.querySelector(".value").textContent = value === undefined ? "–" : words(value);
      card.classList.toggle("unlike", unlike);
      if (unlike) small.textContent = "for an even cut";
      else if (other != null && value !== undefined && Number.isFinite(value)) small.textContent = `${beside.name} ${words(other)}, ${difference(name, value - other)}`;
      else if (name === "score" && value !== undefined) small.textContent = `${found.low.toFixed(3)} – ${found.high.toFixed(3)}`;
      else small.textContent = card.dataset.note ?? "";
    }
    // Not `disabled`: a button that can no longer be pressed would lose the focus, and the keys with it
    this.at(".undo").ariaDisabled = this.past.length < 2;
    this.at(".redo").ariaDisabled = !this.future.length;
    const handle = this.at(".handle"), one = this.target !== null, share = this.share;
    handle.setAttribute("aria-valuenow", (100 * share).toFixed(2));
    handle.setAttribute("aria-valuetext", `${percent(share)} cut${one ? `, threshold ${brief(this.handle)}` : ""}`);
    const set = (input, value) => this.root.getRootNode().activeElement !== input && (input.value = value);
    set(this.at(".share"), (100 * share).toFixed(2).replace(/\.?0+$/, ""));
    const norm = this.at(".norm");
    norm.disabled = !one;
    set(norm, one ? shortest(ROUNDED(this.handle)) : "");
  }

  // Device pixels of a canvas, its context scaled to CSS pixels
  context(canvas, height) {
    const width = canvas.parentElement.clientWidth, ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = `${this.present ? 15 : 12}px ${this.font}`;
    context.textBaseline = "middle";
    return { context, width, height, ratio };
  }

  // ---- the histogram

  bins() {
    if (this.binned) return this.binned;
    const { norms } = this.model, shown = this.header.matrices.map((m, number) => [m, number]).filter(([m]) => this.target === null || scopeKey(m, this.cut.scope) === this.target);
    // From the 0.1% to the 99.9% quantile of what is not zero, of a sample; what is beyond goes into the last bins
    const sample = [], every = Math.max(1, Math.floor(shown.reduce((sum, [m]) => sum + m.count, 0) / 20000));
    for (const [m] of shown) for (let i = m.at; i < m.at + m.count; i += every) if (norms[i] > 0) sample.push(norms[i]);
    sample.sort((a, b) => a - b);
    const at = (share) => sample[Math.min(sample.length - 1, Math.floor(share * sample.length))];
    let [low, high] = sample.length ? [at(0.001), at(0.999)] : [this.header.high / 10, this.header.high];
    high = Math.max(high, this.header.high) * 1.05;
    low = Math.max(Math.min(low, high / 3), high / 300) * 0.98;
    const scale = BINS / Math.log(high / low || 2), counts = shown.map(([m]) => {
      const found = new Int32Array(BINS + 1); // the first: exactly zero
      for (let i = m.at; i < m.at + m.count; i++)
        found[norms[i] > 0 ? 1 + Math.max(0, Math.min(BINS - 1, Math.floor(Math.log(norms[i] / low) * scale))) : 0]++;
      return found;
    });
    const sums = Array.from({ length: BINS + 1 }, (_, bin) => counts.reduce((sum, one) => sum + one[bin], 0));
    return (this.binned = { shown, counts, sums, low, high, scale, highest: Math.max(...sums.slice(1), 1), all: total(sums) });
  }

  get plot() {
    const width = this.at(".histogram").clientWidth;
    return { zero: 8, zeroWide: 22, left: 44, wide: width - 54 };
  }

  xOf(norm) {
    const { low, scale } = this.bins(), { left, wide, zero, zeroWide } = this.plot;
    if (norm <= 0) return zero + zeroWide + 5;
    return left + wide * Math.max(0, Math.min(1, (Math.log(norm / low) * scale) / BINS));
  }

  normAt(x) {
    const { low, scale } = this.bins(), { left, wide } = this.plot;
    if (x < left - 6) return 0;
    return low * Math.exp((Math.max(0, Math.min(1, (x - left) / wide)) * BINS) / scale);
  }

  drawHistogram() {
    const tall = this.present ? 150 : 118, { context, width } = this.context(this.at(".histogram"), tall);
    const { shown, counts, sums, low, high, scale, highest, all } = this.bins(), { left, wide, zero, zeroWide } = this.plot;
    const bottom = tall - (this.present ? 26 : 20), top = 22, height = (count) => (bottom - top) * Math.sqrt(Math.min(1, count / highest));
    const cutIn = new Int32Array(BINS + 1);
    shown.forEach(([m, number], at) => {
      let left = m.count - this.model.counts[number]; // what is cut lies in the lowest bins
      for (let bin = 0; bin <= BINS && left > 0; bin++) {
        const here = Math.min(left, counts[at][bin]);
        cutIn[bin] += here;
        left -= here;
      }
    });
    const bar = (x, wide, bin) => {
      const whole = height(sums[bin]), part = sums[bin] ? (whole * cutIn[bin]) / sums[bin] : 0;
      context.fillStyle = this.keptColour;
      context.fillRect(x, bottom - whole, wide, whole - part);
      context.fillStyle = this.goneColour;
      context.fillRect(x, bottom - part, wide, part);
    };
    const step = wide / BINS;
    for (let bin = 1; bin <= BINS; bin++) bar(left + (bin - 1) * step, Math.max(0.5, step - 0.4), bin);
    bar(zero, zeroWide, 0);
    context.fillStyle = this.quiet;
    context.textAlign = "center";
    context.fillText("0", zero + zeroWide / 2, bottom + 10);
    if (sums[0]) context.fillText(`${((100 * sums[0]) / all).toFixed(0)}%`, zero + zeroWide / 2, bottom - height(sums[0]) - 8);
    for (let power = -4; power < 4; power++)
      for (const digit of [1, 2, 5]) {
        const norm = digit * 10 ** power, x = this.xOf(norm);
        if (norm >= low && norm <= high * 1.001) context.fillText(brief(norm), Math.min(x, width - 14), bottom + 10);
      }
    context.strokeStyle = this.quiet;
    context.globalAlpha = 0.5;
    context.beginPath();
    context.moveTo(zero, bottom + 0.5);
    context.lineTo(left + wide, bottom + 0.5);
    context.stroke();
    context.globalAlpha = 1;
    this.drawHandle(context, width, bottom);
  }

  drawHandle(context, width, bottom) {
    const value = this.handle, x = this.xOf(value), grip = this.at(".handle");
    context.strokeStyle = context.fillStyle = this.ink;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x, 14);
    context.lineTo(x, bottom);
    context.stroke();
    const words = this.target !== null ? `cut up to ${brief(value)}` : this.cut.share != null ? `${percent(this.share)} of each ${this.cut.scope}` : `${percent(this.share)} in all`;
    const right = x + 20 + context.measureText(words).width < width;
    context.textAlign = right ? "left" : "right";
    context.fillText(words, x + (right ? 16 : -16), 9);
    grip.style.left = `${x}px`;
  }

  // ---- the map

  get shape() {
    const { header } = this, width = this.at(".map").clientWidth, present = this.present ? 1.3 : 1;
    const layers = [...new Set(header.matrices.map((m) => m.layer))], types = [...new Set(header.matrices.map((m) => m.type))];
    const aside = 58 * present, gap = layers.length > 12 ? 3 : 15 * present, top = 44 * present, between = 8;
    const room = this.present ? Math.max(300, innerHeight - 630) - layers.length * gap : 430; // in a room the whole map fits the screen
    const high = Math.max(12, Math.min(56 * present, room / layers.length)), wide = (width - aside - between * (types.length - 1)) / types.length;
    return { layers, types, aside, gap, top, between, high, wide, width, height: top + layers.length * (high + gap) + 6 };
  }

  // Matrix -> where its panel lies, in CSS pixels
  places() {
    const { layers, types, aside, gap, top, between, high, wide, width, height } = this.shape;
    if (this.zoom) return [[this.matrix(this.zoom), { x: 0, y: top + 4, w: width, h: height - top - 30 }]];
    return this.header.matrices.map((m) => [m, { x: aside + types.indexOf(m.type) * (wide + between), y: top + layers.indexOf(m.layer) * (high + gap), w: wide, h: high }]);
  }

  matrix(name) {
    return this.header.matrices.find((m) => m.name === name) ?? this.header.matrices[0];
  }

  drawMap() {
    const shape = this.shape, canvas = this.at(".map"), { context, ratio } = this.context(canvas, shape.height);
    context.imageSmoothingEnabled = false;
    const cutOf = (m) => 1 - this.model.counts[this.header.matrices.indexOf(m)] / m.count;
    for (const [m, { x, y, w, h }] of this.places()) context.drawImage(this.panel(m, Math.round(w * ratio), Math.round(h * ratio)), x, y, w, h);
    context.fillStyle = this.quiet;
    if (this.zoom) {
      const m = this.matrix(this.zoom);
      context.fillStyle = this.ink;
      context.textAlign = "left";
      context.fillText(`layer ${m.layer} ${m.type} · ${m.m} outputs × ${m.n} inputs · ${m.count.toLocaleString("en")} blocks · ${percent(cutOf(m))} cut`, 0, shape.top - 14);
      context.fillStyle = this.quiet;
      context.fillText(`${m.down} strips down × ${m.across} groups across; hover for the norm of a block`, 0, shape.height - 12);
      return;
    }
    context.textAlign = "center";
    shape.types.forEach((type, at) => {
      const lines = type.length > 9 && type.includes(".") ? type.split(".").map((part, i) => (i ? part : part + ".")) : [type];
      lines.forEach((line, i) => context.fillText(line, shape.aside + at * (shape.wide + shape.between) + shape.wide / 2, shape.top - 15 * (shape.gap > 4 ? 1.4 : 1) - (this.present ? 17 : 13) * (lines.length - 1 - i)));
    });
    context.textAlign = "left";
    for (const [m, { x, y, h }] of this.places()) {
      if (x === shape.aside) context.fillText(`layer ${m.layer}`, 0, y + h / 2);
      if (shape.gap > 4) context.fillText(`${(100 * cutOf(m)).toFixed(0)}% cut`, x, y - 8);
    }
    canvas.setAttribute("aria-label", `Block norms of ${shape.layers.length} layers: ${percent(this.found.sparsity)} is cut`);
  }

  // One matrix as a picture of at most w x h pixels, neighbouring blocks averaged where there are more
  panel(m, w, h) {
    const tw = Math.min(m.across, w), th = Math.min(m.down, h), name = `${m.name} ${tw} ${th}`;
    let kept = this.panels.get(m.name);
    if (kept?.name !== name) {
      const canvas = document.createElement("canvas");
      canvas.width = tw;
      canvas.height = th;
      const context = canvas.getContext("2d"), image = context.createImageData(tw, th);
      image.data.fill(255);
      kept = { name, canvas, context, image, sums: tw < m.across || th < m.down ? new Uint32Array(4 * tw * th) : null,
        columns: Uint32Array.from({ length: m.across }, (_, j) => 4 * Math.min(tw - 1, Math.floor((j * tw) / m.across))) };
      this.panels.set(m.name, kept);
    }
    const { sums, image, columns } = kept, { colours, shades } = this, stays = this.model.kept, data = image.data;
    if (sums) {
      sums.fill(0);
      for (let i = 0, at = m.at; i < m.down; i++) {
        const row = 4 * tw * Math.min(th - 1, Math.floor((i * th) / m.down));
        for (let j = 0; j < m.across; j++, at++) {
          const from = stays[at] ? 3 * shades[at] : 768, to = row + columns[j];
          sums[to] += colours[from];
          sums[to + 1] += colours[from + 1];
          sums[to + 2] += colours[from + 2];
          sums[to + 3]++;
        }
      }
      for (let to = 0; to < data.length; to += 4) {
        const count = sums[to + 3];
        data[to] = sums[to] / count;
        data[to + 1] = sums[to + 1] / count;
        data[to + 2] = sums[to + 2] / count;
      }
    } else
      for (let at = m.at, to = 0; at < m.at + m.count; at++, to += 4) {
        const from = stays[at] ? 3 * shades[at] : 768;
        data[to] = colours[from];
        data[to + 1] = colours[from + 1];
        data[to + 2] = colours[from + 2];
      }
    kept.context.putImageData(image, 0, 0);
    return kept.canvas;
  }

  groupAt(event) {
    const box = this.at(".map").getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    for (const [matrix, place] of this.places()) {
      const across = (x - place.x) / place.w, down = (y - place.y) / place.h;
      if (across >= 0 && across < 1 && down >= 0 && down < 1) return { matrix, i: Math.floor(down * matrix.down), j: Math.floor(across * matrix.across) };
    }
    return null;
  }

  hover(event) {
    const tip = this.at(".tip"), here = this.groupAt(event);
    tip.hidden = !here;
    if (!here) return;
    const { matrix: m, i, j } = here, at = m.at + i * m.across + j, span = (word, from, count) => (count === 1 ? `${word} ${from}` : `${word}s ${from}–${from + count - 1}`);
    tip.textContent = `layer ${m.layer} ${m.type}\n${span("row", i * m.rows, m.rows)}, ${span("column", j * m.cols, m.cols)}\n${this.model.header.value ?? "norm"} ${this.model.norms[at].toPrecision(5)}, ${this.model.kept[at] ? "kept" : "cut"}`;
    const box = this.root.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${event.clientY - box.top + 16}px`;
  }

  // ---- downloads: the map as it stands

  save(kind) {
    const canvas = this.at(".map"), name = `${this.header.run}-${this.header.moments[this.moment].label}`.replace(/[^\w.-]+/g, "-");
    if (kind === "csv") return offer(new Blob(this.rows(), { type: "text/csv" }), `${name}-norms.csv`);
    if (kind === "svg") return offer(new Blob([this.vector()], { type: "image/svg+xml" }), `${name}.svg`);
    const whole = document.createElement("canvas"), context = whole.getContext("2d");
    [whole.width, whole.height] = [canvas.width, canvas.height];
    context.fillStyle = this.paper;
    context.fillRect(0, 0, whole.width, whole.height);
    context.drawImage(canvas, 0, 0);
    whole.toBlob((blob) => offer(blob, `${name}.png`));
  }

  // Every block: where it is, its norm, whether it is kept
  rows() {
    const lines = ["layer,matrix,strip,group,norm,kept\n"];
    for (const m of this.zoom ? [this.matrix(this.zoom)] : this.header.matrices)
      for (let i = 0, at = m.at; i < m.down; i++) {
        let text = "";
        for (let j = 0; j < m.across; j++, at++) text += `${m.layer},${m.type},${i},${j},${shortest(this.model.norms[at])},${this.model.kept[at]}\n`;
        lines.push(text);
      }
    return lines;
  }

  vector() {
    const shape = this.shape, plain = (text) => text.replace(/[<>&"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
    const parts = this.places().flatMap(([m, { x, y, w, h }]) => {
      const share = percent(1 - this.model.counts[this.header.matrices.indexOf(m)] / m.count);
      return [`<image x="${x}" y="${y}" width="${w}" height="${h}" preserveAspectRatio="none" style="image-rendering:pixelated" href="${this.panel(m, m.across, m.down).toDataURL()}"/>`,
        `<text x="${x}" y="${y - 4}">${plain(this.zoom || x === shape.aside ? `layer ${m.layer} ` : "")}${plain(m.type)} ${share} cut</text>`];
    });
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${shape.width} ${shape.height}" font-family="sans-serif" font-size="9" fill="${this.ink}">` +
      `<rect width="100%" height="100%" fill="${this.paper}"/>${parts.join("")}</svg>`;
  }
}

// So that other parts of the page can wait until the hand rests
function announce(rests) {
  document.dispatchEvent(new CustomEvent("prunescope-map", { detail: { rests } }));
}

function nameOf(header, name) {
  const m = header.matrices.find((one) => one.name === name);
  return m ? `layer ${m.layer} ${m.type}` : name;
}

function difference(name, by) {
  const sign = by < 0 ? "−" : "+", size = Math.abs(by);
  return name === "sparsity" ? `${sign}${(100 * size).toFixed(1)} points` : name === "score" ? `${sign}${size.toFixed(3)}` : `${sign}${size.toFixed(2)}x`;
}

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, words]) => new Option(words, value, false, value === chosen)));
}

function button(words, label, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = words;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

function offer(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 5000);
}

export default function draw({ parentElement, data, setStateValue }) {
  const root = parentElement.querySelector(".prunescope");
  const view = (root.view ??= new View(root)); // kept at the element: Streamlit may load this module again
  view.receive(data instanceof Uint8Array ? data : new Uint8Array(data), (state) => setStateValue("view", state));
  return () => {
    view.stop();
  };
}
