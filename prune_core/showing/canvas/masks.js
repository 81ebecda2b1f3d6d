// Thresholds and the mask they give, as prune_core's masks.py has them.

const ROUNDED = Math.fround; // to float32, as norms and thresholds are

function makeModel(header, norms) {
  const kept = new Uint8Array(header.groups), counts = new Int32Array(header.matrices.length); // of the mask
  const live = header.matrices.map((m) => ({ rows: new Uint8Array(m.m), cols: new Uint8Array(m.n) })); // see latency.js
  return { header, norms, sorted: new Map(), kept, counts, live };
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

// Norms of a scope key in order, and the weights up to each where groups differ in size; kept until other norms come
function sortedOf(model, scope, key) {
  const name = scope + " " + key;
  if (!model.sorted.has(name)) {
    const matrices = model.header.matrices.filter((m) => scopeKey(m, scope) === key);
    model.sorted.set(name, sortNorms(model.norms, matrices));
  }
  return model.sorted.get(name);
}

function sortNorms(norms, matrices) {
  const values = new Float32Array(matrices.reduce((sum, m) => sum + m.count, 0));
  let at = 0;
  for (const m of matrices) {
    values.set(norms.subarray(m.at, m.at + m.count), at);
    at += m.count;
  }
  if (matrices.every((m) => m.size === matrices[0].size)) return { values: values.sort(), cut: null };
  const sizes = new Float64Array(values.length);
  at = 0;
  for (const m of matrices) {
    sizes.fill(m.size, at, at + m.count);
    at += m.count;
  }
  const order = Uint32Array.from(values, (_, i) => i).sort((a, b) => values[a] - values[b] || a - b);
  const cut = new Float64Array(values.length + 1);
  order.forEach((i, place) => (cut[place + 1] = cut[place] + sizes[i]));
  return { values: Float32Array.from(order, (i) => values[i]), cut };
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

// The share of a key's weights that lie in groups with norms up to this threshold
function shareUpTo(model, scope, key, threshold) {
  const { values, cut } = sortedOf(model, scope, key);
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= threshold) low = middle + 1;
    else high = middle;
  }
  return cut === null ? low / values.length : cut[low] / cut[cut.length - 1];
}

// The same of every key at once, counted without sorting. No thresholds: what is exactly zero
function sharesUpTo(model, scope, thresholds = {}) {
  const { header, norms } = model, gone = {}, all = {};
  for (const m of header.matrices) {
    const key = scopeKey(m, scope), threshold = ROUNDED(thresholds[key] ?? 0);
    let count = 0;
    for (let i = m.at, end = m.at + m.count; i < end; i++) if (norms[i] <= threshold) count++;
    gone[key] = (gone[key] ?? 0) + count * m.size;
    all[key] = (all[key] ?? 0) + m.count * m.size;
  }
  return Object.fromEntries(Object.keys(all).map((key) => [key, gone[key] / all[key]]));
}

// What of every key is zero already; kept until other norms come
function zeroShares(model, scope) {
  const name = `zeros ${scope}`;
  if (!model.sorted.has(name)) model.sorted.set(name, sharesUpTo(model, scope));
  return model.sorted.get(name);
}

// The sparsity of the whole where this share of every key is cut
function sparsityAt(model, scope, share) {
  const { header } = model, shares = {};
  for (const key of scopeKeys(header, scope))
    shares[key] = shareUpTo(model, scope, key, thresholdFor(model, scope, key, share));
  return header.matrices.reduce((sum, m) => sum + shares[scopeKey(m, scope)] * m.m * m.n, 0) / header.encoderWeights;
}

// The share of every key that makes this sparsity of the whole: another one where some keys have more zeros than that
function shareGiving(model, scope, sparsity) {
  if (scope === "global" || Math.max(...Object.values(zeroShares(model, scope))) <= sparsity) return sparsity;
  let low = 0, high = 1;
  for (let step = 0; step < 40; step++) {
    const middle = (low + high) / 2;
    if (sparsityAt(model, scope, middle) < sparsity) low = middle;
    else high = middle;
  }
  const off = (share) => Math.abs(sparsityAt(model, scope, share) - sparsity);
  return off(low) < off(high) ? low : high;
}

// ---- the mask

function thresholdOf(matrix, cut) {
  return ROUNDED(cut.thresholds[scopeKey(matrix, cut.scope)] ?? 0);
}

// One pass over all groups: which are kept, how many in each matrix; returns the weights that are kept
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

// How much of matrix `number` is cut, by groups
function shareCut(model, number) {
  return 1 - model.counts[number] / model.header.matrices[number].count;
}

function total(values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum;
}
