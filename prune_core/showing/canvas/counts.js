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

// Whether a surface can be of this cut: with the same share of every key
const even = (cut) => cut.scope === "global" || cut.share != null;

// Under which name header.surfaces has cuts of this scope in these formats
const surfaceName = (scope, formats = "") => (formats ? `${scope} ${formats}` : scope);

// Whether a surface was recorded for cuts of this kind
function alike(header, cut) {
  return even(cut) && surfaceName(cut.scope, cut.formats) in header.surfaces;
}

// What is predicted of a cut whose matrices have several formats: the plain surface less the drop of each format, by
// its share of the weights; as prune_core's answers.py has it. null where one of them has no surface
function predictMixed(plain, parts, sparsity) {
  if (!plain || parts.some(([, surface]) => !surface)) return null;
  const [score, low, high] = [1, 2, 3].map((column) => interpolate(plain, sparsity, column));
  const drop = parts.reduce((sum, [share, surface]) => sum + share * (score - interpolate(surface, sparsity, 1)), 0);
  return [score - drop, low - drop, high - drop];
}

// [share of the weights, surface recorded where all have this format] of every format of the cut
function partsOfMixed({ surfaces, matrices, encoderWeights }, { scope }, { formats, each }) {
  const shares = new Map();
  matrices.forEach((m, number) => {
    const text = formatsText({ ...formats, scope: "global", weights: [each[number]] });
    shares.set(text, (shares.get(text) ?? 0) + (m.m * m.n) / encoderWeights);
  });
  return [...shares].map(([text, share]) => [share, surfaces[surfaceName(scope, text)]]);
}

// What recorded scores say of a cut at this sparsity, its pattern not counted; {} where they say nothing
function predicted(header, cut, read, sparsity) {
  if (!even(cut)) return {};
  if (alike(header, cut)) return scoreAt(header.surfaces[surfaceName(cut.scope, cut.formats)], sparsity);
  if (read.formats.scope === "global") return {};
  const parts = partsOfMixed(header, cut, read), said = predictMixed(header.surfaces[cut.scope], parts, sparsity);
  return said ? { score: said[0], low: said[1], high: said[2], how: "predicted" } : {};
}

// All that stands over the map; model.kept and model.counts then are those of this cut. `zero`: what is zero already;
// `cut`: what the blocks cut; `sparsity`, and both compressions: with what the pattern leaves out
function numbers(model, cut) {
  const { header } = model, blocks = mask(model, cut), read = readFormats(header, cut.formats);
  const stored = storageOf(model, read), { weights } = stored;
  const counted = { ...stored, kept: total(model.counts), groups: header.groups,
    cut: 1 - blocks / header.encoderWeights, sparsity: 1 - weights / header.encoderWeights,
    encoder: weights ? header.encoderWeights / weights : Infinity,
    model: header.modelWeights / (header.modelWeights - header.encoderWeights + weights),
    zero: zeroShares(model, "global").all };
  Object.assign(counted, predicted(header, cut, read, counted.cut));
  if (header.profile) {
    const { ms, path, why } = compactMs(model, read.kind), { rival } = header.profile;
    Object.assign(counted, { speedup: rival.ms / ms, path, why });
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
