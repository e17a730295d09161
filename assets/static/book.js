// What the theme leaves undone: wide equations can be scrolled with the keyboard, and paper is light and shows what is folded away.

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
