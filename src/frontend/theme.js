// The page's colours for what CSS cannot reach: the terminals, which draw themselves.

const common = { cursor: "#00000000", cursorAccent: "#00000000", overviewRulerBorder: "#00000000" };

const light = {
  foreground: "#24292f", background: "#ffffff", selectionBackground: "#b6d7ff",
  black: "#24292f", red: "#c4262e", green: "#1a7f37", yellow: "#8a6100", blue: "#0860ca", magenta: "#8250df", cyan: "#1b7c83", white: "#6e7781",
  brightBlack: "#57606a", brightRed: "#a40e26", brightGreen: "#116329", brightYellow: "#7a5200", brightBlue: "#218bff", brightMagenta: "#a475f9", brightCyan: "#3192aa", brightWhite: "#8c959f",
}; // prettier-ignore
const dark = {
  foreground: "#d5dae0", background: "#111111", selectionBackground: "#31507a",
  black: "#484f58", red: "#ff7b72", green: "#56d364", yellow: "#e3b341", blue: "#79c0ff", magenta: "#d2a8ff", cyan: "#56d4dd", white: "#c9d1d9",
  brightBlack: "#8b949e", brightRed: "#ffa198", brightGreen: "#7ee787", brightYellow: "#f2cc60", brightBlue: "#a5d6ff", brightMagenta: "#e2c5ff", brightCyan: "#b3f0ff", brightWhite: "#f0f6fc",
}; // prettier-ignore

const stderrSlot = 52 - 16; // panel_stream.py writes stderr's plain text in colour 52, which is ours to choose

/** Whether the element stands on a dark page. */
export function isDark(el) {
  for (let at = el; at; at = at.parentElement) {
    const [r, g, b, a = 1] = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) ?? []).map(Number);
    if (a > 0.5) return 0.299 * r + 0.587 * g + 0.114 * b < 128;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** xterm's theme for the element as it stands. */
export function terminalTheme(el) {
  const isNight = isDark(el);
  const colours = { ...common, ...(isNight ? dark : light) };
  const extendedAnsi = new Array(stderrSlot + 1);
  extendedAnsi[stderrSlot] = isNight ? "#e8a48c" : "#9a4a2c";
  const background = getComputedStyle(el).getPropertyValue("--ie-terminal").trim();
  return { ...colours, extendedAnsi, ...(/^(#|rgb)/.test(background) ? { background } : {}) };
}

/** Call `changed` whenever the page's theme may have changed; returns what ends that. */
export function watchTheme(changed) {
  const observer = new MutationObserver(() => requestAnimationFrame(changed));
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name", "data-jp-theme-light", "class"] });
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", changed);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", changed);
  };
}
