// Before a room: arrow keys, PageDown and Space step on, their opposites back, Esc leaves. A control that has the focus
// keeps its own keys; a plain button keeps Space and Enter alone.

const KEEPS = "input, textarea, select, summary, [contenteditable=true], [role=slider], [role=radio], [role=radiogroup], " +
  "[role=combobox], [role=listbox], [role=option], [role=tab], [role=switch], .js-plotly-plot";

export default function keys() {
  const press = (name) => {
    const button = document.querySelector(`.st-key-${name} button:not(:disabled)`);
    button?.click();
    if (button) document.querySelector("[data-testid=stMain]")?.scrollTo(0, 0);
  };
  const step = (event) => {
    if (event.defaultPrevented || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") return press("leave-presentation");
    const focus = document.activeElement;
    if (focus?.closest(KEEPS) || (event.key === " " && focus?.closest("button, a"))) return;
    const on = ["ArrowRight", "PageDown"].includes(event.key) || (event.key === " " && !event.shiftKey);
    const back = ["ArrowLeft", "PageUp"].includes(event.key) || (event.key === " " && event.shiftKey);
    if (!on && !back) return;
    event.preventDefault();
    press(on ? "step-on" : "step-back");
  };
  document.addEventListener("keydown", step);
  document.documentElement.dataset.steps = "by keys"; // whoever presses them can know
  return () => {
    document.removeEventListener("keydown", step);
    delete document.documentElement.dataset.steps;
  };
}
