// Which questions the reader has answered right: marked at the question, counted below the last one of a section, and
// remembered in this browser alone, by page and question. A question whose text or answer has changed is a new one.

(() => {
  const KEY = `rnn2rag-quiz:${location.pathname}`;
  let isRemembered = false; // storage may be full, or closed to this page: then it counts until the page is left

  function load() {
    try {
      const names = new Set(JSON.parse(localStorage.getItem(KEY)));
      isRemembered = names.size > 0;
      return names;
    } catch {
      return new Set();
    }
  }

  function save(names) {
    try {
      if (names.size) localStorage.setItem(KEY, JSON.stringify([...names]));
      else localStorage.removeItem(KEY);
      isRemembered = true;
    } catch {
      isRemembered = false;
    }
  }

  function question(box) {
    const right = [...box.querySelectorAll("details")].find(
      (choice) => choice.querySelector("strong").textContent === "Right.",
    );
    const asked = box.querySelector(".rnn2rag-question");
    return { box, asked, right, name: `${asked.textContent}\n${right.querySelector("summary").textContent}` };
  }

  function element(tag, className, text = "") {
    return Object.assign(document.createElement(tag), { className, textContent: text });
  }

  // Counts the questions of one section in a line below the last of them.
  function score(questions) {
    const line = element("p", "rnn2rag-score");
    const count = element("span", "");
    const forget = element("button", "", "Forget my answers");
    count.setAttribute("role", "status");
    count.tabIndex = -1;
    forget.type = "button";
    line.append(count, " ", forget);
    questions.at(-1).box.after(line);

    function update() {
      const right = questions.filter(({ name }) => answered.has(name));
      for (const { asked, name } of questions) {
        asked.querySelector(".rnn2rag-answered")?.remove();
        if (answered.has(name)) asked.append(element("span", "rnn2rag-answered", " Answered right"));
      }
      count.textContent = `${right.length} of ${questions.length} questions answered right.`;
      if (right.length && isRemembered) count.textContent += " Remembered in this browser only.";
      forget.hidden = !right.length;
    }

    for (const { right, name } of questions) {
      // A click, by finger, mouse or keyboard: printing and searching the page open choices too, and answer nothing.
      right.querySelector("summary").addEventListener("click", () => {
        if (right.open || answered.has(name)) return;
        answered.add(name);
        save(answered);
        update();
      });
    }
    forget.addEventListener("click", () => {
      for (const { box, name } of questions) {
        answered.delete(name);
        for (const choice of box.querySelectorAll("details")) choice.open = false;
      }
      save(answered);
      update();
      count.focus();
    });
    update();
  }

  const answered = load();
  const sections = new Map();
  for (const box of document.querySelectorAll(".rnn2rag-quiz")) {
    const section = box.closest("section");
    sections.set(section, [...(sections.get(section) ?? []), question(box)]);
  }
  const known = new Set([...sections.values()].flat().map(({ name }) => name));
  for (const name of answered) if (!known.has(name)) answered.delete(name);
  for (const questions of sections.values()) score(questions);
})();
