// The state of the map: snapshot, cut, zoom, pins. Parts draw it, hands change it, Python is told of it.

class View {
  // Its parts (histogram, map, player, controls) and its teller are given to it in start.js
  constructor(root) {
    Object.assign(this, { root, pins: [], snapshots: new Snapshots() });
  }

  get header() {
    return this.snapshots.header;
  }

  get model() {
    return this.snapshots.model;
  }

  // What the handle moves: a scope key, or null for all of them together
  get target() {
    return this.cut.scope === "global" ? "all" : this.key;
  }

  // Where the handle stands
  get handle() {
    const { model, cut, target } = this, share = shareOf(model, cut, target, this.counted?.sparsity ?? 0);
    return { target, share, norm: normOf(model, cut, target, share) };
  }

  // ---- what Python sends

  receive(bytes, send) {
    this.teller.send = send;
    const { id, header, now, norms, frames } = unpack(bytes), { snapshots } = this;
    if (header) snapshots.keep(id, header, norms);
    if (!snapshots.sent.has(id)) return this.teller.again();
    if (frames) snapshots.keepFrames(frames, now.frames.scale);
    const sent = snapshots.sent.get(id).header, other = sent.run !== this.header?.run, { number } = snapshots;
    if (other) this.open(id, sent, now, frames);
    else if (id !== snapshots.id && (sent.moment === number || this.header.moment !== number)) this.follow(id);
    if (!other && now.command && now.command.id !== this.commanded) {
      this.commanded = now.command.id;
      this.goTo({ moment: this.snapshots.number, ...now.command });
    }
    this.root.classList.toggle("present", Boolean(now.present));
    this.theme = readTheme(this.root, Boolean(now.present));
    this.paint();
    if (this.player.waiting && snapshots.frames) this.player.play();
    if (other) requestAnimationFrame(() => this.teller.now()); // the map is there: now what takes longer may be drawn
  }

  // Another run
  open(id, { moment, start }, now, frames) {
    this.snapshots.use(id);
    this.snapshots.number = moment;
    if (!frames) this.snapshots.frames = null;
    this.pins = start.pins ?? [];
    this.zoom = start.zoom ?? null;
    this.cut = start.cut;
    this.key = start.key ?? null;
    this.commanded = now.command?.id;
    this.showNorms();
    this.history = new CutHistory(this.cut);
    this.fill();
  }

  // Another snapshot of the run in view, or the same with other numbers
  follow(id) {
    this.snapshots.use(id);
    this.showNorms();
    if (this.header.moment !== this.snapshots.number) this.show(this.snapshots.number); // a hand has moved on meanwhile
    this.fill();
  }

  // ---- moving the threshold

  moveTo(norm) {
    this.change(cutAtNorm(this.model, this.cut, this.target, norm));
  }

  setShare(share) {
    this.change(cutAtShare(this.model, this.cut, this.target, share));
  }

  setScope(scope) {
    if (scope === this.cut.scope) return;
    announce(false);
    this.take({ scope, share: Math.round(this.counted.sparsity * 1000) / 1000 });
  }

  // In a drag
  change(cut) {
    this.cut = cut;
    this.repaint();
    announce(false);
    this.teller.soon();
  }

  // At once
  take(cut, key = null) {
    this.key = key;
    this.cut = complete(this.model, cut);
    this.fill();
    this.commit();
  }

  // The hand has left: what can be undone, and what Python is told
  commit() {
    this.history.add(this.cut);
    this.repaint();
    this.teller.now();
  }

  // Back or on to a cut of the history
  go(cut) {
    if (cut.scope !== this.cut.scope) this.key = null;
    this.cut = complete(this.model, cut);
    this.refresh();
  }

  setZoom(name) {
    this.zoom = name;
    this.refresh();
  }

  // ---- pins

  pin() {
    this.setPins(withPin(this.pins, this.snapshots.number, this.cut, this.counted, alike(this.model.header, this.cut)));
  }

  setPins(pins) {
    this.pins = pins;
    this.fill();
    this.commit();
  }

  goTo(pin) {
    this.player.stop();
    if (pin.moment !== this.snapshots.number) this.show(pin.moment);
    this.take(pin.cut);
  }

  // ---- snapshots

  // Show another: at once where it is here, else when Python has sent it
  show(number) {
    if (this.snapshots.show(number, this.player.playing)) this.showNorms();
    this.player.show(this.header, this.snapshots.number);
    this.repaint();
  }

  // Other norms under the same cut
  showNorms() {
    this.cut = complete(this.model, this.cut);
    this.map.show(this.model);
    this.histogram.show(this.model, this.cut.scope, this.target);
  }

  // ---- what is seen and told

  // As Python is told
  describe() {
    if (!this.header) return null;
    const { header: { run }, snapshots, cut, key, pins, zoom } = this;
    return { run, moment: snapshots.number, cut: briefly(cut), key, zoom, pins, frames: snapshots.have };
  }

  // Everything but numbers and pictures: what changes with a click, not in a drag
  fill() {
    const { header, model, cut, target, snapshots } = this;
    this.controls.fill(header, cut.scope === "global" ? [] : scopeKeys(header, cut.scope), this);
    this.histogram.show(model, cut.scope, target);
    this.player.show(header, snapshots.number);
  }

  refresh() {
    this.fill();
    this.repaint();
    this.teller.now();
  }

  repaint() {
    if (this.dirty) return;
    this.dirty = true;
    requestAnimationFrame(() => ((this.dirty = false), this.paint()));
  }

  paint() {
    const { root, model, cut, theme } = this;
    if (!this.header || !root.isConnected || !root.clientWidth) return;
    const start = performance.now();
    this.counted = numbers(model, cut);
    const { handle } = this;
    writeCards(root, this.counted, alike(model.header, cut), this.pins.at(-1));
    this.controls.write(handle, this.history);
    this.histogram.draw(theme, handle, wordsFor(cut, handle));
    this.map.draw(theme, this.zoom, this.counted.sparsity);
    root.dataset.drawMs = (performance.now() - start).toFixed(2);
  }
}
