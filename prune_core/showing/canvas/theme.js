// Colours and type of the pictures, and a canvas made ready to be drawn on in them.

const VIRIDIS = [
  "#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// 256 shades of the scale, then the colour of what is cut; three bytes each
function palette(cutColour) {
  const shades = new Uint8Array(257 * 3), stops = VIRIDIS.map(rgb);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1), low = Math.min(stops.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++)
      shades[3 * i + c] = Math.round(stops[low][c] + (stops[low + 1][c] - stops[low][c]) * (place - low));
  }
  shades.set(rgb(cutColour), 768);
  return shades;
}

// What the page around gives, light or dark; also told to view.css. `present`: for a room, in larger type; then the
// pixels of the screen that stand over and under the map, which fits the rest
function readTheme(root, present) {
  const style = getComputedStyle(root), read = (name, other) => style.getPropertyValue(name).trim() || other;
  const ink = read("--st-text-color", "#1b2430"), paper = read("--st-background-color", "#ffffff");
  const dark = /^#/.test(paper) && rgb(paper).reduce((a, b) => a + b) < 380;
  const cut = dark ? "#20262e" : "#dcd7f0"; // on the map: near the page, and nowhere near the scale
  const gone = dark ? "#736c8c" : "#c9c2e6"; // in the histogram: to be seen against the page
  const kept = dark ? "#5aa9e6" : "#2e86c8", quiet = dark ? "#9aa4b2" : "#59626f";
  for (const [name, colour] of Object.entries({ cut, quiet, kept, gone })) root.style.setProperty(`--${name}`, colour);
  root.style.colorScheme = dark ? "dark" : "light"; // the browser's own parts: rails, menus, scrollbars
  return { present: Boolean(present), around: present, ink, paper, quiet, gone, kept, font: read("--st-font", "sans-serif"), colours: palette(cut) };
}

// A canvas as wide as its parent, in device pixels; its context is cleared and scaled to CSS pixels
function prepare(canvas, height, theme) {
  const width = canvas.parentElement.clientWidth, ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = `${theme.present ? 15 : 12}px ${theme.font}`;
  context.textBaseline = "middle";
  return { context, width, ratio };
}
