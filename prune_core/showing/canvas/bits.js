// The second control: in how many bits, in which pattern the kept weights are stored, of all or of a part of its own.

const MORE_BITS = ["7", "6", "5", ...[8, 7, 6, 5, 4, 3, 2].map((bits) => `clusters-${bits}`)];

// What a choice sets: all matrices, or those of one scope key. `key` null: of all keys alike
function chosenBy({ scope, key }) {
  return (matrix) => scope === "global" || key === null || scopeKey(matrix, scope) === key;
}

// The formats as text after `change` (format -> format) of what the choice sets
function withFormat(header, text, part, change) {
  const { formats, each } = readFormats(header, text), mine = chosenBy(part);
  const changed = each.map((format, number) => (mine(header.matrices[number]) ? change(format) : format));
  return formatsText(joined(header, changed, formats));
}

// The same weights, with activations ("", token, tensor) or embeddings (32, 8) stored otherwise
function withOthers(header, text, others) {
  return formatsText({ ...readFormats(header, text).formats, ...others });
}

// What all that a choice sets has: {number: '8', pattern: '2:4'}; null where it is not one and the same
function sharedOf(header, text, part) {
  const { each } = readFormats(header, text), mine = chosenBy(part);
  const formats = each.filter((_, number) => mine(header.matrices[number]));
  const one = (of) => (formats.every((format) => of(format) === of(formats[0])) ? of(formats[0]) : null);
  return { number: one(numberText), pattern: one(({ pattern }) => patternText(pattern)) };
}

// On the map, in a few letters: '4b 2:4', 'tern', 'c4'; '' for fp32
function badgeOf(format) {
  const number = { ternary: "tern", binary: "bin", clusters: `c${format.bits}` }[format.kind] ??
    (format.bits === 32 ? "" : `${format.bits}b`);
  return `${number} ${patternText(format.pattern)}`.trim();
}

class Bits {
  // calls: setFormats(text), setPart({scope, key})
  constructor(root, calls) {
    this.calls = calls;
    this.at = (selector) => root.querySelector(`.bits ${selector}`);
    this.buttons = [...root.querySelectorAll("[data-bits]")];
    for (const button of this.buttons) button.addEventListener("click", () => this.number(button.dataset.bits));
    this.at(".segments").addEventListener("keydown", (event) => this.press(event));
    const on = (selector, action) => this.at(selector).addEventListener("change", ({ target }) => action(target.value));
    on(".bits-for", (scope) => calls.setPart({ scope, key: null }));
    on(".bits-key", (key) => calls.setPart({ ...this.part, key: key || null }));
    on(".bits-more", (text) => text && this.number(text));
    on(".pattern", (text) => this.pattern(text));
    on(".activations", (activations) => this.others({ activations }));
    on(".embeddings", (bits) => this.others({ embeddings: Number(bits) }));
  }

  number(text) {
    const number = numberOf(text);
    this.set(withFormat(this.header, this.text, this.part, ({ pattern }) => ({ ...number, pattern })));
  }

  pattern(text) {
    const pattern = text ? parsePattern(text) : null;
    this.set(withFormat(this.header, this.text, this.part, (format) => ({ ...format, pattern })));
  }

  others(others) {
    this.set(withOthers(this.header, this.text, others));
  }

  set(text) {
    this.calls.setFormats(text);
  }

  // Arrows move along the bits and take them, as in a group of radio buttons
  press(event) {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    const { buttons } = this, at = buttons.indexOf(event.target), last = buttons.length - 1;
    const to = event.key === "Home" ? 0 : event.key === "End" ? last : by && Math.max(0, Math.min(last, at + by));
    if (to === undefined || at < 0) return;
    event.preventDefault();
    buttons[to].focus();
    if (to !== at) buttons[to].click();
  }

  // What changes with a click: `part` is what a choice sets
  fill(header, { cut, bits: part }) {
    const text = cut.formats ?? "", { formats } = readFormats(header, text);
    const { number, pattern } = sharedOf(header, text, part);
    Object.assign(this, { header, text, part });
    this.at(".bits-for").value = part.scope;
    const keys = part.scope === "global" ? [] : scopeKeys(header, part.scope);
    const nameOfKey = (key) => (part.scope === "matrix" ? nameOf(header.matrices.find((m) => m.name === key)) : key);
    const all = { layer: "all layers", type: "all types", matrix: "all matrices" }[part.scope] ?? "all";
    options(this.at(".bits-key"), [["", all], ...keys.map((key) => [key, nameOfKey(key)])], part.key);
    this.at(".bits-key").disabled = !keys.length;
    const rover = this.buttons.find(({ dataset }) => dataset.bits === number) ?? this.buttons[0];
    for (const button of this.buttons) {
      button.setAttribute("aria-checked", button.dataset.bits === number);
      button.tabIndex = button === rover ? 0 : -1; // one stop of the tab key for all of them
    }
    this.fillMore(number);
    this.fillPatterns(header, pattern);
    this.at(".activations").value = formats.activations;
    this.fillEmbeddings(header, formats.embeddings);
  }

  fillMore(number) {
    const words = (text) => formatWords({ ...numberOf(text), pattern: null });
    const pairs = MORE_BITS.map((text) => [text, words(text)]), first = ["", number === null ? "several" : "more …"];
    options(this.at(".bits-more"), [first, ...pairs], MORE_BITS.includes(number) ? number : "");
  }

  // Those that do not go with the blocks, or with the matrices, say why
  fillPatterns({ patterns }, pattern) {
    const select = this.at(".pattern"), known = ["", ...Object.keys(patterns)];
    if (pattern && !known.includes(pattern)) known.push(pattern);
    const pairs = known.map((text) => [text, text || "none"]);
    options(select, pattern === null ? [["several", "several"], ...pairs] : pairs, pattern ?? "several");
    for (const option of select.options) {
      option.title = patterns[option.value] ?? "";
      option.disabled = option.value === "several" || Boolean(option.title);
    }
    const [unfit] = Object.values(patterns).filter(Boolean);
    select.title = "Of every M consecutive inputs of a row at most N are kept. Saves bytes, not time: the predicted " +
      `speedup does not count it.${unfit ? ` Not here: ${unfit}` : ""}`;
  }

  fillEmbeddings({ bytes: { embeddings } }, bits) {
    const select = this.at(".embeddings");
    select.value = String(bits);
    select.disabled = !embeddings && bits === 32;
    select.title = embeddings ? "The table of word embeddings: in 8 bits with a scale for each row"
      : "The size of the word embeddings is not known here: the checkpoint is not at hand";
  }
}
