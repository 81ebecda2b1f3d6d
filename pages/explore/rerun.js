// Asks Python to run the fragment that this ends again: when the map has come to rest, or after a while.
// The Python file beside it says why it asks again, later and later, until it is answered.

export default function rerun({ parentElement, data, setTriggerValue }) {
  const here = (parentElement.rerun ??= {}); // kept at the element: this module may be loaded again
  const ask = (after, patience = data.of === "map" ? 1200 : 3000) => {
    clearTimeout(here.timer);
    here.timer = setTimeout(() => {
      setTriggerValue("now", Date.now());
      ask(patience, 2 * patience);
    }, after);
  };
  const answered = () => {
    if (data.answered < (here.wanted ?? 0)) return;
    clearTimeout(here.timer);
    here.due = false;
  };
  const listen = (heard) => {
    document.removeEventListener("prunescope-map", here.heard);
    document.addEventListener("prunescope-map", (here.heard = heard));
  };
  if (data.of === "map") {
    document.prunescopeCalm = data.calm;
    document.prunescopeAnswered = data.answered;
    answered();
    listen(({ detail }) => {
      if (detail.came || !detail.rests) return;
      here.wanted = document.prunescopeTold;
      ask(600 + data.calm / 2); // the map itself has asked already
    });
  } else if (data.of === "after the map") {
    answered();
    const follow = () => here.due && (here.seen || !data.drawn) && ask(data.drawn ? document.prunescopeCalm : 0);
    listen(({ detail }) => {
      clearTimeout(here.timer);
      here.due = detail.rests;
      here.wanted = detail.rests ? document.prunescopeTold : Infinity;
      follow();
    });
    here.eye?.disconnect();
    const look = (seen) => ((here.seen = seen.at(-1).isIntersecting), follow());
    here.eye = new IntersectionObserver(look, { rootMargin: "100px" });
    here.eye.observe(document.querySelector(".st-key-after-the-map"));
    if (!data.drawn && document.prunescopeTold && !here.wanted) {
      here.wanted = document.prunescopeTold;
      ask(0);
    }
  } else if (data.every) {
    here.waited = true;
    ask(data.every);
  } else {
    clearTimeout(here.timer);
    if (here.waited) document.dispatchEvent(new CustomEvent("prunescope-map", { detail: { rests: true, came: true } }));
    here.waited = false;
  }
  return () => {
    clearTimeout(here.timer);
    here.eye?.disconnect();
    document.removeEventListener("prunescope-map", here.heard);
  };
}
