// The latency model: what of a mask is executed and how long it takes, as prune_core's plans and latency count it.

// Which outputs and inputs of each matrix are still there after whole heads and neurons were taken out
function findLive(model) {
  const { header, kept, live } = model;
  live.forEach(({ rows, cols }) => (rows.fill(1), cols.fill(1)));
  const layers = new Map();
  header.matrices.forEach((m, number) => {
    if (!layers.has(m.layer)) layers.set(m.layer, {});
    layers.get(m.layer)[m.type] = number;
  });
  for (const parts of layers.values()) {
    if ("intermediate" in parts && "output" in parts) tie(header, kept, live, parts.intermediate, parts.output, 1);
    const whole = ["query", "key", "value", "attention.output"].every((type) => type in parts);
    if (header.heads && whole && header.matrices[parts.value].m % header.heads === 0) {
      tie(header, kept, live, parts.value, parts["attention.output"], header.matrices[parts.value].m / header.heads);
      for (const type of ["query", "key"]) {
        live[parts[type]].rows.set(live[parts.value].rows);
        live[parts[type]].cols.set(live[parts.value].cols);
      }
    }
  }
}

// Neurons or heads, `width` rows each: one whose outputs, or whose inputs in the next matrix, are all cut leaves both
function tie(header, kept, live, first, second, width) {
  const [a, b] = [header.matrices[first], header.matrices[second]];
  const units = a.m / width, gives = new Uint8Array(units), takes = new Uint8Array(units);
  for (let i = 0; i < a.down; i++) {
    let any = 0;
    for (let j = a.at + i * a.across, end = j + a.across; j < end && !any; j++) any = kept[j];
    if (any) for (let row = i * a.rows; row < (i + 1) * a.rows; row++) gives[Math.floor(row / width)] = 1;
  }
  for (let j = 0; j < b.across; j++) {
    let any = 0;
    for (let i = 0; i < b.down && !any; i++) any = kept[b.at + i * b.across + j];
    if (any) for (let col = j * b.cols; col < (j + 1) * b.cols; col++) takes[Math.floor(col / width)] = 1;
  }
  let some = 0;
  for (let unit = 0; unit < units; unit++) some += gives[unit] &= takes[unit];
  if (!some) gives[0] = 1; // a layer of none is no layer
  for (let row = 0; row < a.m; row++) live[first].rows[row] = live[second].cols[row] = gives[Math.floor(row / width)];
}

// `count` rounded up to whole vectors
function wide(count, lanes) {
  return Math.ceil(count / lanes) * lanes;
}

// The cheaper of the two ways; its strips are [columns, rows]. Strips of less than `lanes` are joined, outputs are had
// by `unit`
function planMatrix(m, kept, { rows, cols }, lanes, unit) {
  const cost = (strips, extra) =>
    strips.reduce((sum, [columns, outputs]) => sum + (columns + extra) * wide(outputs, unit), 0);
  const plans = [{ strips: byRows(m, kept, rows, cols, lanes), scattered: false }];
  plans[0].cost = cost(plans[0].strips, 0);
  if (m.cols > 1 && m.rows < m.m) {
    const strips = byColumns(m, kept, rows, cols);
    plans.push({ strips, scattered: true, cost: cost(strips, 16) });
  }
  return plans.reduce((best, plan) => (plan.cost < best.cost ? plan : best));
}

// Bands of rows with the columns that any of their groups keeps; narrow ones are joined to fill a vector
function byRows(m, kept, rows, cols, lanes) {
  const join = Math.max(1, Math.floor(lanes / m.rows)), strips = [], liveCols = new Int32Array(m.across);
  for (let c = 0; c < m.n; c++) liveCols[(c / m.cols) | 0] += cols[c];
  for (let first = 0; first < m.down; first += join) {
    const last = Math.min(m.down, first + join);
    let outputs = 0, columns = 0;
    for (let row = first * m.rows; row < Math.min(m.m, (first + join) * m.rows); row++) outputs += rows[row];
    if (!outputs) continue;
    for (let j = 0; j < m.across; j++) {
      let any = 0;
      for (let i = first; i < last && !any; i++) any = kept[m.at + i * m.across + j];
      if (any) columns += liveCols[j];
    }
    strips.push([columns, outputs]);
  }
  return strips;
}

// Bands of columns with the rows whose group is kept
function byColumns(m, kept, rows, cols) {
  const strips = [], liveRows = new Int32Array(m.down);
  for (let r = 0; r < m.m; r++) liveRows[(r / m.rows) | 0] += rows[r];
  for (let band = 0; band < m.across; band++) {
    let inputs = 0, outputs = 0;
    for (let c = band * m.cols; c < (band + 1) * m.cols; c++) inputs += cols[c];
    for (let i = 0; i < m.down; i++) if (kept[m.at + i * m.across + band]) outputs += liveRows[i];
    if (outputs && inputs) strips.push([inputs, outputs]);
  }
  return strips;
}

// ---- counts of work, as prune_core/latency/work.py has them; `price` takes the name of each and how much

const FIRST = ["query", "attention.output", "intermediate", "output"]; // of the last layer: for first tokens only
const ATTENDED = 16, HEAD = 64; // queries that are attended together; rows of a head where it is not known

// The blocks of outputs in which `count` of them are computed: how wide, how many
function blocksOf(count, most, unit) {
  const width = wide(Math.ceil(count / Math.max(1, Math.ceil(count / most))), unit);
  return { width, blocks: Math.ceil(count / width) };
}

// In the pass over the whole encoder, by tiles of tokens
function countPass(model, { batch, length }, { tile, rows, step, unit, quantized }, plans, price) {
  const { header, live } = model, { heads, hidden, last } = header;
  const every = Math.ceil((batch * length) / tile), first = Math.ceil(batch / tile);
  header.matrices.forEach((m, number) => {
    const ends = m.layer === last, tiles = ends && FIRST.includes(m.type) ? first : every, tokens = tiles * tile;
    for (const [columns, outputs] of plans[number].strips) {
      const steps = Math.ceil(columns / step), { blocks } = blocksOf(outputs, rows, unit), all = wide(outputs, unit);
      price("multiply", tokens * steps * step * all);
      price("steps", tiles * steps * blocks);
      price("blocks", tiles * blocks);
      price(plans[number].scattered ? "scatter" : "store", tokens * all);
      price("weights", columns * all);
      price("gather", tokens * columns);
    }
    const outputs = total(live[number].rows);
    if (m.type === "intermediate") price("gelu", tokens * outputs);
    if (m.type === "value") {
      const pairs = batch * length * (ends ? Math.min(length, ATTENDED) : length);
      price("attention", pairs * outputs);
      price("softmax", (pairs * outputs) / (heads ? Math.floor(m.m / heads) : HEAD));
      price("heads", tokens * outputs);
    }
    if (quantized && m.type !== "query" && m.type !== "key") price("quantize", tokens * total(live[number].cols));
  });
  const ending = last === null ? 0 : 1;
  price("norm", hidden * tile * (every * (header.layers - ending) + first * ending));
  price("embed", every * tile * hidden);
  price("head", batch * hidden ** 2);
  price("layers", header.layers);
  price("call", 1);
}

// Module by module, as profiles of format 1 have prices of
function countModules(model, { batch, length }, { lanes, vectors }, plans, price) {
  const { header, live } = model, tokens = batch * length;
  let widths = 0;
  header.matrices.forEach((m, number) => {
    const { strips, scattered } = plans[number], outputs = total(live[number].rows);
    price("transpose", tokens * total(live[number].cols));
    for (const [columns, count] of strips) {
      const { width, blocks } = blocksOf(count, lanes * vectors, lanes);
      for (let at = 0; at < blocks; at++) {
        const own = wide(Math.min(count, (at + 1) * width) - at * width, lanes);
        price(`multiply ${own / lanes}`, tokens * columns * own);
        price(scattered ? "scatter" : "store", tokens * own);
        price("weights", columns * own);
        price("panels", 1);
      }
    }
    if (m.type === "intermediate") price("gelu", tokens * outputs);
    if (m.type === "value") widths += outputs;
  });
  price("attention", batch * length ** 2 * widths);
  price("heads", tokens * widths);
  price("norm", tokens * header.hidden * header.layers);
  price("embed", tokens * header.hidden);
  price("head", batch * header.hidden ** 2);
  price("layers", header.layers);
  price("call", 1);
}

// Predicted milliseconds of the compact model, on the fastest of the paths that may run weights that are executed so
// ("plain", "weights", "int8"): { ms, path, why } another arithmetic than was asked for
function compactMs(model, executed) {
  const { header, kept, live } = model, { profile } = header, plans = new Map();
  const { names, why } = profile.takes[executed];
  findLive(model);
  let best = null;
  for (const path of profile.paths.filter(({ name }) => names.includes(name))) {
    const { prices, unit = path.lanes, join = path.lanes } = path, lanes = Math.max(unit, join);
    const alike = `${lanes} ${unit}`; // paths that join strips alike
    if (!plans.has(alike))
      plans.set(alike, header.matrices.map((m, number) => planMatrix(m, kept, live[number], lanes, unit)));
    let ms = 0;
    const price = (name, count) => (ms += count * (prices[name] ?? 0));
    (path.tile ? countPass : countModules)(model, profile, path, plans.get(alike), price);
    if (!best || ms < best.ms) best = { ms, path: path.name, why };
  }
  return best;
}
