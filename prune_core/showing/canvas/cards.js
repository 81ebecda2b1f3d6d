// The numbers over the map, each with what stands under it: a note, and a pinned setting's number set against it.

const WORDS = { sparsity: percent, encoder: times, model: times, speedup: times, encoderBytes: size,
  score: (score) => score.toFixed(3) };

// `counted`: what numbers() counts; `score`: what known() says; `pin`: the one that is set against them, if any
function writeCards(root, title, counted, score, pin) {
  for (const name of Object.keys(WORDS)) {
    const card = root.querySelector(`[data-number=${name}]`), value = name === "score" ? score.score : counted[name];
    write(card.querySelector(".value"), value === undefined ? "–" : WORDS[name](value));
    write(card.querySelector(".against"), against(name, value, pin));
  }
  const card = root.querySelector("[data-number=score]");
  write(card.querySelector(".title"), title ?? "Score");
  write(card.querySelector(".how"), score.how ?? "");
  write(card.querySelector(".words"), score.words);
  card.dataset.how = score.how ?? "none";
  card.title = `${score.how ?? ""}${score.words}`;
}

// What the speedup is over, in which arithmetic, and on which machine where it is not this one
function writeSpeedup(root, { precision, profile }, { path, why }) {
  const card = root.querySelector("[data-number=speedup]"), beside = card.querySelector(".beside");
  write(card.querySelector(".mark"), profile?.mark ?? "");
  if (!profile) {
    write(beside, "not calibrated here");
    card.title = "No speedup is predicted: Speed can calibrate this machine";
    return;
  }
  const { rival: { name }, mark } = profile, [dtype] = path.split(" "), of = mark ? "there" : "of this machine";
  write(beside, `over ${name}, in ${dtype}`);
  card.title = `Predicted against the best dense engine ${of} (${name}), for ${dtype}` +
    (precision === "auto" ? ", the fastest" : "") + (why ? `: ${why}` : "") +
    ". An N:M pattern saves bytes, not time: it is not counted";
}

// What the encoder's bytes are of, with and without index; below it the whole model's, where no pin stands there
function writeBytes(root, counted, pin) {
  const { bytes, bytesWithoutIndex, bytesDense } = counted;
  const { encoderBytes, encoderBytesWithoutIndex, encoderBytesDense } = counted;
  const card = root.querySelector("[data-number=encoderBytes]");
  const ratios = (dense, stored, less) => `${times(dense / stored)}, ${times(dense / less)} without index`;
  const encoder = ratios(encoderBytesDense, encoderBytes, encoderBytesWithoutIndex);
  write(card.querySelector(".of"), `of ${size(encoderBytesDense)}`);
  write(card.querySelector(".beside"), encoder);
  const model = `model ${size(bytes)} of ${size(bytesDense)}`;
  if (!pin) write(card.querySelector(".against"), `${model}: ${times(bytesDense / bytes)}`);
  card.title = `Encoder, the prunable matrices as they are stored (values, index, scales): ${size(encoderBytes)} of ` +
    `${size(encoderBytesDense)} in fp32: ${encoder}. Whole ${model}: ` +
    ratios(bytesDense, bytes, bytesWithoutIndex);
}

function against(name, value, pin) {
  const other = pin?.numbers[name];
  return other == null || value === undefined || !Number.isFinite(value) ? ""
    : `${pin.name} ${WORDS[name](other)}${how(name, pin)}, ${difference(name, value - other)}`;
}

function how(name, { numbers }) {
  return name === "score" && numbers.how && numbers.how !== "exact" ? ` (${numbers.how})` : "";
}

function write(place, words) {
  if (place.textContent !== words) place.textContent = words;
}

// How far a number lies from that of a pinned setting: "+1.5 points"
function difference(name, by) {
  const far = Math.abs(by);
  if (name === "encoderBytes") return (by < 0 ? "−" : "+") + WORDS[name](far);
  const words = name === "sparsity" ? (100 * far).toFixed(1) : far.toFixed(name === "score" ? 3 : 2);
  const sign = by < 0 && Number(words) ? "−" : "+"; // nothing that is seen is not less
  return sign + words + (name === "sparsity" ? " points" : name === "score" ? "" : "x");
}

// The bar: what is zero already, what the threshold adds, what is kept; `said` of what was typed, if it could not be had
function writeParts(root, { cut, sparsity, zero }, said) {
  const pattern = sparsity - cut, bar = root.querySelector(".parts"), added = Math.max(0, cut - zero);
  const more = pattern > 1e-9 ? `; the pattern leaves out ${percent(pattern)} more: ${percent(sparsity)} zero` : "";
  const words = partsOf(cut, zero) + more;
  for (const [name, share] of Object.entries({ zero, gone: added, pattern, kept: 1 - zero - added - pattern }))
    bar.querySelector(`.${name}`).style.width = `${100 * share}%`;
  bar.setAttribute("aria-label", words);
  write(root.querySelector(".sum"), said ? `${words}. ${said}` : words);
  root.querySelector(".sum").title = root.querySelector(".sum").textContent;
}

// "66.7% already zero + 8.3% by your threshold = 75.0%"
function partsOf(sparsity, zero) {
  const tenths = (share) => Math.round(10 * (100 * share).toFixed(1)), words = (tenths) => `${(tenths / 10).toFixed(1)}%`;
  const kept = `${words(1000 - tenths(sparsity))} kept`;
  if (!zero) return sparsity ? `${percent(sparsity)} cut by your threshold, ${kept}` : "Nothing is cut";
  if (sparsity - zero < 1e-9) return `${percent(zero)} already zero; your threshold adds nothing`;
  const added = tenths(sparsity) - tenths(zero), by = added ? words(added) : "less than 0.1%";
  return `${percent(zero)} already zero + ${by} by your threshold = ${percent(sparsity)}, ${kept}`;
}
