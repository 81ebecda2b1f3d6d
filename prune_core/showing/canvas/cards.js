// The numbers over the map, each with what stands under it: a pinned setting's number beside it, or a note.

const WORDS = { sparsity: percent, encoder: times, model: times, speedup: times, score: (score) => score.toFixed(3) };

// `counted`: what numbers() counts. `even`: whether a score was recorded for such cuts, not only for even ones.
// `pin`: the one that is set beside it, if any
function writeCards(root, counted, even, pin) {
  for (const name of Object.keys(WORDS)) {
    const card = root.querySelector(`[data-number=${name}]`), value = counted[name];
    card.querySelector(".value").textContent = value === undefined ? "–" : WORDS[name](value);
    card.classList.toggle("unlike", name === "score" && value !== undefined && !even);
    card.querySelector(".beside").textContent = under(name, counted, even, pin) ?? card.dataset.note ?? "";
  }
}

function under(name, counted, even, pin) {
  const value = counted[name], other = pin?.numbers[name];
  if (value === undefined) return null;
  if (name === "score" && !even) return "for an even cut";
  if (other != null && Number.isFinite(value))
    return `${pin.name} ${WORDS[name](other)}, ${difference(name, value - other)}`;
  return name === "score" ? `${counted.low.toFixed(3)} – ${counted.high.toFixed(3)}` : null;
}

// How far a number lies from that of a pinned setting: "+1.5 points"
function difference(name, by) {
  const sign = by < 0 ? "−" : "+", size = Math.abs(by);
  if (name === "sparsity") return `${sign}${(100 * size).toFixed(1)} points`;
  return name === "score" ? `${sign}${size.toFixed(3)}` : `${sign}${size.toFixed(2)}x`;
}
