// The slides: one at a time, moved by keys, buttons, and the number in the address.
// Stands in one module after the map's script and the report's, which draws the map.

const slides = [...document.querySelectorAll(".slide")], dialog = document.querySelector("dialog");
let shown = 0;

function go(to) {
  shown = Math.min(slides.length - 1, Math.max(0, to));
  slides.forEach((slide, at) => {
    slide.classList.toggle("shown", at === shown);
    slide.inert = at !== shown;
  });
  document.querySelector("nav .back").disabled = shown === 0;
  document.querySelector("nav .on").disabled = shown === slides.length - 1;
  history.replaceState(null, "", `#${shown + 1}`);
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => {}); // a browser may refuse: then it stays as it is
}

function help() {
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

const KEYS = {
  ArrowRight: () => go(shown + 1), ArrowDown: () => go(shown + 1), " ": () => go(shown + 1),
  PageDown: () => go(shown + 1), ArrowLeft: () => go(shown - 1), ArrowUp: () => go(shown - 1),
  PageUp: () => go(shown - 1), Home: () => go(0), End: () => go(slides.length - 1), f: fullScreen, "?": help,
  n: () => document.body.classList.toggle("noting") };

document.addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, act = KEYS[key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (dialog.open && key !== "?") return;
  const at = event.composedPath()[0]; // what has the focus, in the map too, keeps the keys that it needs
  if (at.matches?.("input, select") && !key.startsWith("Page")) return;
  if (at.matches?.("[role=slider]") && /^(Arrow|Home|End)/.test(key)) return;
  if (at.matches?.("button") && key === " ") return;
  event.preventDefault();
  act();
});
document.querySelector("nav .back").addEventListener("click", () => go(shown - 1));
document.querySelector("nav .on").addEventListener("click", () => go(shown + 1));
document.querySelector("nav .help").addEventListener("click", help);
addEventListener("resize", () => put(inView, null));
addEventListener("hashchange", () => go((Number(location.hash.slice(1)) || 1) - 1));
addEventListener("beforeprint", () => slides.forEach((slide) => (slide.inert = false)));
addEventListener("afterprint", () => go(shown));
document.body.classList.add("live");
go((Number(location.hash.slice(1)) || 1) - 1);
