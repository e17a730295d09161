// The definition of a term beside it: while the pointer is on the word or on the definition, while the word has the focus, and by
// the first tap of a finger (the second follows the link). Escape puts it away.

let shown = null; // the link whose definition is shown, and the definition
let leaving;

function hide() {
  clearTimeout(leaving);
  shown?.definition.hidePopover();
  shown = null;
}

function hideSoon() {
  clearTimeout(leaving);
  leaving = setTimeout(() => {
    if (shown && document.activeElement !== shown.link && !shown.definition.matches(":hover")) hide();
  }, 300);
}

function show(link, definition) {
  clearTimeout(leaving);
  if (shown?.link === link) return;
  hide();
  shown = { link, definition };
  definition.showPopover();
  const word = link.getClientRects()[0];
  const box = definition.getBoundingClientRect();
  const edge = document.documentElement.clientWidth - box.width - 8;
  const fits = word.bottom + box.height + 4 < innerHeight;
  definition.style.left = `${scrollX + Math.max(8, Math.min(word.left, edge))}px`;
  definition.style.top = `${scrollY + (fits ? word.bottom + 4 : word.top - box.height - 4)}px`;
}

for (const link of document.querySelectorAll("a[aria-describedby^='about-term-']")) {
  const definition = document.getElementById(link.getAttribute("aria-describedby"));
  if (!definition.showPopover) continue; // an old browser follows the link
  let tapped = false;
  for (const part of [link, definition]) {
    part.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") show(link, definition); });
    part.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hideSoon(); });
  }
  link.addEventListener("pointerdown", (event) => { tapped = event.pointerType === "touch" && shown?.link !== link; });
  link.addEventListener("focus", () => show(link, definition));
  link.addEventListener("blur", hideSoon);
  link.addEventListener("click", (event) => {
    if (tapped) event.preventDefault();
    if (tapped) show(link, definition);
    tapped = false;
  });
}

addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
addEventListener("pointerdown", (event) => {
  if (shown && !shown.link.contains(event.target) && !shown.definition.contains(event.target)) hide();
});
