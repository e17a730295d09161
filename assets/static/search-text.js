// Excerpts on the search page: formulas as text where they are short, and nothing that is not prose or code.

const asFetched = Search.htmlToText;
Search.htmlToText = (page, anchor) => {
  const tree = new DOMParser().parseFromString(page, "text/html");
  for (const element of tree.querySelectorAll("svg, summary, .label, .run-box, .book-term")) element.remove();
  for (const formula of tree.querySelectorAll(".math")) {
    const text = formula.textContent.trim().slice(2, -2);
    formula.textContent = /[\\{}&]/.test(text) ? "\u2026" : text;
  }
  for (const block of tree.querySelectorAll("p, li, dt, dd, th, td, pre, h1, h2, h3, h4")) block.append(" ");
  return asFetched(tree.documentElement.outerHTML, anchor).replace(/\s+/g, " ");
};
