// The state of the map: snapshot, cut, zoom, pins. Parts draw it, hands change it, Python is told of it.

class View {
  // Its parts (histogram, map, player, controls) and its teller are given to it in start.js
  constructor(root) {
    Object.assign(this, { root, pins: [], bits: { scope: "global", key: null }, snapshots: new Snapshots() });
    this.answers = new Answers();
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

  // Where the handle stands: `share` is what is really cut of all that it moves, `shares` of every scope key
  get handle() {
    const { model, cut, target } = this, shares = sharesUpTo(model, cut.scope, cut.thresholds);
    const share = target === null ? this.sparsity : shares[target];
    return { target, share, shares, norm: normOf(model, cut, target, share) };
  }

  // What the blocks cut of all weights; a pattern that leaves out more is no matter of the handle
  get sparsity() {
    const { model, cut, counted } = this;
    if (counted?.of === cut && counted.norms === model.norms) return counted.cut;
    return 1 - mask(model, cut) / model.header.encoderWeights;
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
    this.theme = readTheme(this.root, now.present);
    if (document.prunescopeExact) this.hear(document.prunescopeExact);
    this.paint();
    if (this.player.waiting && snapshots.frames) this.player.play();
    if (other) requestAnimationFrame(() => this.teller.now()); // the map is there: now what takes longer may be drawn
  }

  // Another run
  open(id, sent, now, frames) {
    const { moment, start } = sent;
    this.snapshots.use(id);
    this.snapshots.number = moment;
    if (!frames) this.snapshots.frames = null;
    this.pins = start.pins ?? [];
    this.against = this.pins.at(-1)?.name;
    for (const answer of sent.answers ?? []) this.answers.hear(answer);
    this.zoom = start.zoom ?? null;
    this.cut = start.cut;
    this.key = start.key ?? null;
    this.commanded = now.command?.id;
    this.bits = { scope: parseFormats(this.cut.formats ?? "").scope, key: null };
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
    this.teller.soon(); // how much of it is zero already is known only now
  }

  // ---- moving the threshold

  moveTo(norm) {
    this.change(cutAtNorm(this.model, this.cut, this.target, norm));
  }

  // By a key: to another share, further where that cuts no other block
  step(another) {
    const { share } = this.handle, by = another(share) - share, { model, target } = this;
    let cut = this.cut;
    for (let to = share + by; by && sameCut(cut, this.cut); to += by) {
      cut = cutAtShare(model, this.cut, target, to);
      if (to <= 0 || to >= MOST_CUT) break;
    }
    this.change(cut);
  }

  // As typed. What cannot be had is said
  typeShare(share) {
    const { model, cut, target } = this, zero = zeroShares(model, target === null ? "global" : cut.scope)[target ?? "all"];
    this.change(cutAtShare(model, cut, target, share));
    if (share > MOST_CUT) this.said = `At most ${percent(MOST_CUT)} can be cut: something has to be left`;
    else if (share < zero - 5e-5) this.said = `${percent(Math.max(0, share))} cannot be had: ${percent(zero)} is zero already`;
    else if (share < 0) this.said = "Less than nothing cannot be cut";
    this.commit();
  }

  typeNorm(norm) {
    this.moveTo(norm);
    if (norm < 0) this.said = "A threshold is never below 0";
    this.commit();
  }

  setScope(scope) {
    if (scope === this.cut.scope) return;
    announce(false);
    const { formats } = this.cut, share = Math.round(this.sparsity * 1e4) / 1e4;
    this.take(cutAtShare(this.model, { scope, formats }, null, share));
  }

  // ---- bits and patterns

  setFormats(formats) {
    this.take({ ...this.cut, formats }, this.key);
  }

  // What a choice of bits sets from now on
  setPart(part) {
    this.bits = part;
    this.fill();
    this.repaint();
  }

  // On a matrix of the map: it is shown alone; where parts have bits of their own, first it is the part that is set
  clicked(matrix) {
    const { scope, key } = this.bits, its = scopeKey(matrix, scope);
    if (scope === "global" || key === its) this.setZoom(matrix.name);
    else this.setPart({ scope, key: its });
  }

  // In a drag
  change(cut) {
    this.cut = cut;
    this.said = "";
    this.repaint();
    announce(false);
    this.teller.soon();
  }

  // At once
  take(cut, key = null) {
    this.key = key;
    this.cut = complete(this.model, cut);
    this.said = "";
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
    this.said = "";
    this.cut = complete(this.model, cut);
    this.refresh();
  }

  setZoom(name) {
    this.zoom = name;
    this.refresh();
  }

  // ---- pins

  pin() {
    const { model, cut, header: { precision } } = this, counted = numbers(model, cut);
    const pinned = { ...this.identity, precision, cut: settled(model, cut) };
    const pins = withPin(this.pins, pinned, counted, this.knownOf(counted));
    this.against = pins.at(-1).name;
    this.setPins(pins);
  }

  setPins(pins) {
    this.pins = pins;
    if (!pins.some(({ name }) => name === this.against)) this.against = pins.at(-1)?.name;
    this.fill();
    this.commit();
  }

  goTo(pin) {
    this.player.stop();
    this.against = pin.name;
    if (pin.moment !== this.snapshots.number) this.show(pin.moment);
    const { header: { asks, ...now } } = this, ranking = pin.ranking ?? "norm";
    const precision = pin.precision ?? "auto", dtype = pin.dtype ?? "fp32";
    const otherwise = Boolean(now.repaired) !== Boolean(pin.repaired) ||
      (now.precision ?? "auto") !== precision || (now.dtype ?? "fp32") !== dtype;
    // The page's own settings follow the pin
    if (asks && (asks !== ranking || otherwise))
      this.asked = { id: Date.now(), ranking, repaired: Boolean(pin.repaired), precision, dtype };
    this.take(pin.cut);
  }

  // ---- scores

  // Which cut of which weights this is
  get identity() {
    const { header, cut: { scope, thresholds, formats }, snapshots: { number } } = this;
    const { run, value, repaired, dtype } = this.model.header;
    return { run: run ?? header.run, moment: number, ranking: value, repaired, dtype, scope, thresholds, formats };
  }

  knownOf(counted) {
    return known(this.model.header, this.cut, counted, this.answers.of(this.identity));
  }

  // Python tells how the exact score of a cut stands; a pin of that cut has it too
  hear(told) {
    if (!this.header || told.run !== this.header.run) return;
    this.answers.hear(told);
    const pins = withAnswer(this.pins, told);
    if (pins !== this.pins) {
      this.pins = pins;
      this.fill();
      this.teller.soon();
    }
    this.repaint();
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

  // As Python sent it last, where it has: the run may have grown, or is ranked otherwise now
  turnTo(moment) {
    const { snapshots } = this, id = snapshots.newest(moment);
    if (!id) return moment === snapshots.number || this.show(moment);
    if (id === snapshots.id && moment === snapshots.number) return;
    snapshots.use(id);
    snapshots.number = moment;
    this.showNorms();
  }

  // ---- what is seen and told

  // What another view of the same widget shows, or what was set in Python: nothing of it is told back
  adopt({ moment, cut, key = null, zoom = null, pins = [] }) {
    this.player.stop();
    this.turnTo(moment);
    const keys = cut.scope === "global" ? [] : scopeKeys(this.header, cut.scope);
    Object.assign(this, { zoom, pins, key: keys.includes(key) ? key : null, cut: complete(this.model, cut), said: "" });
    if (!pins.some(({ name }) => name === this.against)) this.against = pins.at(-1)?.name;
    this.history.add(this.cut);
    this.fill();
    this.repaint();
    this.teller.agree();
  }

  // As Python is told
  describe() {
    if (!this.header) return null;
    const { header: { run }, snapshots, cut, key, pins, zoom } = this;
    const told = { ...briefly(this.model, cut), ...(snapshots.behind && cut.share != null && { share: cut.share }) };
    const { asked } = this;
    return { run, moment: snapshots.number, cut: told, key, zoom, pins, frames: snapshots.have, asked };
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
    this.counted = { ...numbers(model, cut), of: cut, norms: model.norms };
    const { handle, counted } = this, pin = this.pins.find(({ name }) => name === this.against);
    root.classList.toggle("late", Boolean(this.snapshots.behind));
    writeCards(root, this.header.title, counted, this.knownOf(counted), pin);
    writeSpeedup(root, this.header, counted);
    writeBytes(root, counted, pin);
    writeParts(root, counted, this.said);
    this.controls.write(handle, this.history);
    this.words = wordsFor(model, cut, handle);
    this.histogram.draw(theme, handle, this.words);
    this.map.draw(theme, this.zoom, this.counted.cut, readFormats(model.header, cut.formats).each, this.bits);
    root.dataset.drawMs = (performance.now() - start).toFixed(2);
  }
}
