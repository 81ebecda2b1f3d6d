// The histogram of the norms that one threshold divides, with its handle: drawn, and moved by hand or by keys.

const BINS = 140;
const ZERO = 8, ZERO_WIDE = 22, LEFT = 44; // where the bar of exact zeros and the others begin, in CSS pixels
const STEPS = {
  ArrowRight: 0.0025, ArrowUp: 0.0025, ArrowLeft: -0.0025, ArrowDown: -0.0025, PageUp: 0.05, PageDown: -0.05 };

class Histogram {
  // calls: grab() as a hand comes, moveTo(norm), step(present share => another) and rest() as it leaves
  constructor(canvas, grip, calls) {
    this.canvas = canvas;
    this.grip = grip;
    this.listen(calls);
  }

  listen(calls) {
    const { canvas, grip } = this;
    let held = false;
    const follow = (event) => calls.moveTo(this.normAt(event.clientX - canvas.getBoundingClientRect().left));
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      held = true;
      canvas.setPointerCapture(event.pointerId);
      grip.focus({ preventScroll: true });
      calls.grab();
      follow(event);
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => held && follow(event));
    for (const kind of ["pointerup", "pointercancel"])
      canvas.addEventListener(kind, () => {
        if (held) calls.rest();
        held = false;
      });
    grip.addEventListener("keydown", (event) => {
      const to = { Home: 0, End: 0.99 }[event.key], by = STEPS[event.key];
      if ((to ?? by) === undefined || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      calls.step((share) => Math.round((to ?? share + by) * 1e6) / 1e6);
    });
    grip.addEventListener("keyup", (event) => /Arrow|Page|Home|End/.test(event.key) && calls.rest());
  }

  // Show the norms of these scope keys: of one, or of all where the target is null. They are counted when first drawn
  show(model, scope, target) {
    Object.assign(this, { model, scope, target, counted: null });
  }

  // In each matrix, how many norms lie in bin 1 to BINS; bin 0: exactly zero
  get bins() {
    if (this.counted) return this.counted;
    const { norms, header } = this.model, shown = header.matrices.map((m, number) => [m, number])
      .filter(([m]) => this.target === null || scopeKey(m, this.scope) === this.target);
    const [low, high] = this.range(shown.map(([m]) => m)), scale = BINS / Math.log(high / low || 2);
    const binOf = (norm) => 1 + Math.max(0, Math.min(BINS - 1, Math.floor(Math.log(norm / low) * scale)));
    const counts = shown.map(([m]) => {
      const inBin = new Int32Array(BINS + 1);
      for (let i = m.at; i < m.at + m.count; i++) inBin[norms[i] > 0 ? binOf(norms[i]) : 0]++;
      return inBin;
    });
    const sums = Array.from({ length: BINS + 1 }, (_, bin) => counts.reduce((sum, one) => sum + one[bin], 0));
    const highest = Math.max(...sums.slice(1), 1);
    return (this.counted = { shown, counts, sums, low, high, scale, highest, all: total(sums) });
  }

  // From the 0.1% to the 99.9% quantile of what is not zero, of a sample; what is beyond goes into the last bins
  range(matrices) {
    const { norms, header } = this.model, sample = [];
    const every = Math.max(1, Math.floor(matrices.reduce((sum, m) => sum + m.count, 0) / 20000));
    for (const m of matrices)
      for (let i = m.at; i < m.at + m.count; i += every) if (norms[i] > 0) sample.push(norms[i]);
    sample.sort((a, b) => a - b);
    const at = (share) => sample[Math.min(sample.length - 1, Math.floor(share * sample.length))];
    let [low, high] = sample.length ? [at(0.001), at(0.999)] : [header.high / 10, header.high];
    high = Math.max(high, header.high) * 1.05;
    low = Math.max(Math.min(low, high / 3), high / 300) * 0.98;
    return [low, high];
  }

  get wide() {
    return this.canvas.clientWidth - LEFT - 10;
  }

  xOf(norm) {
    const { low, scale } = this.bins;
    if (norm <= 0) return ZERO + ZERO_WIDE + 5;
    return LEFT + this.wide * Math.max(0, Math.min(1, (Math.log(norm / low) * scale) / BINS));
  }

  normAt(x) {
    const { low, scale } = this.bins;
    if (x < LEFT - 6) return 0;
    return low * Math.exp((Math.max(0, Math.min(1, (x - LEFT) / this.wide)) * BINS) / scale);
  }

  // With the handle {target, share, norm}, and these words beside it
  draw(theme, handle, words) {
    const tall = theme.present ? 150 : 118, { context, width } = prepare(this.canvas, tall, theme);
    const bottom = tall - (theme.present ? 26 : 20), { wide } = this;
    this.drawBars(context, theme, bottom, wide);
    this.drawScale(context, theme, bottom, width);
    context.strokeStyle = theme.quiet;
    context.globalAlpha = 0.5;
    context.beginPath();
    context.moveTo(ZERO, bottom + 0.5);
    context.lineTo(LEFT + wide, bottom + 0.5);
    context.stroke();
    context.globalAlpha = 1;
    this.drawHandle(context, theme, bottom, width, handle.norm, words);
    this.tell(handle);
  }

  drawBars(context, theme, bottom, wide) {
    const { sums, highest, all } = this.bins, cutIn = this.cutIn(), step = wide / BINS;
    const height = (count) => (bottom - 22) * Math.sqrt(Math.min(1, count / highest));
    const bar = (x, wide, bin) => {
      const whole = height(sums[bin]), part = sums[bin] ? (whole * cutIn[bin]) / sums[bin] : 0;
      context.fillStyle = theme.kept;
      context.fillRect(x, bottom - whole, wide, whole - part);
      context.fillStyle = theme.gone;
      context.fillRect(x, bottom - part, wide, part);
    };
    for (let bin = 1; bin <= BINS; bin++) bar(LEFT + (bin - 1) * step, Math.max(0.5, step - 0.4), bin);
    bar(ZERO, ZERO_WIDE, 0);
    context.fillStyle = theme.quiet;
    context.textAlign = "center";
    const words = `${((100 * sums[0]) / all).toFixed(0)}%`;
    if (sums[0]) context.fillText(words, ZERO + ZERO_WIDE / 2, bottom - height(sums[0]) - 8);
  }

  // How many of each bin are cut: what is cut of a matrix lies in its lowest bins
  cutIn() {
    const { shown, counts } = this.bins, cutIn = new Int32Array(BINS + 1);
    shown.forEach(([m, number], at) => {
      let left = m.count - this.model.counts[number];
      for (let bin = 0; bin <= BINS && left > 0; bin++) {
        const here = Math.min(left, counts[at][bin]);
        cutIn[bin] += here;
        left -= here;
      }
    });
    return cutIn;
  }

  drawScale(context, theme, bottom, width) {
    const { low, high } = this.bins;
    context.fillText("0", ZERO + ZERO_WIDE / 2, bottom + 10);
    for (let power = -4; power < 4; power++)
      for (const digit of [1, 2, 5]) {
        const norm = digit * 10 ** power, x = Math.min(this.xOf(norm), width - 14);
        if (norm >= low && norm <= high * 1.001) context.fillText(brief(norm), x, bottom + 10);
      }
  }

  drawHandle(context, theme, bottom, width, norm, words) {
    const x = this.xOf(norm);
    context.strokeStyle = context.fillStyle = theme.ink;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x, 14);
    context.lineTo(x, bottom);
    context.stroke();
    const right = x + 20 + context.measureText(words).width < width;
    context.textAlign = right ? "left" : "right";
    context.fillText(words, x + (right ? 16 : -16), 9);
    this.grip.style.left = `${x}px`;
  }

  // Who hears the page where the handle stands
  tell({ target, share, norm }) {
    const threshold = target === null ? "" : `, threshold ${brief(norm)}`;
    this.grip.setAttribute("aria-valuenow", (100 * share).toFixed(2));
    this.grip.setAttribute("aria-valuetext", `${percent(share)} cut${threshold}`);
  }
}
