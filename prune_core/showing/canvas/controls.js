// The controls around the pictures: what shares a threshold, its value, undo, pins, which matrix is seen, downloads.

class Controls {
  // calls: setScope, setKey, setShare, setNorm, setFormats, setPart, undo, redo, reset, pin, goTo, unpin, copy, zoom,
  // save
  constructor(root, calls) {
    this.root = root;
    this.calls = calls;
    this.at = (selector) => root.querySelector(selector);
    this.scopes = [...root.querySelectorAll("[data-scope]")];
    this.bits = new Bits(root, calls);
    this.listen();
  }

  listen() {
    const { calls, root, scopes } = this;
    const on = (selector, kind, action) => this.at(selector).addEventListener(kind, action);
    for (const button of scopes) button.addEventListener("click", () => calls.setScope(button.dataset.scope));
    for (const [selector, set] of [[".share", (value) => calls.setShare(value / 100)], [".norm", calls.setNorm]])
      this.takeFrom(this.at(selector), set);
    on(".key", "change", ({ target }) => calls.setKey(target.value || null));
    on(".zoom", "change", ({ target }) => calls.zoom(target.value || null));
    on(".whole", "click", () => calls.zoom(null));
    for (const name of ["undo", "redo", "reset", "pin", "copy"]) on(`.${name}`, "click", () => calls[name]());
    for (const kind of ["png", "svg", "csv"]) on(`.${kind}`, "click", () => calls.save(kind));
    root.addEventListener("keydown", (event) => this.press(event));
  }

  // A field keeps what is being typed until it is taken, then it shows what came of it
  takeFrom(field, set) {
    field.addEventListener("input", () => (field.typed = true));
    field.addEventListener("blur", () => ((field.typed = false), this.show(field)));
    field.addEventListener("change", () => {
      field.typed = false;
      if (field.value !== "") set(Number(field.value));
      else this.show(field);
    });
  }

  show(field) {
    if (!field.typed && field.now !== undefined && field.value !== field.now) field.value = field.now;
  }

  press(event) {
    const letter = event.key.toLowerCase(), { calls } = this;
    if ((event.ctrlKey || event.metaKey) && (letter === "z" || letter === "y")) {
      if (letter === "y" || event.shiftKey) calls.redo();
      else calls.undo();
      event.preventDefault();
    } else if (event.key === "Escape" && this.zoomed) {
      event.preventDefault(); // it ends no presentation
      calls.zoom(null);
    }
  }

  // What changes with a click, not in a drag
  fill(header, keys, view) {
    const { matrices } = header, { cut, key, zoom, pins, against } = view;
    this.bits.fill(header, view);
    const all = { layer: "all layers equally", type: "all types equally", matrix: "all matrices equally" };
    const nameOfKey = (key) => (cut.scope === "matrix" ? nameOf(matrices.find((m) => m.name === key)) : key);
    for (const button of this.scopes) button.setAttribute("aria-pressed", button.dataset.scope === cut.scope);
    const select = this.at(".key"), of = key === null || !keys.length ? "" : ` of ${nameOfKey(key)}`;
    options(select, [["", all[cut.scope] ?? "all together"], ...keys.map((key) => [key, nameOfKey(key)])], key);
    select.disabled = !keys.length;
    for (const [selector, word] of [[".share", "Sparsity"], [".norm", "Threshold"]]) {
      const label = this.at(selector).closest("label");
      label.querySelector("span").textContent = label.title = word + of;
    }
    options(this.at(".zoom"), [["", "whole encoder"], ...matrices.map((m) => [m.name, nameOf(m)])], zoom);
    this.zoomed = Boolean(zoom);
    this.at(".whole").hidden = !zoom;
    drawPins(this.at(".pins"), pins, against, this.calls);
  }

  // In every frame: where the handle stands, and whether it can go back
  write({ target, share, norm }, history) {
    // Not `disabled`: a button that can no longer be pressed would lose the focus, and the keys with it
    this.at(".undo").ariaDisabled = !history.canUndo;
    this.at(".redo").ariaDisabled = !history.canRedo;
    const set = (field, value) => ((field.now = value), this.show(field));
    set(this.at(".share"), (100 * share).toFixed(2));
    this.at(".norm").disabled = target === null;
    set(this.at(".norm"), target === null ? "" : String(shortest(ROUNDED(norm))));
  }
}

function options(select, pairs, chosen) {
  const made = pairs.map(([value, words]) => new Option(words, value, false, value === (chosen ?? "")));
  select.replaceChildren(...made);
}
