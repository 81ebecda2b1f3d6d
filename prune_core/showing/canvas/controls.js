// The controls around the pictures: what shares a threshold, its value, undo, pins, which matrix is seen, downloads.

class Controls {
  // calls: setScope, setKey, setShare, setNorm, undo, redo, reset, pin, goTo, unpin, zoom, save
  constructor(root, calls) {
    this.root = root;
    this.calls = calls;
    this.at = (selector) => root.querySelector(selector);
    this.scopes = [...root.querySelectorAll("[data-scope]")];
    this.listen();
  }

  listen() {
    const { calls, root, scopes } = this;
    const on = (selector, kind, action) => this.at(selector).addEventListener(kind, action);
    for (const button of scopes) button.addEventListener("click", () => calls.setScope(button.dataset.scope));
    on(".share", "change", ({ target }) => target.value !== "" && calls.setShare(Number(target.value) / 100));
    on(".norm", "change", ({ target }) => target.value !== "" && calls.setNorm(Number(target.value)));
    on(".key", "change", ({ target }) => calls.setKey(target.value || null));
    on(".zoom", "change", ({ target }) => calls.zoom(target.value || null));
    on(".whole", "click", () => calls.zoom(null));
    for (const name of ["undo", "redo", "reset", "pin"]) on(`.${name}`, "click", () => calls[name]());
    for (const kind of ["png", "svg", "csv"]) on(`.${kind}`, "click", () => calls.save(kind));
    root.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    const letter = event.key.toLowerCase(), { calls } = this;
    if ((event.ctrlKey || event.metaKey) && (letter === "z" || letter === "y")) {
      if (letter === "y" || event.shiftKey) calls.redo();
      else calls.undo();
      event.preventDefault();
    } else if (event.key === "Escape" && this.zoomed) calls.zoom(null);
  }

  // What changes with a click, not in a drag
  fill({ matrices }, keys, { cut, key, zoom, pins }) {
    const all = { layer: "all layers equally", type: "all types equally", matrix: "all matrices equally" };
    const nameOfKey = (key) => (cut.scope === "matrix" ? nameOf(matrices.find((m) => m.name === key)) : key);
    for (const button of this.scopes) button.setAttribute("aria-pressed", button.dataset.scope === cut.scope);
    const select = this.at(".key");
    options(select, [["", all[cut.scope] ?? "all together"], ...keys.map((key) => [key, nameOfKey(key)])], key);
    select.disabled = !keys.length;
    options(this.at(".zoom"), [["", "whole encoder"], ...matrices.map((m) => [m.name, nameOf(m)])], zoom);
    this.zoomed = Boolean(zoom);
    this.at(".whole").hidden = !zoom;
    drawPins(this.at(".pins"), pins, this.calls);
  }

  // In every frame: where the handle stands, and whether it can go back
  write({ target, share, norm }, history) {
    // Not `disabled`: a button that can no longer be pressed would lose the focus, and the keys with it
    this.at(".undo").ariaDisabled = !history.canUndo;
    this.at(".redo").ariaDisabled = !history.canRedo;
    const focused = this.root.getRootNode().activeElement;
    const set = (input, value) => focused !== input && (input.value = value);
    set(this.at(".share"), (100 * share).toFixed(2).replace(/\.?0+$/, ""));
    this.at(".norm").disabled = target === null;
    set(this.at(".norm"), target === null ? "" : shortest(ROUNDED(norm)));
  }
}

function options(select, pairs, chosen) {
  const made = pairs.map(([value, words]) => new Option(words, value, false, value === (chosen ?? "")));
  select.replaceChildren(...made);
}
