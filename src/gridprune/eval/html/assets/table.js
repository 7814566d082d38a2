// Methods by budgets, one measure at a time, sorted by any column.
const MEASURES = {
  retention: ["retention, % (95 % interval)", (row) => row.retention, (row) => [percent(row.retention), interval(row.ci)]],
  accuracy: ["accuracy, mean over kinds, %", (row) => row.mean_accuracy, (row) => [percent(row.mean_accuracy)]],
  recall: ["evidence recall, %", (row) => row.evidence_recall, (row) => [percent(row.evidence_recall)]],
  tokens: ["visual tokens, mean", (row) => row.tokens, (row) => [short(row.tokens)]],
  flops: ["FLOPs over visual tokens, % of all", (row) => row.flops, (row) => [percent(row.flops / data.full.flops)]],
  decide: ["decision, ms", (row) => row.decide, (row) => [short(row.decide === null ? null : 1000 * row.decide)]],
};
const cellOf = new Map(data.rows.map((row) => [`${row.method}|${row.keep}`, row]));
const budgets = [...new Set(data.rows.map((row) => row.keep))];

function table() {
  let measure = "retention";
  let sorted = null; // a budget, "method", or null for the mean over budgets
  const known = Object.entries(MEASURES).filter(([, [, value]]) => data.rows.some((row) => value(row) !== null));

  function order(value) {
    const of = (label, keep) => (cellOf.has(`${label}|${keep}`) ? value(cellOf.get(`${label}|${keep}`)) : null);
    const score = (label) => {
      const all = (sorted ? [sorted] : budgets).map((keep) => of(label, keep)).filter((found) => found !== null);
      return all.length ? all.reduce((sum, one) => sum + one, 0) / all.length : -Infinity;
    };
    const labels = data.methods.map((method) => method.label);
    if (sorted === "method") return labels.sort();
    return labels.sort((one, two) => score(two) - score(one));
  }

  function head(text, key) {
    const press = () => {
      sorted = sorted === key ? null : key;
      draw();
      at("table-body").querySelector(`[data-sort="${CSS.escape(key)}"]`).focus();
    };
    const direction = key === "method" ? "ascending" : "descending";
    const mark = sorted === key ? (key === "method" ? " ▲" : " ▼") : "";
    return h("th", { scope: "col", "aria-sort": sorted === key ? direction : "none" },
      h("button", { type: "button", "data-sort": key, onclick: press }, text + mark));
  }

  function draw() {
    const [title, value, words] = MEASURES[measure];
    const cell = (row) => {
      const [number, extra] = row ? words(row) : [""];
      return h("td", {}, number, extra ? h("span", { class: "interval" }, extra) : null);
    };
    const line = (label) =>
      h("tr", {}, h("th", { scope: "row" }, label), budgets.map((keep) => cell(cellOf.get(`${label}|${keep}`))));
    const whole = {
      retention: "100", accuracy: percent(data.full.mean_accuracy), tokens: short(data.full.tokens), flops: "100",
    }[measure];
    const alone = data.prior && measure === "accuracy" && data.averaged.length
      ? percent(data.averaged.reduce((sum, name) => sum + data.prior[name], 0) / data.averaged.length) : null;
    const last = (name, text) =>
      text ? h("tr", {}, h("td", {}, name), budgets.map(() => h("td", {}, text))) : null;
    at("table-body").replaceChildren(
      h("table", {},
        h("caption", { class: "note" }, `${title}, by method and visual tokens kept`),
        h("thead", {}, h("tr", {}, head("method", "method"), budgets.map((keep) => head(keep, keep)))),
        h("tbody", {}, order(value).map(line), last(`all ${short(data.full.tokens)} tokens`, whole), last("text alone", alone))),
    );
  }
  const options = known.map(([key, [title]]) => [key, title]);
  at("table-controls").append(choose("Show", options, measure, (key) => { measure = key; draw(); }, "measure"));
  draw();
}
