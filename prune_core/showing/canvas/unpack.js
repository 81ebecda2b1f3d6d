// Reads what Python sends: a length, JSON {id, header, now}, float32 norms of all matrices end to end, then uint16
// frames, the norms of all snapshots. Header and norms are left out where they came before under the same id.

function unpack(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0, true);
  const { id, header, now } = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const copy = bytes.slice(4 + length); // so that the norms lie at a multiple of four
  const groups = header ? measure(header) : 0;
  const norms = header ? new Float32Array(copy.buffer, 0, groups) : null;
  return { id, header, now, norms, frames: now.frames ? new Uint16Array(copy.buffer, 4 * groups) : null };
}

// Adds where each matrix's groups lie and how large they are; returns how many there are in all
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
