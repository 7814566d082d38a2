// Lines over a logarithmic axis. One builder serves the large plot and the small multiples.
const AXES = {
  tokens: ["visual tokens kept", (row) => row.tokens, short],
  flops: ["FLOPs of the language model over visual tokens, % of all", (row) => (100 * row.flops) / data.full.flops, short],
  seconds: ["decision + reading the prompt, ms", (row) => (row.seconds === null ? null : 1000 * row.seconds), short],
};

function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) found.push(Number(value.toFixed(6)));
  return found;
}

function logTicks(values) {
  const spread = [...new Set(values)].sort((one, two) => one - two);
  const low = spread[0], high = spread[spread.length - 1];
  if (spread.length <= 6) return spread;
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const digit of [1, 2, 5]) {
      const value = digit * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  return found;
}

// series: [{label, points: [{x, y, ci, row}]}]; marks: [{y, kind, text}]
function plot({ width, height, series, marks, bottom, top, xTitle, yTitle, name, whiskers }) {
  const pad = { left: yTitle ? 52 : 34, right: 14, top: 12, bottom: xTitle ? 44 : 24 };
  const xs = series.flatMap((line) => line.points.map((point) => point.x));
  const low = Math.min(...xs) / 1.08, high = Math.max(...xs) * 1.08;
  const x = (value) => pad.left + ((Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (width - pad.left - pad.right);
  const y = (value) => height - pad.bottom - ((value - bottom) / (top - bottom)) * (height - pad.top - pad.bottom);
  const image = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  for (const value of ticks(bottom, top, height > 200 ? 7 : 3)) {
    image.append(s("line", { class: "axis", x1: pad.left, x2: width - pad.right, y1: y(value), y2: y(value) }));
    image.append(s("text", { x: pad.left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  let before = -Infinity;
  for (const value of xs.length ? logTicks(xs) : []) {
    if (x(value) - before < 34) continue; // labels must not touch
    before = x(value);
    image.append(s("text", { x: x(value), y: height - pad.bottom + 17, "text-anchor": "middle" }, short(value)));
  }
  for (const { y: value, kind, text } of marks) {
    if (value < bottom || value > top) continue;
    image.append(s("line", { class: kind, x1: pad.left, x2: width - pad.right, y1: y(value), y2: y(value) }));
    if (text) image.append(s("text", { x: pad.left + 6, y: y(value) - 6 }, text));
  }
  if (xTitle) image.append(s("text", { x: (pad.left + width - pad.right) / 2, y: height - 6, "text-anchor": "middle" }, xTitle));
  if (yTitle) image.append(s("text", { transform: `translate(13 ${(height - pad.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yTitle));
  const spots = [];
  for (const { label, points } of series) {
    const line = [...points].sort((one, two) => one.x - two.x);
    const path = line.map((point, i) => `${i ? "L" : "M"}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`).join("");
    const group = s("g", { class: label === "gridprune" ? "series main" : "series", "data-method": label }, s("path", { d: path, ...stroke(label) }));
    for (const point of line) {
      const cx = x(point.x), cy = y(point.y);
      if (whiskers && point.ci)
        group.append(s("path", { class: "whisker", d: `M${cx} ${y(100 * point.ci[0])}V${y(100 * point.ci[1])}`, stroke: colour(label) }));
      group.append(s("circle", { cx, cy, r: 3.2, fill: colour(label) }));
      spots.push({ cx, cy, label, point });
    }
    image.append(group);
  }
  return { image, spots };
}

function near(image, label) {
  image.classList.toggle("faded", label !== null);
  for (const group of image.querySelectorAll(".series")) group.classList.toggle("near", group.dataset.method === label);
}

function curve() {
  let axis = "tokens";
  let whiskers = "some";
  let current = null;
  let wide = 0; // units of the drawing are pixels, so that words stay readable on narrow screens
  const frame = h("div", { class: "plot" });
  const tip = h("div", { class: "tip", hidden: "" });
  at("curve").append(frame);

  function draw() {
    const [title, of] = AXES[axis];
    const series = data.methods
      .filter(({ label }) => drawn.has(label))
      .map(({ label }) => ({
        label,
        points: data.rows
          .filter((row) => row.method === label && row.retention !== null && of(row) !== null)
          .map((row) => ({ x: of(row), y: 100 * row.retention, ci: row.ci, row })),
      }))
      .filter((line) => line.points.length);
    const values = series.flatMap((line) => line.points.flatMap((p) => (p.ci && (whiskers === "all" || line.label === "gridprune") ? [100 * p.ci[0], 100 * p.ci[1]] : [p.y])));
    const bottom = Math.max(0, Math.floor(Math.min(90, ...values) / 5) * 5);
    const top = Math.ceil(Math.max(100, ...values) / 5) * 5;
    const marks = [{ y: 100, kind: "full", text: `all ${short(data.full.tokens)} tokens` }];
    const name = `Retention against ${title}, one line per method. The table below holds the numbers.`;
    wide = Math.max(320, Math.min(900, frame.clientWidth));
    const built = plot({ width: wide, height: Math.max(300, wide / 2), series, marks, bottom, top, xTitle: title, yTitle: "retention, %", name, whiskers: whiskers !== "none" });
    current = built.image;
    current.classList.toggle("every", whiskers === "all");
    frame.replaceChildren(current, tip);
    current.addEventListener("pointermove", (event) => point(event, built.spots));
    current.addEventListener("pointerleave", () => { tip.hidden = true; near(current, null); });
  }

  function point(event, spots) {
    const box = current.getBoundingClientRect();
    const scale = box.width / wide;
    const [mx, my] = [(event.clientX - box.left) / scale, (event.clientY - box.top) / scale];
    const best = spots.reduce((found, spot) => {
      const far = Math.hypot(spot.cx - mx, spot.cy - my);
      return far < found.far ? { far, spot } : found;
    }, { far: 40, spot: null }).spot;
    tip.hidden = best === null;
    near(current, best && best.label);
    if (!best) return;
    const row = best.point.row;
    tip.replaceChildren(
      h("strong", {}, row.method), h("br"),
      `${short(row.tokens)} visual tokens: ${percent(row.retention)} % ${interval(row.ci)}`, h("br"),
      `accuracy ${percent(row.mean_accuracy)} %` + (row.evidence_recall === null ? "" : `, evidence recall ${percent(row.evidence_recall)} %`),
      row.seconds === null ? "" : h("span", {}, h("br"), `decision ${short(1000 * row.decide)} ms, with the prompt ${short(1000 * row.seconds)} ms`),
    );
    tip.style.left = `${Math.max(0, Math.min(best.cx * scale + 12, box.width - 240))}px`;
    tip.style.top = `${best.cy * scale + 12}px`;
  }

  const known = Object.entries(AXES).filter(([, [, of]]) => data.rows.some((row) => of(row) !== null));
  at("curve-controls").append(
    choose("Against", known.map(([key, [title]]) => [key, title]), axis, (key) => { axis = key; draw(); }, "axis"),
    choose("Intervals", [["some", "of gridprune and of the line pointed at"], ["all", "of all lines"], ["none", "none"]], whiskers,
      (key) => { whiskers = key; draw(); }, "whiskers"),
  );
  watchers.push(draw);
  window.addEventListener("resize", draw);
  draw();
  legend((label) => near(current, label !== null && drawn.has(label) ? label : null));
  const lines = data.peers.map((peer) =>
    h("li", {}, `At ${peer.keep}: ${peer.difference >= 0 ? "+" : ""}${percent(peer.difference)} points on ${peer.method}`, peer.ci ? ` ${interval(peer.ci)}` : ""));
  if (lines.length)
    at("peers").append(h("p", {}, "gridprune against the best other method at each budget, chosen on the same questions (paired 95 % interval):"), h("ul", {}, lines));
}
