// In a report: what Python does in the app. The map is given the norms of the setting in view; what it says goes
// nowhere.
// Stands in one module after the map's own script (prune_core.showing.canvas.script).

const host = document.getElementById("map").attachShadow({ mode: "open" });
host.append(document.getElementById("parts").content.cloneNode(true));
host.querySelector(".copy").hidden = true; // a file has no address to hand on
const { first, maps, norms, present } = JSON.parse(document.getElementById("data").textContent);
const raw = norms.map((text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)));
const choose = document.querySelector(".choose");
let asked = 0, inView = null;

// As prune_core.showing.canvas.pack: a length, JSON, float32 norms
function packed(about, values) {
  const text = new TextEncoder().encode(JSON.stringify(about)), bytes = new Uint8Array(4 + text.length + values.length);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  bytes.set(values, 4 + text.length);
  return bytes;
}

// Pixels of the screen around the map on a slide, whose type grows with the window
const around = () => present && (present * parseFloat(getComputedStyle(document.documentElement).fontSize)) / 16;

function put(map, command) {
  const now = { command, present: around() };
  draw({ parentElement: host, data: packed({ id: map.letter, header: map.header, now }, raw[map.norms]),
         setStateValue: () => {} });
}

function show(map) {
  inView = map;
  put(map, asked++ ? { id: asked, cut: map.header.usual } : null);
  for (const button of choose.children)
    button.setAttribute("aria-pressed", button.textContent === `Setting ${map.letter}`);
}

for (const map of maps) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `Setting ${map.letter}`;
  button.addEventListener("click", () => show(map));
  choose.append(button);
}
const start = maps[Math.min(first, maps.length - 1)];
show(start);
addEventListener("beforeprint", () => show(start)); // on paper stands what is recommended
