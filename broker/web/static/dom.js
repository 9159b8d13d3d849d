// Small helpers that build pages. Text goes in as text, never as HTML: names and errors come from strangers.

/** An element. `attributes`: names and values; functions are listeners; false and null are left out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Changes a text only if it is another one, so that screen readers and selections are left alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * A table whose rows are kept by key: a row that goes on keeps its elements, so that focus and selection stay.
 * columns: [{title, number?, name?, cell: (row) => text | {text, href?, title?, kind?} | Node}]
 */
export function keyedTable(caption, columns, keyOf, empty) {
  const body = el("tbody");
  const table = el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, columns.map((column) =>
      el("th", { scope: "col", class: column.number ? "number" : null }, column.title)))),
    body);
  const nothing = el("p", { class: "dim" }, empty);
  const rows = new Map();
  const box = el("div", { class: "scroll" }, table, nothing);
  box.update = (items, note = "") => {
    say(table.caption, caption + note);
    const keys = new Set(items.map(keyOf));
    for (const [key, row] of rows) if (!keys.has(key)) { row.remove(); rows.delete(key); }
    let before = null;
    for (const item of items) {
      const key = keyOf(item);
      let row = rows.get(key);
      if (!row) {
        row = el("tr", {}, columns.map((column) =>
          el("td", { class: [column.number && "number", column.name && "name"].filter(Boolean).join(" ") || null })));
        rows.set(key, row);
      }
      const next = before ? before.nextSibling : body.firstChild;
      if (next !== row) body.insertBefore(row, next);
      before = row;
      columns.forEach((column, i) => fill(row.cells[i], column.cell(item)));
    }
    table.hidden = items.length === 0;
    nothing.hidden = items.length > 0;
  };
  box.update([]);
  return box;
}

function fill(cell, value) {
  if (value instanceof Node) {
    if (cell.firstChild !== value) cell.replaceChildren(value);
    return;
  }
  const { text, href, title, kind } = typeof value === "object" && value !== null ? value : { text: value };
  const shown = text === null || text === undefined ? "" : String(text);
  if (href) {
    let link = cell.querySelector("a");
    if (!link) { link = el("a"); cell.replaceChildren(link); }
    say(link, shown);
    if (link.getAttribute("href") !== href) link.setAttribute("href", href);
  } else if (kind) {
    let mark = cell.querySelector(".word");
    if (!mark) { mark = el("span"); cell.replaceChildren(mark); }
    mark.className = `word ${kind}`;
    say(mark, shown);
  } else say(cell, shown);
  if (title && cell.title !== title) cell.title = title;
}

const whole = new Intl.NumberFormat("en");
export const count = (number) => whole.format(number);
export const rate = (number) => (number >= 100 ? count(Math.round(number)) : number >= 10 ? number.toFixed(1) : number.toFixed(2));

/** A length of time in one or two units. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.995) return `${Math.max(0, Math.round(1000 * seconds))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
export const moment = (ms) => new Date(ms).toLocaleString("sv-SE");
export const link = (page, parameters) => `/${page}?${new URLSearchParams(parameters)}`;
