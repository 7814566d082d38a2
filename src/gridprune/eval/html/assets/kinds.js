// One small plot per kind of question.
function kinds() {
  at("kinds-note").textContent =
    "Accuracy in % against visual tokens kept, of the methods drawn above. Dashed: all tokens. Dotted: text alone." +
    (data.averaged.length < data.kinds.length ? " Kinds marked * are not part of the mean." : "");
  function draw() {
    at("multiples").replaceChildren(
      ...data.kinds.map(({ name, asked }) => {
        const series = data.methods
          .filter(({ label }) => drawn.has(label))
          .map(({ label }) => ({
            label,
            points: data.rows
              .filter((row) => row.method === label)
              .map((row) => ({ x: row.tokens, y: 100 * row.kinds[name], row })),
          }));
        const marks = [{ y: 100 * data.full.kinds[name], kind: "full" }];
        if (data.prior && data.prior[name] !== undefined) marks.push({ y: 100 * data.prior[name], kind: "prior" });
        const words = series.map((line) => `${line.label} ${line.points.map((p) => `${short(p.x)}: ${short(p.y)}`).join(", ")}`);
        const text = `${name}: all tokens ${percent(data.full.kinds[name])} %; ${words.join("; ")}`;
        const { image } = plot({ width: 260, height: 150, series, marks, bottom: 0, top: 100, name: text });
        const star = data.averaged.includes(name) ? "" : "*";
        return h("figure", { "data-kind": name }, h("h3", {}, `${name}${star} `, h("span", { class: "soft" }, `${asked} questions`)), image);
      }),
    );
  }
  watchers.push(draw);
  draw();
}
