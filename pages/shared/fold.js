// Folds the sidebar in a narrow window, once a page: Streamlit does so by itself only under 768 px. Its button opens it.
(() => {
  const NARROW = 1000, KEY = "stSidebarCollapsed-";
  const fold = (again) => {
    const page = window.location.pathname, sidebar = document.querySelector("[data-testid=stSidebar][data-collapsed=false]");
    if (window.innerWidth > NARROW || !sidebar || (!again && window.prunescopeFolded === page)) return;
    window.prunescopeFolded = page;
    const before = Object.keys(localStorage).filter((key) => key.startsWith(KEY)).map((key) => [key, localStorage[key]]);
    sidebar.querySelector("[data-testid=stSidebarCollapseButton] button")?.click();
    // Streamlit keeps a click as the person's wish, for wide windows too; this was none
    setTimeout(() => {
      Object.keys(localStorage).filter((key) => key.startsWith(KEY)).forEach((key) => localStorage.removeItem(key));
      before.filter(([, folded]) => folded === "true").forEach(([key, folded]) => { localStorage[key] = folded; });
    }, 0);
  };
  fold(false);
  if (!window.prunescopeWatches) {
    window.prunescopeWatches = true;
    window.addEventListener("resize", () => setTimeout(() => fold(true), 50));
  }
})();
