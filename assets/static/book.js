// What the theme leaves undone: wide equations can be scrolled with the keyboard, dialogs have names and give the focus
// back, and paper is light and shows what is folded away.

function makeScrollable() {
  for (const equation of document.querySelectorAll("mjx-container[display='true']")) {
    if (equation.scrollWidth > equation.clientWidth) equation.tabIndex = 0;
    else equation.removeAttribute("tabindex");
  }
}

addEventListener("load", () => {
  const typeset = window.MathJax?.startup?.promise;
  if (typeset) typeset.then(() => new ResizeObserver(makeScrollable).observe(document.querySelector("article")));
});

const dialogs = { "pst-search-dialog": "Search", "pst-primary-sidebar-modal": "Contents", "pst-secondary-sidebar-modal": "On this page" };
for (const [id, name] of Object.entries(dialogs)) document.getElementById(id)?.setAttribute("aria-label", name);

// The theme takes the focus from a button that was pressed; whoever pressed it with a key would lose her place.
for (const button of document.querySelectorAll(".theme-switch-button, .search-button, .sidebar-toggle")) {
  button.blur = () => { if (!button.matches(":focus-visible")) HTMLElement.prototype.blur.call(button); };
}

addEventListener("beforeprint", () => {
  const root = document.documentElement;
  const theme = root.dataset.theme;
  const folded = document.querySelectorAll("article details:not([open])");
  root.dataset.theme = "light";
  for (const details of folded) details.open = true;
  addEventListener("afterprint", () => {
    root.dataset.theme = theme;
    for (const details of folded) details.open = false;
  }, { once: true });
});
