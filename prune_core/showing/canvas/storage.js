// The bytes that a cut takes as it would be stored, as prune_core/precision/storage.py counts them: of the mask in
// model.kept, in every frame. GAPS: how often how many blocks are cut between two that are kept.

const SCALE = 4, RELATIVE = [2, 3, 4, 5, 6, 7, 8], GAPS = new Int32Array(256);

// { weights: really kept, bytes ...: of the model, encoder...: of the prunable matrices }; header.bytes: {rest, header,
// embeddings: [rows, width] or null}, all else than the prunable matrices
function storageOf(model, { formats, each }) {
  const { header } = model, { rest, header: said, embeddings } = header.bytes;
  const counted = { weights: 0, stored: 0, index: 0 };
  header.matrices.forEach((m, number) => {
    const one = matrixBytes(model, m, number, each[number]);
    counted.weights += one.weights;
    counted.stored += one.stored;
    counted.index += one.index;
  });
  let others = rest + said;
  if (formats.embeddings === 8 && embeddings) {
    const [rows, width] = embeddings;
    others += rows * (width + SCALE) - 4 * rows * width;
  }
  const { weights, stored, index } = counted, dense = 4 * header.encoderWeights, bytes = stored + others;
  return { weights, bytes, bytesWithoutIndex: bytes - index, bytesDense: dense + rest,
    encoderBytes: stored, encoderBytesWithoutIndex: stored - index, encoderBytesDense: dense };
}

// One matrix: weights that are kept, bytes stored, and those of them that are index
function matrixBytes({ kept, counts }, m, number, format) {
  const { index: blocks, strips } = indexOf(kept, m, counts[number]), { kind, pattern } = format;
  const { weights, bits } = pattern ? patternOf(kept, m, counts[number], pattern)
    : { weights: counts[number] * m.size, bits: 0 };
  const index = 1 + blocks + Math.ceil(bits / 8);
  const scales = SCALE * (kind === "float" ? 0 : kind === "clusters" ? topOf(format) : m.rows * strips);
  const values = kind === "ternary" ? Math.ceil(weights / 5) : Math.ceil((weights * format.bits) / 8);
  return { weights, index, stored: values + index + scales };
}

// Bytes of the smallest index of the kept blocks, and the strips that keep any
function indexOf(kept, m, count) {
  if (count === m.count) return { index: 0, strips: m.down };
  const entries = RELATIVE.map(() => count), end = m.at + m.count;
  GAPS.fill(0);
  let strips = 0, last = m.at - 1;
  for (let row = m.at; row < end; row += m.across) {
    const before = last;
    for (let i = row; i < row + m.across; i++) {
      if (!kept[i]) continue;
      const gap = i - last - 1;
      last = i;
      if (gap < 256) GAPS[gap]++;
      else RELATIVE.forEach((bits, at) => (entries[at] += Math.floor(gap / (2 ** bits - 1))));
    }
    if (last !== before) strips++;
  }
  RELATIVE.forEach((bits, at) => {
    const most = 2 ** bits - 1;
    for (let gap = most; gap < 256; gap++) if (GAPS[gap]) entries[at] += Math.floor(gap / most) * GAPS[gap];
  });
  const sizes = RELATIVE.map((bits, at) => 4 + Math.ceil((bits * entries[at]) / 8));
  return { index: Math.min(Math.ceil(m.count / 8), ...sizes), strips };
}

// Weights that blocks and pattern keep, and bits of the pattern's index. Block and pattern fit each other
function patternOf(kept, m, count, { n, m: group }) {
  const places = n * (32 - Math.clz32(group - 1));
  if (m.cols >= group) {
    const full = (count * m.size) / group; // every group of a kept block is whole
    return { weights: full * n, bits: full * places };
  }
  const step = group / m.cols;
  let stay = 0, full = 0;
  for (let i = m.at, end = m.at + m.count; i < end; i += step) {
    let some = 0;
    for (let j = i; j < i + step; j++) some += kept[j];
    some *= m.cols;
    if (some > n) full++;
    stay += some > n ? n : some;
  }
  return { weights: m.rows * stay, bits: m.rows * full * places };
}
