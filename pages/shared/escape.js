// Esc, pressed anywhere on the page, does what the button "End presentation" does.

export default function escape() {
  const end = (event) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    document.querySelector(".st-key-end-presentation button")?.click();
  };
  document.addEventListener("keydown", end);
  return () => document.removeEventListener("keydown", end);
}
