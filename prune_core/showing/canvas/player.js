// The row under the map that leads through the run's snapshots: play, step, drag.

const FRAME = 420; // milliseconds for which a snapshot stands while playing

class Player {
  // calls: ready() whether all snapshots are here, load() them, show(number), rest() soon, stopped()
  constructor(root, calls) {
    this.calls = calls;
    this.timer = null; // while it plays
    this.waiting = false; // for snapshots, to play them
    this.at = (selector) => root.querySelector(selector);
    this.at(".play").addEventListener("click", () => (this.going ? this.stop() : this.play()));
    this.at(".back").addEventListener("click", () => this.step(-1));
    this.at(".forward").addEventListener("click", () => this.step(1));
    this.at(".snapshot").addEventListener("input", (event) => this.go(Number(event.target.value)));
  }

  get playing() {
    return this.timer !== null;
  }

  get going() {
    return this.playing || this.waiting;
  }

  play() {
    this.waiting = !this.calls.ready();
    if (this.waiting) {
      this.draw();
      return this.calls.load();
    }
    if (this.number >= this.last) this.calls.show(0);
    this.timer = setInterval(() => (this.number >= this.last ? this.stop() : this.calls.show(this.number + 1)), FRAME);
    this.draw();
  }

  stop() {
    this.waiting = false;
    if (!this.playing) return;
    clearInterval(this.timer);
    this.timer = null;
    this.draw();
    this.calls.stopped();
  }

  step(by) {
    this.go(this.number + by);
  }

  go(number) {
    this.stop();
    this.calls.show(number);
    this.calls.rest();
  }

  // Stand at a snapshot of this run
  show(header, number) {
    Object.assign(this, { snapshots: header.moments, playable: header.playable !== false, number });
    this.size = `${Math.max(0.1, (2 * header.groups * header.moments.length) / 1e6).toFixed(1)} MB`;
    this.draw();
  }

  get last() {
    return this.snapshots.length - 1;
  }

  draw() {
    const { snapshots, number, last, going } = this, { label } = snapshots[number];
    const range = this.at(".snapshot"), play = this.at(".play");
    range.max = last;
    range.value = number;
    range.style.setProperty("--at", `${(100 * number) / Math.max(1, last)}%`);
    range.setAttribute("aria-valuetext", label);
    const words = this.waiting ? `loading ${snapshots.length} snapshots, ${this.size} …` : label;
    this.at(".when").textContent = this.at(".when").title = words;
    play.textContent = going ? "❚❚" : "▶";
    play.setAttribute("aria-label", going ? "Pause" : "Play the reweighting");
    play.disabled = !this.playable;
    play.title = play.disabled ? "Too large to be played at once: step through it, or drag" : "";
    this.at(".back").disabled = number === 0;
    this.at(".forward").disabled = number === last;
    this.at(".player").hidden = !last;
    this.at(".marks").replaceChildren(...this.marked().map((at) => this.mark(snapshots[at], at)));
  }

  // Which snapshots are marked: ends of stages, and the milestones that do not run into others
  marked() {
    const wide = this.at(".marks").clientWidth || 400, placeOf = (at) => (at / Math.max(1, this.last)) * wide;
    const marks = [...this.snapshots.keys()].filter((at) => this.snapshots[at].end);
    this.snapshots.forEach(({ milestone }, at) => {
      const near = (other) => Math.abs(placeOf(at) - placeOf(other)) < 7;
      if (milestone && !marks.some(near)) marks.push(at);
    });
    return marks.sort((a, b) => a - b);
  }

  // A milestone or the end of a stage, on the track
  mark({ end, label }, at) {
    const mark = document.createElement("i");
    mark.className = end ? "end" : "milestone";
    mark.style.left = `${(100 * at) / Math.max(1, this.last)}%`;
    mark.title = label;
    return mark;
  }
}
