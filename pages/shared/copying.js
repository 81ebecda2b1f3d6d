// Beside a chart or a table: copies it as a picture or as Markdown. Where the browser refuses its clipboard it is saved
// as a file, and that is said.

const SCALE = 2, SVG = "http://www.w3.org/2000/svg";

// The page's colour behind an element
function paper(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (colour && !/^rgba\(.*, 0\)$|transparent/.test(colour)) return colour;
  }
  return "#ffffff";
}

// A PNG of what plotly has drawn: its layers, one over the other, on the page's colour
async function picture(plot) {
  const { width, height } = plot.getBoundingClientRect(), whole = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ xmlns: SVG, width, height })) whole.setAttribute(name, value);
  whole.style.fontFamily = getComputedStyle(plot).fontFamily;
  for (const layer of plot.querySelectorAll("svg.main-svg")) whole.append(layer.cloneNode(true));
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(whole))}`;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: SCALE * width, height: SCALE * height });
  const context = canvas.getContext("2d");
  context.fillStyle = paper(plot);
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The clipboard is given a promise, as a browser that must make the picture first would else refuse it
async function copy(kind, making, name) {
  try {
    await navigator.clipboard.write([new ClipboardItem({ [kind]: making })]);
    return "Copied";
  } catch {
    const blob = await making.catch(() => null);
    if (!blob) return "There is no picture to copy yet";
    save(blob, name);
    return "Saved as a file: this browser gives no clipboard here";
  }
}

export default function control({ parentElement, data }) {
  const root = parentElement.querySelector(".copy"), host = root.getRootNode().host ?? parentElement;
  const place = host.closest("[class*=st-key-copy-]"), said = document.createElement("span");
  const button = (words, label, act) => {
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: words, title: label });
    made.addEventListener("click", async () => {
      said.textContent = "…";
      said.textContent = await act();
      setTimeout(() => (said.textContent = ""), 4000);
    });
    return made;
  };
  said.setAttribute("role", "status");
  const parts = [said];
  if (data.picture) parts.push(button("Copy picture", "Copy this chart as a picture", () => {
    const plot = place?.querySelector(".js-plotly-plot");
    return copy("image/png", plot ? picture(plot) : Promise.reject(new Error("no chart")), `${data.file}.png`);
  }));
  if (data.markdown) parts.push(button(data.picture ? "Copy numbers" : "Copy table", "Copy as a Markdown table", () =>
    copy("text/plain", Promise.resolve(new Blob([data.markdown], { type: "text/plain" })), `${data.file}.md`)));
  root.replaceChildren(...parts);
}
