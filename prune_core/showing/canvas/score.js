// What is known of the score of a cut: exact or so far, as Python tells it; recorded or predicted, as it was counted.

const ANSWERS = 300; // exact scores that stay

class Answers {
  constructor() {
    this.kept = new Map(); // key of a cut -> what Python told last of it
  }

  // told: {run, moment, ranking, repaired, dtype, scope, thresholds, formats, data} say which cut and in which
  // arithmetic, {doing, score, low, high, done, total} how its exact score stands; doing "none" where none can come. `arithmetic`:
  // what it is really scored in, where another than fp32 was asked for
  hear(told) {
    if (told.data !== this.data) this.kept.clear(); // of other sentences
    this.data = told.data;
    for (const [key, { doing }] of this.kept) if (doing !== "done") this.kept.delete(key);
    const key = keyOf(told);
    this.kept.delete(key);
    this.kept.set(key, told);
    if (this.kept.size > ANSWERS) this.kept.delete(this.kept.keys().next().value);
  }

  of(cut) {
    return this.kept.get(keyOf(cut));
  }
}

// The same text for the same cut of the same weights; thresholds compared as they cut, as float32
function keyOf({ run, moment, ranking, repaired, dtype, scope, thresholds, formats }) {
  const values = Object.keys(thresholds).sort().map((key) => [key, ROUNDED(thresholds[key])]);
  const how = [ranking ?? "norm", Boolean(repaired), dtype ?? "fp32", formats ?? ""];
  return JSON.stringify([run, moment, ...how, scope, values]);
}

// {how, score, low, high, words}: what the card says. `counted` by numbers(), `told` by Python of this very cut, if it was
function known(header, cut, counted, told) {
  const { score, low, high } = told ?? {}, { doing = header.exact ? "waiting" : "none" } = told ?? {};
  const between = (low, high) => (low == null ? "" : `, ${low.toFixed(3)} – ${high.toFixed(3)}`);
  const arithmetic = told?.arithmetic ? `, ${told.arithmetic}` : "";
  if (doing === "done") return { how: "exact", score, words: arithmetic + between(low, high) };
  if (score != null) return {
    how: "so far", score,
    words: `${arithmetic}${between(low, high)}, ${told.done.toLocaleString("en")} of ${told.total.toLocaleString("en")} examples` };
  const comes = doing !== "none" && doing !== "failed", near = comes ? "" : nearest(header, cut, counted.cut);
  if (counted.how) {
    const more = counted.how === "predicted" && near ? `; ${near}` : "";
    return { how: counted.how, score: counted.score, words: between(counted.low, counted.high) + more };
  }
  const some = Object.keys(header.surfaces).length > 0;
  const missing = cut.formats && even(cut) ? "in these formats" : "for such a cut";
  const why = some ? `no prediction ${missing}` : "no score was recorded here";
  return { how: null, words: `${why}; ${comes ? "the exact score comes when you rest" : near || header.asking || "no exact score here"}` };
}

// "recorded 0.886 at 35.0%"; where none was recorded for cuts of this kind, of which kind it is
function nearest({ surfaces, usual }, cut, sparsity) {
  const mine = surfaceName(cut.scope, cut.formats), own = even(cut) && mine in surfaces;
  const others = [surfaceName(usual.scope, usual.formats), ...Object.keys(surfaces)];
  const name = own ? mine : others.find((one) => one in surfaces);
  if (!name) return "";
  const [x, score] = nearestPoint(surfaces[name], sparsity), [scope, formats] = name.split(" ");
  const stored = formats ? `, ${formatsWords(parseFormats(formats))}` : cut.formats ? ", fp32" : "";
  const kind = `${scope === "global" ? "one threshold for all" : `the same share of each ${scope}`}${stored}: `;
  return `${own ? "" : kind}recorded ${score.toFixed(3)} at ${percent(x)}`;
}
