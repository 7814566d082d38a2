// One colour and dash per method, the same everywhere; which methods are drawn; who hears when that changes.
const DASHES = ["", "6 3", "2 3"];
const drawn = new Set(data.methods.filter((method) => method.shown).map((method) => method.label));
if (!drawn.size) data.methods.slice(0, 8).forEach((method) => drawn.add(method.label));
const watchers = [];

function stroke(label) {
  if (label === "gridprune") return { stroke: "oklch(var(--line) 0.2 27)" };
  const place = data.methods.findIndex((method) => method.label === label);
  if (label === "oracle") return { stroke: "var(--soft)", "stroke-dasharray": "2 3" };
  const hue = 60 + ((place * 137.5) % 285); // neighbours never look alike, and nothing is as red as gridprune
  return { stroke: `oklch(var(--line) var(--vivid) ${hue})`, "stroke-dasharray": DASHES[Math.floor(place / 10) % 3] };
}
const colour = (label) => stroke(label).stroke;

function redraw() {
  watchers.forEach((watcher) => watcher());
}

function legend(hover) {
  const every = (test) => () => {
    drawn.clear();
    data.methods.filter(test).forEach((method) => drawn.add(method.label));
    redraw();
  };
  const draw = () =>
    at("legend").replaceChildren(
      ...data.methods.map(({ label }) =>
        h(
          "button",
          {
            type: "button",
            "data-method": label,
            "aria-pressed": String(drawn.has(label)),
            onclick: () => {
              if (!drawn.delete(label)) drawn.add(label);
              redraw();
              at("legend").querySelector(`[data-method="${CSS.escape(label)}"]`).focus();
            },
            onmouseenter: () => hover(label),
            onmouseleave: () => hover(null),
            onfocus: () => hover(label),
            onblur: () => hover(null),
          },
          s("svg", { width: 18, height: 8, "aria-hidden": "true" }, s("path", { d: "M0 4h18", "stroke-width": 3, ...stroke(label) })),
          label,
        ),
      ),
      h("button", { type: "button", id: "draw-all", onclick: every(() => true) }, "all"),
      h("button", { type: "button", id: "draw-few", onclick: every((method) => method.shown) }, "a few"),
    );
  watchers.push(draw);
  draw();
}
