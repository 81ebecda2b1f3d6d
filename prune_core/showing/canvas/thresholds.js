// What moving the handle makes of a cut, and what is told of it.
// A cut by share is {scope, share, thresholds}, the thresholds those of the present norms; `formats` of what stays are
// text, '' for fp32, and no handle changes them. One by thresholds has share
// null, and keeps on what they were `set` ({ranking, thresholds}) and the `shares` of every key that they then cut:
// under another ranking it cuts those shares.
// `target`: the scope key that the handle moves, null where it moves all of them together.

const MOST_CUT = 0.999, LARGEST = 3e38; // a share, a threshold

// `given` on these norms: a cut by share follows them, one by thresholds stays where it is while their ranking does
function complete(model, given) {
  const { scope, share = null, formats = "" } = given, ranking = model.header.value ?? "norm";
  if (share !== null) return { scope, share, thresholds: thresholdsFor(model, scope, share), formats };
  const keys = scopeKeys(model.header, scope), of = (value) => Object.fromEntries(keys.map((key) => [key, value(key)]));
  const set = given.set ?? {
    ranking: given.ranking ?? ranking, thresholds: of((key) => ROUNDED(given.thresholds?.[key] ?? 0)) };
  if (set.ranking === ranking || !given.shares)
    return {
      scope, share: null, thresholds: set.thresholds, set, shares: sharesUpTo(model, scope, set.thresholds), formats };
  const thresholds = of((key) => thresholdFor(model, scope, key, given.shares[key] ?? 0));
  return { scope, share: null, thresholds, set, shares: given.shares, formats };
}

// The norm at which the handle stands
function normOf(model, cut, target, share) {
  return target === null ? thresholdFor(model, "global", "all", share) : cut.thresholds[target];
}

// Beside the handle: what is cut, of what, up to where
function wordsFor(model, cut, { target, share, norm, shares }) {
  const cutNow = percent(share);
  if (target !== null) {
    const nothing = share > 0 && share - zeroShares(model, cut.scope)[target] < 1e-9;
    return nothing ? `${cutNow} cut: already zero` : `${cutNow} cut, up to ${brief(norm)}`;
  }
  const lowest = percent(Math.min(...Object.values(shares))), highest = percent(Math.max(...Object.values(shares)));
  if (lowest === highest) return `${cutNow} of each ${cut.scope}`;
  return cut.share != null ? `${cutNow}: at least ${lowest} of each ${cut.scope}`
    : `${cutNow} in all: ${lowest} to ${highest} of each ${cut.scope}`;
}

function cutAtNorm(model, cut, target, norm) {
  if (target === null) return cutAtShare(model, cut, target, shareUpTo(model, "global", "all", norm));
  return withThreshold(model, cut, target, ROUNDED(Math.min(LARGEST, Math.max(0, norm))));
}

// `share`: of the target's weights, of all weights where it is all of them
function cutAtShare(model, cut, target, share) {
  share = Math.min(MOST_CUT, Math.max(0, share));
  if (cut.scope === "global" || target === null)
    return complete(model, { scope: cut.scope, share: shareGiving(model, cut.scope, share), formats: cut.formats });
  return withThreshold(model, cut, target, thresholdFor(model, cut.scope, target, share));
}

function withThreshold(model, { scope, thresholds, formats }, target, threshold) {
  return complete(model, { scope, thresholds: { ...thresholds, [target]: threshold }, formats });
}

// Whether they cut the same
function sameCut(one, other) {
  const same = (key) => ROUNDED(one.thresholds[key]) === ROUNDED(other.thresholds[key]);
  return one.scope === other.scope && Object.keys(one.thresholds).every(same);
}

// What a cut by share really cuts of every key at least: never less than is zero already
function effectiveShare(model, { scope, share, thresholds }) {
  if (scope === "global") {
    const counted = shareUpTo(model, scope, "all", thresholds.all);
    return counted >= 1 || Math.abs(counted - share) < 5e-5 ? share : counted;
  }
  const least = Math.min(...Object.values(zeroShares(model, scope)));
  return least < 1 ? Math.max(share, least) : share;
}

// As pins keep it: what cuts here and now, and what that is on
function settled(model, cut) {
  const { scope, share, thresholds, shares, formats } = cut;
  if (share != null) return { scope, share: effectiveShare(model, cut), thresholds: null, formats };
  return { scope, share: null, thresholds, ranking: model.header.value ?? "norm", shares, formats };
}

// As Python is told: thresholds with no more digits than they need, as they were set, and the shares that they cut
function briefly(model, cut) {
  const { scope, share, set, shares, formats } = cut;
  if (share != null) return settled(model, cut);
  const short = ([key, threshold]) => [key, shortest(ROUNDED(threshold))];
  const thresholds = Object.fromEntries(Object.entries(set.thresholds).map(short));
  return { scope, share: null, thresholds, ranking: set.ranking, shares, formats };
}
