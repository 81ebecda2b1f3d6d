// Cuts that a hand has left behind, to be undone and done again. A cut is never changed in place.

const MOST = 200; // cuts that are kept

class CutHistory {
  constructor(cut) {
    this.past = [cut]; // the last is the present one
    this.future = [];
  }

  add(cut) {
    if (JSON.stringify(cut) === JSON.stringify(this.past.at(-1))) return;
    this.past.push(cut);
    if (this.past.length > MOST) this.past.shift();
    this.future = [];
  }

  get canUndo() {
    return this.past.length > 1;
  }

  get canRedo() {
    return this.future.length > 0;
  }

  // The cut to go back to
  undo() {
    this.future.push(this.past.pop());
    return this.past.at(-1);
  }

  // The cut that was undone last
  redo() {
    this.past.push(this.future.pop());
    return this.past.at(-1);
  }
}
