// Which of the run's snapshots is shown, and what has come of the others: it stays, so that going back needs no server.

const KEPT = 64, KEPT_BYTES = 100e6; // snapshots whose norms stay in the browser

class Snapshots {
  constructor() {
    this.sent = new Map(); // id -> header and norms of a snapshot, as they came; the oldest first
    this.frames = null; // the norms of all snapshots, as uint16
    this.scale = 0; // the norm that the largest of them stands for
    this.wanted = false; // whether Python was asked for frames
  }

  keep(id, header, norms) {
    this.sent.delete(id);
    this.sent.set(id, { header, norms });
    const room = Math.min(KEPT, Math.max(2, Math.floor(KEPT_BYTES / norms.byteLength)));
    for (const oldest of this.ids.slice(0, -room)) if (oldest !== this.id) this.sent.delete(oldest);
  }

  keepFrames(frames, scale) {
    Object.assign(this, { frames, scale, wanted: false });
  }

  get ids() {
    return [...this.sent.keys()];
  }

  // As Python is told: whether frames are here
  get have() {
    return this.wanted ? "want" : this.frames ? "have" : "none";
  }

  // The snapshot in view, of all in the header
  get shown() {
    return this.header.moments[this.number];
  }

  // Header and norms as Python has sent them are what is shown and counted
  use(id) {
    const { header, norms } = this.sent.get(id);
    Object.assign(this, { id, header, exact: norms, model: makeModel(header, norms), behind: false });
    // A run that is being trained has more snapshots by now
    if (this.frames && this.frames.length !== header.groups * header.moments.length) this.frames = null;
  }

  // Turn to another; whether its norms, or those of its frame, are here and in the model now
  show(number, playing) {
    this.number = Math.max(0, Math.min(this.header.moments.length - 1, number));
    const known = !playing && this.idOf(this.number);
    if (known && known !== this.id) this.use(known);
    const { header, exact } = this, here = this.number === header.moment;
    this.behind = !here && !this.frames; // what is in the model is another snapshot until Python has sent this one
    if (this.behind) return false;
    const { surfaces } = this.shown;
    Object.assign(this.model, here ? { norms: exact, header }
      : { norms: this.rough(this.number, header.groups), header: this.plain(header, surfaces) });
    this.model.sorted.clear();
    return true;
  }

  // For a snapshot of which only norms are here: its scores were recorded for cuts by norm that are not repaired
  plain(header, surfaces) {
    return { ...header, value: "norm", surfaces: header.repaired ? {} : surfaces, exact: this.shown.exact };
  }

  // Under which id a snapshot came last, ranked and predicted as what is in view
  idOf(number) {
    const { run, kind, moments } = this.header;
    const same = ({ header }) => header.moment === number && header.run === run && header.kind === kind &&
      header.moments.length === moments.length;
    return [...this.sent].findLast(([, one]) => same(one))?.[0];
  }

  // Under which id Python sent this snapshot last, however it is ranked there and however far the run was
  newest(number) {
    const { run } = this.header;
    return [...this.sent].findLast(([, { header }]) => header.run === run && header.moment === number)?.[0];
  }

  // The norms of a snapshot as its frame has them
  rough(number, groups) {
    const norms = new Float32Array(groups), from = number * groups;
    for (let i = 0; i < groups; i++) norms[i] = (this.frames[from + i] / 65535) * this.scale;
    return norms;
  }
}
