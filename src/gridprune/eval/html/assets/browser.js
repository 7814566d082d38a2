// Questions one by one: filters, the image with what two methods kept, and all methods at that budget.
const OUTCOMES = {
  any: ["any answer", () => true],
  gain: ["A right, B wrong", (a, b) => a && !b],
  loss: ["A wrong, B right", (a, b) => !a && b],
  both: ["both right", (a, b) => a && b],
  neither: ["both wrong", (a, b) => !a && !b],
};
const FULL = "all tokens";

function browser() {
  const { scenes, questions } = data.browser;
  if (!questions.length) {
    at("questions-note").textContent = "This report was written without questions. `gridprune report --questions 200` shows some.";
    return;
  }
  const kept = scenes.some((scene) => scene.kept);
  const images = scenes.filter((scene) => scene.image).length;
  at("questions-note").textContent =
    `The first ${questions.length} of ${data.run.questions} questions. Clear patches were kept; a yellow frame shows where the answer stands.` +
    (kept ? "" : " This run does not hold which tokens were kept: it was made before runs stored them.") +
    (images < scenes.length ? ` ${scenes.length - images} of ${scenes.length} images cannot be made again by this version and are left out.` : "");

  const labels = [FULL, ...data.methods.map((method) => method.label)];
  const number = new Map(data.cells.map((cell, i) => [cell, i]));
  const note = new Map(data.methods.map((method) => [method.label, method.note]));
  const wish = { kind: "", keep: budgets.includes("64") ? "64" : budgets[0], a: "gridprune", b: "random", outcome: "any", words: "" };
  if (!labels.includes(wish.a)) wish.a = labels[1];
  if (!labels.includes(wish.b)) wish.b = FULL;
  let chosen = null;

  const has = (label) => label === FULL || number.has(`${label}|${wish.keep}`);
  const given = (question, label) => (label === FULL ? question.full : question.given[number.get(`${label}|${wish.keep}`)]);
  const right = (question, label) => given(question, label) === 1;
  const words = (question, label) => (right(question, label) ? question.answer[0] : given(question, label) || "(nothing)");

  function found() {
    if (!has(wish.a) || !has(wish.b)) return [];
    const text = wish.words.trim().toLowerCase();
    return questions.filter((question) =>
      (!wish.kind || question.kind === wish.kind) &&
      OUTCOMES[wish.outcome][1](right(question, wish.a), right(question, wish.b)) &&
      (!text || `${question.text} ${question.answer.join(" ")} ${question.id}`.toLowerCase().includes(text)));
  }

  function list() {
    const shown = found();
    if (!shown.includes(chosen)) chosen = shown[0] || null;
    at("found").textContent = `${shown.length} of ${questions.length} questions`;
    at("list").replaceChildren(...shown.map((question) =>
      h("li", {}, h("button", {
        type: "button", "data-id": question.id, "aria-current": String(question === chosen),
        onclick: () => { chosen = question; mark(); detail(); },
      },
      question.text,
      h("span", { class: "soft" }, `${question.kind} · A `, tick(right(question, wish.a)), " · B ", tick(right(question, wish.b)))))));
    detail();
  }

  function mark() {
    for (const button of at("list").querySelectorAll("button"))
      button.setAttribute("aria-current", String(button.dataset.id === chosen.id));
  }

  const tick = (good) => h("span", { class: good ? "right" : "wrong" }, good ? "✓ right" : "✗ wrong");

  function masked(question, label) {
    const scene = scenes[question.scene];
    const stored = scene.kept && label !== FULL ? scene.kept[number.get(`${label}|${wish.keep}`)] : null;
    return Array.isArray(stored) ? stored[question.place] : stored;
  }

  function image(question, label) {
    const scene = scenes[question.scene];
    if (!scene.image) return h("div", { class: "absent" }, "no image");
    const [wide, high] = scene.size;
    const image = s("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", style: `aspect-ratio: ${wide} / ${high}`, role: "img",
      "aria-label": `Image ${question.scene}, ${label}` },
    s("image", { href: scene.image, width: 1, height: 1, preserveAspectRatio: "none" }));
    const bits = masked(question, label);
    if (bits) {
      const id = `m${image.count = (image.count || 0) + 1}`;
      const path = holes(bits, placesOf(scene));
      image.append(
        s("mask", { id, maskUnits: "userSpaceOnUse", x: 0, y: 0, width: 1, height: 1 },
          s("rect", { width: 1, height: 1, fill: "#fff" }), s("path", { d: path, fill: "#000" })),
        s("rect", { class: "veil", width: 1, height: 1, mask: `url(#${id})` }), s("path", { class: "edge", d: path }));
    }
    for (const [x0, y0, x1, y1] of question.boxes)
      image.append(s("rect", { class: "evidence", x: x0, y: y0, width: x1 - x0, height: y1 - y0 }));
    return image;
  }

  function caption(question, label, title) {
    const place = number.get(`${label}|${wish.keep}`);
    const recall = label === FULL ? null : question.recall[place];
    return h("figcaption", {},
      h("strong", {}, title), h("br"), `“${words(question, label)}” `, tick(right(question, label)),
      recall === null || recall === undefined ? null : h("span", { class: "soft" }, h("br"), `evidence kept: ${percent(recall)} %`),
      note.get(label) ? h("span", { class: "soft" }, h("br"), note.get(label)) : null);
  }

  function detail() {
    if (!chosen) {
      at("detail").replaceChildren(h("p", { class: "note" }, "No question fits these filters."));
      return;
    }
    const large = (letter, label) => h("figure", { "data-side": letter }, image(chosen, label), caption(chosen, label, `${letter}: ${label}`));
    const small = (label) =>
      h("figure", {},
        h("button", { type: "button", "data-method": label, title: `Compare with ${label}`, onclick: () => { wish.b = label; at("b").value = label; list(); } },
          image(chosen, label)),
        caption(chosen, label, label));
    at("detail").replaceChildren(
      h("h3", {}, chosen.text),
      h("p", {}, "Right answer: ", h("strong", {}, chosen.answer.join(" or ")), h("span", { class: "soft" }, ` · ${chosen.kind} · ${chosen.id} · image ${chosen.scene}`)),
      h("div", { class: "pair" }, large("A", wish.a), large("B", wish.b)),
      h("h3", {}, `All methods at ${wish.keep} visual tokens`),
      h("p", { class: "note" }, "Press an image to put that method in the place of B."),
      h("div", { class: "gallery" }, labels.filter(has).map(small)),
    );
  }

  const set = (name) => (value) => { wish[name] = value; list(); };
  const same = (values) => values.map((value) => [value, value]);
  at("filters").append(
    choose("Kind", [["", "all kinds"], ...same(data.kinds.map((kind) => kind.name))], "", set("kind"), "kind"),
    choose("Visual tokens", same(budgets), wish.keep, set("keep"), "keep"),
    choose("Method A", same(labels), wish.a, set("a"), "a"),
    choose("Method B", same(labels), wish.b, set("b"), "b"),
    choose("Show", Object.entries(OUTCOMES).map(([key, [text]]) => [key, text]), wish.outcome, set("outcome"), "outcome"),
    h("label", {}, "Words", h("input", { id: "words", type: "search", oninput: (event) => set("words")(event.target.value) })),
  );
  list();
}

// Boxes of all tokens of an image, x0 y0 x1 y1 as fractions of what the tower sees.
function placesOf(scene) {
  if (scene.boxes) return scene.boxes;
  const found = [];
  for (const [rows, columns, x0, y0, x1, y1] of scene.grids)
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++)
        found.push([x0 + ((x1 - x0) * c) / columns, y0 + ((y1 - y0) * r) / rows, x0 + ((x1 - x0) * (c + 1)) / columns, y0 + ((y1 - y0) * (r + 1)) / rows]);
  return found;
}

function holes(bits, places) {
  const bytes = atob(bits);
  let path = "";
  places.forEach(([x0, y0, x1, y1], i) => {
    if (bytes.charCodeAt(i >> 3) & (128 >> (i & 7))) path += `M${x0} ${y0}H${x1}V${y1}H${x0}z`;
  });
  return path;
}
