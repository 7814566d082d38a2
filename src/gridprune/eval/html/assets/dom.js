// Elements and numbers in words. Text always goes in as text: nothing from a run is ever read as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const at = (id) => document.getElementById(id);

const percent = (value) => (value === null || value === undefined ? "" : (100 * value).toFixed(1));
const interval = (ci) => (ci ? `(${percent(ci[0])} to ${percent(ci[1])})` : "");
const short = (value) => (value === null || value === undefined ? "" : String(Number(value.toPrecision(3))));

function choose(label, options, value, change, id) {
  const items = options.map(([key, text]) => h("option", { value: key, selected: key === value ? "" : null }, text));
  return h("label", {}, label, h("select", { id, onchange: (event) => change(event.target.value) }, items));
}
