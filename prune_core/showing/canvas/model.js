// What a threshold does, counted in the browser in every frame of a drag: the same numbers as prune_core's
// masks.py, trajectory.py, plans.py and latency.py (tests/test_canvas.py holds both against each other).

const ROUNDED = Math.fround;

// ---- what came from Python: a length, JSON {id, header, now}, float32 norms of all matrices end to end, then uint16 frames;
// without header and norms where they came before under the same id

function unpack(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0, true);
  const { id, header, now } = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const copy = bytes.slice(4 + length); // aligned
  const groups = header ? measure(header) : 0;
  const norms = header ? new Float32Array(copy.buffer, 0, groups) : null;
  return { id, header, now, norms, frames: now.frames ? new Uint16Array(copy.buffer, 4 * groups) : null };
}

// Where each matrix's groups lie, and their sizes; how many there are in all
function measure(header) {
  let at = 0;
  for (const matrix of header.matrices) {
    matrix.at = at;
    matrix.count = matrix.down * matrix.across;
    matrix.rows = matrix.m / matrix.down; // of one group
    matrix.cols = matrix.n / matrix.across;
    matrix.size = matrix.rows * matrix.cols;
    at += matrix.count;
  }
  header.groups = at;
  header.encoderWeights = header.matrices.reduce((sum, m) => sum + m.m * m.n, 0);
  return at;
}

// ---- thresholds

function scopeKey(matrix, scope) {
  return { global: "all", layer: `layer ${matrix.layer}`, type: matrix.type, matrix: matrix.name }[scope];
}

function scopeKeys(header, scope) {
  return [...new Set(header.matrices.map((m) => scopeKey(m, scope)))];
}

function roundHalfEven(x) {
  const down = Math.floor(x);
  const rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2) ? down + 1 : down;
}

// Sorted norms of a scope key, with the weights up to and with each; kept until other norms come
function sortedOf(model, scope, key) {
  const name = scope + " " + key;
  let found = model.sorted.get(name);
  if (found) return found;
  const parts = model.header.matrices.filter((m) => scopeKey(m, scope) === key);
  const values = new Float32Array(parts.reduce((sum, m) => sum + m.count, 0));
  let at = 0;
  for (const m of parts) {
    values.set(model.norms.subarray(m.at, m.at + m.count), at);
    at += m.count;
  }
  const equal = parts.every((m) => m.size === parts[0].size);
  let cut = null;
  if (equal) values.sort();
  else {
    const sizes = new Float64Array(values.length);
    at = 0;
    for (const m of parts) {
      sizes.fill(m.size, at, at + m.count);
      at += m.count;
    }
    const order = Uint32Array.from(values, (_, i) => i).sort((a, b) => values[a] - values[b] || a - b);
    cut = new Float64Array(values.length + 1);
    order.forEach((i, place) => (cut[place + 1] = cut[place] + sizes[i]));
    values.set(Float32Array.from(order, (i) => values[i]));
  }
  found = { values, cut };
  model.sorted.set(name, found);
  return found;
}

// The threshold that cuts this share of a key's weights, lowest norms first
function thresholdFor(model, scope, key, share) {
  const { values, cut } = sortedOf(model, scope, key);
  let count = 0;
  if (cut === null) count = roundHalfEven(share * values.length);
  else {
    const wanted = share * cut[cut.length - 1];
    for (let i = 1; i < cut.length; i++) if (Math.abs(cut[i] - wanted) < Math.abs(cut[count] - wanted)) count = i;
  }
  return count ? values[count - 1] : 0;
}

function thresholdsFor(model, scope, share) {
  return Object.fromEntries(scopeKeys(model.header, scope).map((key) => [key, thresholdFor(model, scope, key, share)]));
}

// The share of a key's groups with norms up to this threshold
function shareUpTo(model, scope, key, threshold) {
  const { values } = sortedOf(model, scope, key);
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= threshold) low = middle + 1;
    else high = middle;
  }
  return low / values.length;
}

// ---- the mask: one pass over all groups

function makeModel(header, norms) {
  const model = { header, norms, sorted: new Map(), kept: new Uint8Array(header.groups), counts: new Int32Array(header.matrices.length) };
  model.live = header.matrices.map((m) => ({ rows: new Uint8Array(m.m), cols: new Uint8Array(m.n) }));
  return model;
}

function thresholdOf(matrix, cut) {
  return ROUNDED(cut.thresholds[scopeKey(matrix, cut.scope)] ?? 0);
}

function mask(model, cut) {
  const { header, norms, kept, counts } = model;
  let keptWeights = 0;
  header.matrices.forEach((m, number) => {
    const threshold = thresholdOf(m, cut);
    let count = 0;
    for (let i = m.at, end = m.at + m.count; i < end; i++) {
      const stays = norms[i] > threshold ? 1 : 0;
      kept[i] = stays;
      count += stays;
    }
    counts[number] = count;
    keptWeights += count * m.size;
  });
  return keptWeights;
}

// ---- the score read off the recorded surface, linear between its points

function interpolate(points, x, column) {
  if (x <= points[0][0]) return points[0][column];
  for (let i = 1; i < points.length; i++) {
    const [from, to] = [points[i - 1], points[i]];
    if (x <= to[0]) return from[column] + ((to[column] - from[column]) / (to[0] - from[0])) * (x - from[0]);
  }
  return points[points.length - 1][column];
}

// Whether a surface was recorded for cuts of this kind: with the same share of every key
function alike(header, cut) {
  return (cut.scope === "global" || cut.share != null) && cut.scope in header.surfaces;
}

function surfaceOf(header, cut) {
  return alike(header, cut) ? header.surfaces[cut.scope] : header.surfaces[header.usual.scope] ?? Object.values(header.surfaces)[0];
}

// ---- the latency model: what is executed, and what it costs

function living(model) {
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

function wide(count, lanes) {
  return Math.ceil(count / lanes) * lanes;
}

// [columns, rows] of every strip; the cheaper way of the two
function planMatrix(m, kept, { rows, cols }, lanes) {
  const cost = (strips, extra) => strips.reduce((sum, [columns, outputs]) => sum + (columns + extra) * wide(outputs, lanes), 0);
  const plans = [{ strips: byRows(m, kept, rows, cols, lanes), scattered: false }];
  plans[0].cost = cost(plans[0].strips, 0);
  if (m.cols > 1 && m.rows < m.m) {
    const strips = byColumns(m, kept, rows, cols);
    plans.push({ strips, scattered: true, cost: cost(strips, 16) });
  }
  return plans.reduce((best, plan) => (plan.cost < best.cost ? plan : best));
}

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

// Widths of the panels in which `count` outputs are computed
function panels(count, { lanes, vectors }) {
  const pieces = Math.max(1, Math.ceil(count / (lanes * vectors))), width = wide(Math.ceil(count / pieces), lanes), found = [];
  for (let at = 0; at < count; at += width) found.push(wide(Math.min(count, at + width) - at, lanes));
  return found;
}

function total(values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum;
}

// Predicted milliseconds of the compact model
function compactMs(model) {
  const { header, kept, live } = model, profile = header.profile, prices = profile.compact, { tokens, batch, length } = profile;
  living(model);
  let ms = 0, widths = 0;
  const price = (name, count) => (ms += count * (prices[name] ?? 0));
  header.matrices.forEach((m, number) => {
    const plan = planMatrix(m, kept, live[number], profile.lanes);
    price("transpose", tokens * total(live[number].cols));
    for (const [columns, outputs] of plan.strips)
      for (const width of panels(outputs, profile)) {
        price(`multiply ${width / profile.lanes}`, tokens * columns * width);
        price(plan.scattered ? "scatter" : "store", tokens * width);
        price("weights", columns * width);
        price("panels", 1);
      }
    const rows = total(live[number].rows);
    if (m.type === "intermediate") price("gelu", tokens * rows);
    if (m.type === "value") widths += rows;
  });
  price("attention", batch * length ** 2 * widths);
  price("heads", tokens * widths);
  price("norm", tokens * header.hidden * header.layers);
  price("embed", tokens * header.hidden);
  price("head", batch * header.hidden ** 2);
  price("layers", header.layers);
  price("call", 1);
  return ms;
}

// ---- all of it: what stands over the map

function numbers(model, cut) {
  const { header } = model, weights = mask(model, cut);
  const found = { kept: total(model.counts), groups: header.groups, sparsity: 1 - weights / header.encoderWeights,
    encoder: weights ? header.encoderWeights / weights : Infinity,
    model: header.modelWeights / (header.modelWeights - header.encoderWeights + weights) };
  const surface = surfaceOf(header, cut);
  if (surface) [found.score, found.low, found.high] = [1, 2, 3].map((column) => interpolate(surface, found.sparsity, column));
  if (header.profile) found.speedup = header.profile.denseMs / compactMs(model);
  return found;
}
