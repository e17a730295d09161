// Excerpts on the search page: formulas as text, and no text of figures, tables of contents or hidden definitions.

const asFetched = Search.htmlToText;
Search.htmlToText = (page, anchor) => {
  const tree = new DOMParser().parseFromString(page, "text/html");
  for (const element of tree.querySelectorAll("svg, .book-term, summary")) element.remove();
  for (const formula of tree.querySelectorAll(".math")) {
    const text = formula.textContent.trim().slice(2, -2);
    formula.textContent = /[\\{}&]/.test(text) ? "\u2026" : text;
  }
  return asFetched(tree.documentElement.outerHTML, anchor).replace(/\s+/g, " ");
};
