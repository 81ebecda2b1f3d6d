// Numbers and names in words, as a person reads them.

// 50.0%, 2.00x, 0.123
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const times = (value) => (value === Infinity ? "all cut" : `${value.toFixed(2)}x`);
// 6.7 MB, 48.2 kB
const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const brief = (value) => (value === 0 ? "0" : value.toPrecision(3).replace(/\.?0+$/, ""));

// The shortest decimal that is this float32
function shortest(value) {
  for (let digits = 1; digits < 10; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}

// "layer 0 query"; matrix.name is the name of its parameter
const nameOf = (matrix) => `layer ${matrix.layer} ${matrix.type}`;

// "row 3", "rows 64–127"
function span(word, from, count) {
  return count === 1 ? `${word} ${from}` : `${word}s ${from}–${from + count - 1}`;
}

// For SVG
function escaped(text) {
  return text.replace(/[<>&"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
