// Number formats and patterns of kept weights as text and as objects, as prune_core/precision/formats.py reads them.
// A format is {kind, bits, pattern}; formats are {scope, weights, activations, embeddings}.

const SCOPES = ["global", "layer", "type", "matrix"], MOST_GROUP = 64;
const ACTIVATIONS = { a8: "token", "a8-tensor": "tensor" };
const PLAIN = { kind: "float", bits: 32, pattern: null };

// '2:4' -> {n, m}; throws where it is none
function parsePattern(text) {
  const found = /^([1-9][0-9]?):([1-9][0-9]?)$/.exec(text.trim()), [n, m] = found ? found.slice(1).map(Number) : [0, 0];
  if (!(n >= 1 && n < m && m <= MOST_GROUP)) throw new Error(`pattern '${text.slice(0, 40)}' is not N:M`);
  return { n, m };
}

// '8', '4/2:4', '2:4', 'ternary', 'clusters-4'
function parseFormat(text) {
  text = text.trim();
  if (!text.includes("/") && text.includes(":")) text = `32/${text}`;
  const at = text.indexOf("/"), [number, pattern] = at < 0 ? [text, null] : [text.slice(0, at), text.slice(at + 1)];
  return { ...numberOf(number), pattern: pattern === null ? null : parsePattern(pattern) };
}

function numberOf(text) {
  const named = { 32: ["float", 32], 16: ["float", 16], ternary: ["ternary", 2], binary: ["binary", 1] };
  if (Object.hasOwn(named, text)) return { kind: named[text][0], bits: named[text][1] };
  if (/^[2-8]$/.test(text)) return { kind: "levels", bits: Number(text) };
  if (/^clusters-[2-8]$/.test(text)) return { kind: "clusters", bits: Number(text.at(-1)) };
  throw new Error(`bits '${text.slice(0, 40)}' are none that weights can have`);
}

// The text of the number alone: '8', 'ternary', 'clusters-4'
function numberText({ kind, bits }) {
  return { ternary: "ternary", binary: "binary", clusters: `clusters-${bits}` }[kind] ?? String(bits);
}

const patternText = (pattern) => (pattern ? `${pattern.n}:${pattern.m}` : "");

function formatText(format) {
  const number = numberText(format), pattern = patternText(format.pattern);
  return !pattern ? number : number === "32" ? pattern : `${number}/${pattern}`;
}

// '8 bits, 2:4', 'ternary', 'fp32'
function formatWords(format) {
  const { kind, bits } = format, pattern = patternText(format.pattern);
  const number = { ternary: "ternary", binary: "binary", clusters: `${bits}-bit clusters` }[kind] ??
    { 32: "fp32", 16: "bf16" }[bits] ?? `${bits} bits`;
  return pattern ? `${number}, ${pattern}` : number;
}

// K, the highest level; of clusters the number of values; 0 for floats
function topOf({ kind, bits }) {
  return { float: 0, levels: 2 ** (bits - 1) - 1, clusters: 2 ** bits - 1 }[kind] ?? 1;
}

const isPlain = (format) => format.kind === "float" && format.bits === 32 && !format.pattern;
const executable = ({ kind }) => kind === "levels" || kind === "ternary" || kind === "binary";

// Throws where the text is none
function parseFormats(text) {
  const [first, ...more] = text.trim().split(";"), weights = first || "32";
  const wrong = more.find((one) => !Object.hasOwn(ACTIVATIONS, one) && one !== "e8");
  if (wrong !== undefined) throw new Error(`formats '${text.slice(0, 80)}': '${wrong}' is none of a8, a8-tensor, e8`);
  if (new Set(more.map((one) => one[0])).size < more.length) throw new Error(`formats '${text.slice(0, 80)}' say it twice`);
  const at = weights.indexOf(":"), named = at >= 0 && SCOPES.includes(weights.slice(0, at));
  const scope = named ? weights.slice(0, at) : "global", each = named ? weights.slice(at + 1) : weights;
  const made = { scope, weights: each.split(",").map(parseFormat),
    activations: ACTIVATIONS[more.find((one) => Object.hasOwn(ACTIVATIONS, one))] ?? "",
    embeddings: more.includes("e8") ? 8 : 32 };
  if (scope === "global" && made.weights.length > 1) throw new Error(`formats '${text.slice(0, 80)}' are several`);
  return made;
}

// Whether everything is fp32 without a pattern
function plainFormats({ weights, activations, embeddings }) {
  return weights.every(isPlain) && !activations && embeddings === 32;
}

function formatsText(formats) {
  if (plainFormats(formats)) return "";
  const each = formats.weights.map(formatText).join(",");
  const text = formats.scope === "global" ? each : `${formats.scope}:${each}`;
  return text + ({ token: ";a8", tensor: ";a8-tensor" }[formats.activations] ?? "") +
    (formats.embeddings === 8 ? ";e8" : "");
}

// '8 bits, activations 8 bits', 'a format for each layer'
function formatsWords({ scope, weights, activations, embeddings }) {
  const said = [scope === "global" ? formatWords(weights[0]) : `a format for each ${scope}`];
  if (activations) said.push(activations === "token" ? "activations 8 bits" : "activations 8 bits for each tensor");
  if (embeddings === 8) said.push("embeddings 8 bits");
  return said.join(", ");
}

// Of every matrix its format, in the header's order
function formatsOf(header, { scope, weights }) {
  const keys = scopeKeys(header, scope), byKey = new Map(keys.map((key, at) => [key, weights[at]]));
  if (keys.length !== weights.length) throw new Error(`${weights.length} formats for ${keys.length} of scope ${scope}`);
  return header.matrices.map((m) => byKey.get(scopeKey(m, scope)));
}

// What is said of a model whose matrices have these formats, by the widest scope that can say it
function joined(header, byMatrix, { activations, embeddings }) {
  for (const scope of SCOPES) {
    const byKey = new Map();
    const alike = header.matrices.every((m, number) => {
      const key = scopeKey(m, scope), text = formatText(byMatrix[number]);
      if (!byKey.has(key)) byKey.set(key, byMatrix[number]);
      return formatText(byKey.get(key)) === text;
    });
    if (alike) return { scope, weights: [...byKey.values()], activations, embeddings };
  }
  return null; // never: each matrix has one
}

const READ = new Map(); // text -> what it says: read once, not in every frame

// {formats, each: of every matrix, kind: how it is executed} of a cut in this header
function readFormats(header, text = "") {
  let read = READ.get(text);
  if (!read || read.matrices !== header.matrices) {
    if (READ.size > 50) READ.clear();
    const formats = parseFormats(text);
    read = { matrices: header.matrices, formats, each: formatsOf(header, formats), kind: executedAs(formats) };
    READ.set(text, read);
  }
  return read;
}

// "plain"; "int8", which executes integers exactly, activations with a scale for each token; or "weights": stored in few bits, executed as floats.
// A pattern, and what the embeddings are stored in, change nothing
function executedAs({ weights, activations }) {
  if (activations === "token" && weights.every(executable)) return "int8";
  return weights.every(({ kind, bits }) => kind === "float" && bits === 32) && !activations ? "plain" : "weights";
}
