// What Python is told of the map: once the hand rests, and only what is new.

const REST = 250; // milliseconds without a movement after which the hand rests

class Teller {
  // describe(): what the map shows, null before anything; ids(): what of it stays in the browser
  constructor(describe, ids) {
    Object.assign(this, { describe, ids, told: null, at: 0 });
  }

  soon() {
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.now(), REST);
    if (this.pace && Date.now() - this.at >= this.pace) this.now(); // a notebook follows the hand
  }

  now() {
    clearTimeout(this.resting);
    const view = this.describe(), text = JSON.stringify(view);
    if (text === this.told) return;
    this.told = text;
    this.at = Date.now();
    this.say(view);
    announce(true);
  }

  // Python takes this browser for having what it has not (a new element): it is told what is really here
  again() {
    this.told = null;
    if (this.describe()) this.now();
    else this.say({});
  }

  // What it shows now came from there
  agree() {
    clearTimeout(this.resting);
    this.told = JSON.stringify(this.describe());
  }

  say(view) {
    document.prunescopeTold = Date.now();
    this.send({ ...view, has: this.ids(), number: document.prunescopeTold });
  }
}

// So that other parts of the page can wait until the hand rests
function announce(rests) {
  document.dispatchEvent(new CustomEvent("prunescope-map", { detail: { rests } }));
}
