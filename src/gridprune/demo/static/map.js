// Patches of a map say what they are when they are pointed at, or walked over with the arrow keys.
(() => {
  const read = new WeakMap();
  const patches = (map) => {
    if (!read.has(map)) read.set(map, JSON.parse(map.dataset.patches));
    return read.get(map);
  };

  const lines = (data, n) => {
    const out = [[`row ${data.row[n] + 1}, column ${data.column[n] + 1}`, data.kept[n] ? "kept" : "dropped"]];
    for (const name of ["relevance", "saliency", "score"]) if (data[name]) out.push([name, data[name][n]]);
    if (data.zone) {
      const zone = data.zone[n];
      out.push([`zone ${zone + 1}`, `${data.budget[zone]} of ${data.size[zone]} kept`]);
    }
    return out;
  };

  const show = (map, n) => {
    const data = patches(map), [x, y, right, bottom] = data.box[n];
    const here = map.querySelector(".gp-here"), tip = map.querySelector(".gp-tip");
    for (const [name, value] of Object.entries({ x, y, width: right - x, height: bottom - y })) here.setAttribute(name, value);
    tip.replaceChildren(...lines(data, n).map(([name, value]) => {
      const line = document.createElement("div");
      line.append(Object.assign(document.createElement("span"), { textContent: name }), " ",
        Object.assign(document.createElement("b"), { textContent: value }));
      return line;
    }));
    tip.hidden = false;
    const box = map.querySelector("svg").viewBox.baseVal;
    const left = (right / box.width) * map.clientWidth + 8, top = (y / box.height) * map.clientHeight;
    const flip = left + tip.offsetWidth > map.clientWidth;
    tip.style.left = `${Math.max(0, flip ? (x / box.width) * map.clientWidth - tip.offsetWidth - 8 : left)}px`;
    tip.style.top = `${Math.min(top, Math.max(0, map.clientHeight - tip.offsetHeight))}px`;
    map.dataset.at = n;
  };

  const hide = (map) => {
    map.querySelector(".gp-tip").hidden = true;
    map.querySelector(".gp-here").setAttribute("width", 0);
  };

  const at = (data, x, y) => data.box.findIndex(([left, top, right, bottom]) => left <= x && x < right && top <= y && y < bottom);

  const pointed = (event) => {
    const map = event.target.closest?.(".gp-map");
    document.querySelectorAll(".gp-map").forEach((other) => other !== map && other !== document.activeElement && hide(other));
    if (!map) return;
    const svg = map.querySelector("svg"), area = svg.getBoundingClientRect(), box = svg.viewBox.baseVal;
    const n = at(patches(map), ((event.clientX - area.left) / area.width) * box.width, ((event.clientY - area.top) / area.height) * box.height);
    if (n >= 0) show(map, n);
  };

  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  document.addEventListener("pointermove", pointed);
  document.addEventListener("pointerdown", pointed);
  document.addEventListener("keydown", (event) => {
    const map = event.target.closest?.(".gp-map");
    if (!map) return;
    if (event.key === "Escape") return hide(map);
    if (!steps[event.key]) return;
    event.preventDefault();
    const data = patches(map), here = Number(map.dataset.at ?? -1);
    if (here < 0) return show(map, 0);
    const [left, top, right, bottom] = data.box[here], [across, down] = steps[event.key];
    const next = at(data, (left + right) / 2 + across * (right - left), (top + bottom) / 2 + down * (bottom - top));
    if (next >= 0) show(map, next);
  });
  document.addEventListener("focusin", (event) => event.target.matches?.(".gp-map:focus-visible") && show(event.target, Number(event.target.dataset.at ?? 0)));
  document.addEventListener("focusout", (event) => event.target.matches?.(".gp-map") && hide(event.target));
})();
