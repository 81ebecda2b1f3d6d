// The map as it stands, as a file: a picture, or the norm of every block.

// `map`: the EncoderMap as drawn last; `name` of the file, without what ends it
function save(kind, map, name) {
  const file = name.replace(/[^\w.-]+/g, "-");
  if (kind === "csv") offer(new Blob(rowsOf(map), { type: "text/csv" }), `${file}-norms.csv`);
  else if (kind === "svg") offer(new Blob([vectorOf(map)], { type: "image/svg+xml" }), `${file}.svg`);
  else pictureOf(map).toBlob((blob) => offer(blob, `${file}.png`));
}

// Every block: where it is, its norm, whether it is kept
function rowsOf({ model, zoomed }) {
  const lines = ["layer,matrix,strip,group,norm,kept\n"];
  for (const m of zoomed ? [zoomed] : model.header.matrices)
    for (let i = 0, at = m.at; i < m.down; i++) {
      let text = "";
      for (let j = 0; j < m.across; j++, at++)
        text += `${m.layer},${m.type},${i},${j},${shortest(model.norms[at])},${model.kept[at]}\n`;
      lines.push(text);
    }
  return lines;
}

function vectorOf(map) {
  const { shape, theme, zoomed } = map, parts = map.places(shape).flatMap(([m, { x, y, w, h }]) => {
    const layer = zoomed || x === shape.aside ? `layer ${m.layer} ` : "";
    const picture = map.panel(m, m.across, m.down).toDataURL();
    return [`<image x="${x}" y="${y}" width="${w}" height="${h}" preserveAspectRatio="none" ` +
      `style="image-rendering:pixelated" href="${picture}"/>`,
    `<text x="${x}" y="${y - 4}">` +
      `${escaped(layer)}${escaped(m.type)} ${percent(map.cutOf(m))} cut ${map.badge(m)}</text>`];
  });
  const size = `viewBox="0 0 ${shape.width} ${shape.height}" font-family="sans-serif" font-size="9"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} fill="${theme.ink}">` +
    `<rect width="100%" height="100%" fill="${theme.paper}"/>${parts.join("")}</svg>`;
}

function pictureOf({ canvas, theme }) {
  const whole = document.createElement("canvas"), context = whole.getContext("2d");
  [whole.width, whole.height] = [canvas.width, canvas.height];
  context.fillStyle = theme.paper;
  context.fillRect(0, 0, whole.width, whole.height);
  context.drawImage(canvas, 0, 0);
  return whole;
}

function offer(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 5000);
}
