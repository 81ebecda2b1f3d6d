// What moving the handle makes of a cut {scope, share, thresholds}; share is null for one by thresholds.
// `target`: the scope key that the handle moves, null where it moves all of them together.

// Its thresholds are those of these norms: a cut by share follows the norms, one by thresholds stays where it is
function complete(model, { scope, share = null, thresholds }) {
  if (share !== null) return { scope, share, thresholds: thresholdsFor(model, scope, share) };
  const keys = scopeKeys(model.header, scope), given = thresholds ?? {};
  return { scope, share, thresholds: Object.fromEntries(keys.map((key) => [key, ROUNDED(given[key] ?? 0)])) };
}

// The share that the handle stands for; `sparsity` of the whole cut
function shareOf(model, cut, target, sparsity) {
  if (cut.share != null) return cut.share;
  return target === null ? sparsity : shareUpTo(model, cut.scope, target, cut.thresholds[target]);
}

// The norm at which the handle stands
function normOf(model, cut, target, share) {
  return target === null ? thresholdFor(model, "global", "all", share) : cut.thresholds[target];
}

// Beside the handle
function wordsFor(cut, { target, share, norm }) {
  if (target !== null) return `cut up to ${brief(norm)}`;
  return cut.share != null ? `${percent(share)} of each ${cut.scope}` : `${percent(share)} in all`;
}

function cutAtNorm(model, cut, target, norm) {
  if (target === null) return cutAtShare(model, cut, target, shareUpTo(model, "global", "all", norm));
  return withThreshold(cut, target, ROUNDED(Math.max(0, norm)));
}

function cutAtShare(model, cut, target, share) {
  share = Math.min(0.999, Math.max(0, share));
  if (cut.scope === "global" || target === null) return complete(model, { scope: cut.scope, share });
  return withThreshold(cut, target, thresholdFor(model, cut.scope, target, share));
}

function withThreshold(cut, target, threshold) {
  return { ...cut, share: null, thresholds: { ...cut.thresholds, [target]: threshold } };
}

// As pins keep it: a share or thresholds
function settled({ scope, share, thresholds }) {
  return { scope, share, thresholds: share == null ? thresholds : null };
}

// As Python is told, which has it in the address: thresholds with no more digits than they need
function briefly(cut) {
  const { scope, share, thresholds } = settled(cut);
  const short = ([key, threshold]) => [key, shortest(ROUNDED(threshold))];
  return { scope, share, thresholds: thresholds && Object.fromEntries(Object.entries(thresholds).map(short)) };
}
