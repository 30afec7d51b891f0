// Elements made of words: text is always text, never HTML.

// Lumino takes a notebook's keys (Enter, arrows, letters) before the focused element hears of them, unless that very
// element says not to: an ancestor that says so does not count where a shortcut's selector ends in `:focus`.
const keepsKeys = "data-lm-suppress-shortcuts";

/** Give an element the keys that are pressed on it. */
export function keepKeys(el) {
  el.setAttribute(keepsKeys, "true");
  return el;
}

/** `make("button.ie-tab", {type: "button"}, "All")`; listeners are given as functions: `{click() {}}`. */
export function make(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const el = document.createElement(tag);
  el.className = classes.join(" ");
  if (["button", "input", "summary"].includes(tag) || "tabindex" in attributes) keepKeys(el);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") el.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) el.setAttribute(name, value === true ? "" : value);
  }
  el.append(...children.filter((child) => child !== null && child !== undefined));
  return el;
}

/** Change an element's text only where it differs, so that a screen reader hears it once. */
export function say(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

export function seconds(value) {
  const s = Math.max(0, value);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  const minutes = Math.floor(s / 60);
  const rest = String(Math.floor(s % 60)).padStart(2, "0");
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

export function bytes(value) {
  if (value < 2 ** 20) return `${Math.round(value / 1024)} KiB`;
  if (value < 2 ** 30) return `${Math.round(value / 2 ** 20)} MiB`;
  return `${(value / 2 ** 30).toFixed(1)} GiB`;
}
