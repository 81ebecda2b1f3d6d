// The encoder's map: every block of every matrix in the colour of its norm, or in that of what is cut.

class EncoderMap {
  // calls: click(a matrix)
  constructor(canvas, tip, legend, calls) {
    Object.assign(this, { canvas, tip, legend });
    this.panels = new Map();
    canvas.addEventListener("click", (event) => {
      const here = this.groupAt(event);
      if (here && !this.zoom) calls.click(here.matrix);
    });
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", () => (tip.hidden = true));
  }

  // Show these norms: each gets its shade, 0 to 255
  show(model) {
    const { norms, header } = model, scale = 255 / header.high;
    this.model = model;
    if (this.shades?.length !== header.groups) this.shades = new Uint8Array(header.groups);
    for (let i = 0; i < norms.length; i++) this.shades[i] = Math.min(255, Math.round(norms[i] * scale));
    this.legend.querySelector(".least").textContent = `${header.value ?? "norm"} 0`;
    this.legend.querySelector(".top").textContent = `≥ ${brief(header.high)}`;
  }

  // ---- where what stands, in CSS pixels

  get shape() {
    const { matrices } = this.model.header, present = this.theme.present ? 1.3 : 1;
    const layers = [...new Set(matrices.map((m) => m.layer))], types = [...new Set(matrices.map((m) => m.type))];
    const aside = 58 * present, gap = layers.length > 12 ? 3 : 19, top = 52, between = 8;
    // In a room the whole map fits the screen
    const room = this.theme.present ? Math.max(150, innerHeight - this.theme.around - top - layers.length * gap) : 430;
    const most = this.theme.present ? 120 : 56;
    const high = Math.max(12, Math.min(most, room / layers.length)), width = this.canvas.clientWidth;
    const wide = (width - aside - between * (types.length - 1)) / types.length;
    const height = top + layers.length * (high + gap) + 6;
    return { layers, types, aside, gap, top, between, high, wide, width, height };
  }

  // The one matrix that is shown alone, or null
  get zoomed() {
    const { matrices } = this.model.header;
    return this.zoom ? matrices.find((m) => m.name === this.zoom) ?? matrices[0] : null;
  }

  // [matrix, where its panel lies]
  places({ layers, types, aside, gap, top, between, high, wide, width, height } = this.shape) {
    if (this.zoom) return [[this.zoomed, { x: 0, y: top + 4, w: width, h: height - top - 30 }]];
    return this.model.header.matrices.map((m) => {
      const x = aside + types.indexOf(m.type) * (wide + between), y = top + layers.indexOf(m.layer) * (high + gap);
      return [m, { x, y, w: wide, h: high }];
    });
  }

  groupAt(event) {
    const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    for (const [matrix, place] of this.places()) {
      const across = (x - place.x) / place.w, down = (y - place.y) / place.h;
      if (across >= 0 && across < 1 && down >= 0 && down < 1)
        return { matrix, i: Math.floor(down * matrix.down), j: Math.floor(across * matrix.across) };
    }
    return null;
  }

  hover(event) {
    const { tip, model } = this, here = this.groupAt(event);
    tip.hidden = !here;
    if (!here) return;
    const { matrix: m, i, j } = here, at = m.at + i * m.across + j;
    const place = `${span("row", i * m.rows, m.rows)}, ${span("column", j * m.cols, m.cols)}`;
    const norm = `${model.header.value ?? "norm"} ${model.norms[at].toPrecision(5)}`;
    const stored = this.badge(m) && `\nstored in ${formatWords(this.formatOf(m))}`;
    tip.textContent = `${nameOf(m)}\n${place}\n${norm}, ${model.kept[at] ? "kept" : "cut"}${stored}`;
    const box = tip.parentElement.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${event.clientY - box.top + 16}px`;
  }

  // ---- pictures

  // `zoom`: the matrix that is shown alone, or null; `sparsity` of the cut, for who hears the map; `formats` of every
  // matrix; `part`: of which the next bits are set
  draw(theme, zoom, sparsity, formats, part) {
    Object.assign(this, { theme, zoom, formats });
    const { shape, canvas } = this, places = this.places(shape);
    const { context, ratio } = prepare(canvas, shape.height, theme);
    context.imageSmoothingEnabled = false;
    for (const [m, { x, y, w, h }] of places)
      context.drawImage(this.panel(m, Math.round(w * ratio), Math.round(h * ratio)), x, y, w, h);
    if (zoom) return this.writeAround(context, shape);
    this.writeNames(context, shape, places);
    this.markPart(context, places, part);
    const kinds = new Set(formats.map(formatWords)), stored = kinds.size > 1 ? "several formats" : [...kinds][0];
    canvas.setAttribute("aria-label", `Block norms of ${shape.layers.length} layers: ${percent(sparsity)} is cut, ` +
      `what stays is stored in ${stored}`);
  }

  // Over and under a matrix that is shown alone
  writeAround(context, shape) {
    const { theme, zoomed: m } = this, cut = percent(this.cutOf(m));
    const size = `${m.m} outputs × ${m.n} inputs · ${m.count.toLocaleString("en")} blocks`;
    context.textAlign = "left";
    context.fillStyle = theme.ink;
    const stored = this.badge(m) && ` · ${formatWords(this.formatOf(m))}`;
    context.fillText(`${nameOf(m)} · ${size} · ${cut} cut${stored}`, 0, shape.top - 14);
    context.fillStyle = theme.quiet;
    const under = `${m.down} strips down × ${m.across} groups across; hover for the norm of a block`;
    context.fillText(under, 0, shape.height - 12);
  }

  // Types over the columns, layers beside the rows, and how much of each matrix is cut
  writeNames(context, { types, aside, gap, top, between, wide }, places) {
    const line = this.theme.present ? 17 : 13, lowest = top - 16 * (gap > 4 ? 1.6 : 1);
    context.fillStyle = this.theme.quiet;
    context.textAlign = "center";
    types.forEach((type, at) => {
      const [first, ...more] = type.length > 9 ? type.split(".") : [type], x = aside + at * (wide + between) + wide / 2;
      const lines = more.length ? [`${first}.`, ...more] : [type];
      lines.forEach((words, i) => context.fillText(words, x, lowest - line * (lines.length - 1 - i)));
    });
    context.textAlign = "left";
    for (const [m, { x, y, h }] of places) {
      if (x === aside) context.fillText(`layer ${m.layer}`, 0, y + h / 2);
      const stored = this.writeBadge(context, m, { x: x + wide, y, h, above: gap > 4 });
      const words = `${(100 * this.cutOf(m)).toFixed(0)}% cut`, at = y - (this.theme.present ? 10 : 7);
      const fits = context.measureText(words).width + stored + 4 < wide;
      if (gap > 4) context.fillText(fits ? words : words.replace(" cut", ""), x, at);
    }
  }

  // In how few bits a matrix is stored: in words in a frame, over its right end or, where layers stand close, on it.
  // Returns how wide that is
  writeBadge(context, m, { x, y, h, above }) {
    const words = this.badge(m);
    if (!words) return 0;
    const { theme } = this, line = Math.min(theme.present ? 18 : 14, above ? 18 : h - 2);
    const wide = context.measureText(words).width + 8, top = above ? y - line - 1 : y + 1;
    context.fillStyle = theme.ink;
    context.fillRect(x - wide, top, wide, line);
    context.fillStyle = theme.paper;
    context.fillText(words, x - wide + 4, top + line / 2 + 1);
    context.fillStyle = theme.quiet;
    return wide;
  }

  // A frame around what the next choice of bits sets
  markPart(context, places, part) {
    if (part.scope === "global" || part.key === null) return;
    const mine = chosenBy(part);
    context.lineWidth = 2;
    context.strokeStyle = this.theme.ink;
    for (const [m, { x, y, w, h }] of places) if (mine(m)) context.strokeRect(x + 1, y + 1, w - 2, h - 2);
  }

  formatOf(matrix) {
    return this.formats[this.model.header.matrices.indexOf(matrix)];
  }

  badge(matrix) {
    return badgeOf(this.formatOf(matrix));
  }

  cutOf(matrix) {
    return shareCut(this.model, this.model.header.matrices.indexOf(matrix));
  }

  // One matrix as a picture of at most w x h pixels, neighbouring blocks averaged where there are more
  panel(m, w, h) {
    const tw = Math.min(m.across, w), th = Math.min(m.down, h), size = `${tw} ${th}`;
    if (this.panels.get(m.name)?.size !== size) this.panels.set(m.name, { size, ...makePanel(m, tw, th) });
    const panel = this.panels.get(m.name), { image, context, canvas } = panel;
    if (panel.sums) this.average(m, panel, tw, th);
    else {
      const { shades, theme: { colours } } = this, { kept } = this.model, { data } = image;
      for (let at = m.at, to = 0; at < m.at + m.count; at++, to += 4) {
        const from = kept[at] ? 3 * shades[at] : 768;
        data[to] = colours[from];
        data[to + 1] = colours[from + 1];
        data[to + 2] = colours[from + 2];
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  average(m, { sums, columns, image: { data } }, tw, th) {
    const { shades, theme: { colours } } = this, { kept } = this.model;
    sums.fill(0); // red, green, blue, how many blocks
    for (let i = 0, at = m.at; i < m.down; i++) {
      const row = 4 * tw * Math.min(th - 1, Math.floor((i * th) / m.down));
      for (let j = 0; j < m.across; j++, at++) {
        const from = kept[at] ? 3 * shades[at] : 768, to = row + columns[j];
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
  }
}

// A matrix's own canvas, and where its blocks are summed up where they are more than its pixels
function makePanel(m, tw, th) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [tw, th];
  const context = canvas.getContext("2d"), image = context.createImageData(tw, th);
  image.data.fill(255);
  const sums = tw < m.across || th < m.down ? new Uint32Array(4 * tw * th) : null;
  const columnOf = (j) => 4 * Math.min(tw - 1, Math.floor((j * tw) / m.across));
  return { canvas, context, image, sums, columns: Uint32Array.from({ length: m.across }, (_, j) => columnOf(j)) };
}
