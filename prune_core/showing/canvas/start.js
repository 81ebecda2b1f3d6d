// Where the map begins: a view and the parts that draw it, each with what it calls when a hand moves something.

function makeView(root) {
  const view = new View(root), at = (selector) => root.querySelector(selector);
  const zoom = (name) => view.setZoom(name);
  view.teller = new Teller(() => view.describe(), () => view.snapshots.ids);
  view.histogram = new Histogram(at(".histogram"), at(".handle"), {
    grab: () => view.player.stop(), moveTo: (norm) => view.moveTo(norm), rest: () => view.commit(),
    step: (another) => view.step(another) });
  view.map = new EncoderMap(at(".map"), at(".tip"), at(".legend"), { zoom, click: (matrix) => view.clicked(matrix) });
  view.player = new Player(root, {
    ready: () => Boolean(view.snapshots.frames), load: () => ((view.snapshots.wanted = true), view.teller.now()),
    show: (number) => view.show(number), rest: () => view.teller.soon(), stopped: () => view.teller.now() });
  view.controls = new Controls(root, {
    setScope: (scope) => view.setScope(scope), setKey: (key) => view.take(view.cut, key), zoom,
    setShare: (share) => view.typeShare(share), setNorm: (norm) => view.typeNorm(norm),
    undo: () => view.history.canUndo && view.go(view.history.undo()),
    redo: () => view.history.canRedo && view.go(view.history.redo()),
    reset: () => view.take(view.header.usual),
    pin: () => view.pin(), goTo: (pin) => view.goTo(pin),
    copy: () => (view.teller.now(), copyAddress(at(".copy"))),
    setFormats: (text) => view.setFormats(text), setPart: (part) => view.setPart(part),
    unpin: ({ name }) => view.setPins(view.pins.filter((pin) => pin.name !== name)),
    save: (kind) => save(kind, view.map, `${view.header.run}-${view.snapshots.shown.label}`) });
  document.addEventListener("prunescope-exact", ({ detail }) => root.isConnected && view.hear(detail));
  new ResizeObserver(() => view.header && view.repaint()).observe(root);
  return view;
}

// One module for all: Streamlit and a report call it with the place to draw in; anywidget and marimo with nothing, to
// ask how a widget is drawn
export default function draw(host) {
  return host ? drawAt(host) : { render: drawWidget };
}

function drawAt({ parentElement, data, setStateValue }) {
  const root = parentElement.querySelector(".prunescope");
  const view = (root.view ??= makeView(root)); // kept at the element: Streamlit may load this module again
  view.receive(data instanceof Uint8Array ? data : new Uint8Array(data), (state) => setStateValue("view", state));
  return () => view.player.stop();
}
