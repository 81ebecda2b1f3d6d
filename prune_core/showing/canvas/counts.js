// What a threshold does, counted in the browser in every frame of a drag: the same numbers as prune_core's own
// (tests/test_canvas.py holds both against each other).

const SAME = 1e-6; // sparsities of one and the same cut

// The recorded surface between its points, linear: column 1 the score, 2 and 3 its bounds
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

// All that stands over the map; model.kept and model.counts then are those of this cut. `zero`: what is zero already
function numbers(model, cut) {
  const { header } = model, weights = mask(model, cut);
  const counted = { kept: total(model.counts), groups: header.groups, sparsity: 1 - weights / header.encoderWeights,
    encoder: weights ? header.encoderWeights / weights : Infinity,
    model: header.modelWeights / (header.modelWeights - header.encoderWeights + weights),
    zero: zeroShares(model, "global").all };
  if (alike(header, cut)) Object.assign(counted, scoreAt(header.surfaces[cut.scope], counted.sparsity));
  if (header.profile) {
    const { ms, path } = compactMs(model), { rival } = header.profile;
    Object.assign(counted, { speedup: rival.ms / ms, path });
  }
  return counted;
}

// What recorded scores say of this sparsity: recorded itself, or predicted from those around it
function scoreAt(points, sparsity) {
  const [score, low, high] = [1, 2, 3].map((column) => interpolate(points, sparsity, column));
  return { score, low, high, how: points.some(([x]) => Math.abs(x - sparsity) < SAME) ? "recorded" : "predicted" };
}

// The recorded point whose sparsity is nearest
function nearestPoint(points, sparsity) {
  return points.reduce((best, one) => (Math.abs(one[0] - sparsity) < Math.abs(best[0] - sparsity) ? one : best));
}
