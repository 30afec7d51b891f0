// One terminal: xterm.js that only shows. Made when first shown; what came before waits, bounded.

import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Terminal } from "@xterm/xterm";
import { keepKeys, make, say } from "./dom.js";
import { terminalTheme } from "./theme.js";

const columns = 101; // the ranks are told 100 (engines/local.py): a bar that fills them must not wrap
const mostWaiting = 256 << 10; // bytes kept for a hidden terminal, about its scrollback

export class RankTerminal {
  /** @param {string} label for screen readers @param {object} options xterm's, over ours */
  constructor(label, options = {}) {
    this.options = options;
    this.waiting = [];
    this.waitingBytes = 0;
    this.dropped = 0;
    this.isShown = false;
    this.host = make("div.ie-screen", { role: "region", "aria-label": label });
    this.follow = make("button.ie-follow", { type: "button", hidden: true, click: () => this.xterm.scrollToBottom() }, "↓ Follow");
    this.el = make("div.ie-terminal", {}, this.host, this.follow);
  }

  open() {
    const xterm = (this.xterm = new Terminal({
      convertEol: true,
      disableStdin: true,
      cursorStyle: "bar",
      cursorInactiveStyle: "none",
      cursorBlink: false,
      scrollback: 5000,
      fontSize: 12,
      lineHeight: 1.15,
      fontFamily: getComputedStyle(this.el).getPropertyValue("--ie-mono").trim() || "monospace",
      theme: terminalTheme(this.el),
      minimumContrastRatio: 3,
      allowProposedApi: true, // the search marks all it found
      screenReaderMode: false,
      logLevel: "off",
      ...this.options,
    }));
    xterm.loadAddon((this.fitter = new FitAddon()));
    xterm.loadAddon((this.search = new SearchAddon({ highlightLimit: 500 })));
    guard(xterm);
    xterm.attachCustomKeyEventHandler((event) => this.key(event));
    xterm.open(this.host);
    // What is typed goes nowhere; say so to assistive software as well.
    keepKeys(xterm.textarea);
    xterm.textarea.setAttribute("readonly", "");
    xterm.textarea.setAttribute("aria-label", `${this.host.getAttribute("aria-label")}, read only`);
    const moved = () => {
      const { baseY, viewportY } = xterm.buffer.active;
      this.follow.hidden = viewportY >= baseY;
    };
    xterm.onScroll(moved);
    xterm.onWriteParsed(moved);
    this.host.addEventListener("wheel", () => requestAnimationFrame(moved), { passive: true });
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.host);
    this.fit();
  }

  fit() {
    const wanted = this.isShown && this.host.clientHeight > 0 ? this.fitter.proposeDimensions() : undefined;
    if (!wanted || !(wanted.rows > 0)) return;
    const cols = Math.max(wanted.cols, columns);
    const rows = Math.max(wanted.rows, 3);
    if (cols !== this.xterm.cols || rows !== this.xterm.rows) this.xterm.resize(cols, rows);
  }

  /** Keys that move; all others are the page's: copying a selection, leaving by Tab. */
  key(event) {
    if (event.type === "keydown" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const moves = {
        PageUp: () => this.xterm.scrollPages(-1), PageDown: () => this.xterm.scrollPages(1), ArrowUp: () => this.xterm.scrollLines(-1),
        ArrowDown: () => this.xterm.scrollLines(1), Home: () => this.xterm.scrollToTop(), End: () => this.xterm.scrollToBottom(),
      }; // prettier-ignore
      if (moves[event.key]) {
        moves[event.key]();
        event.preventDefault();
        event.stopPropagation();
      }
    }
    return false;
  }

  /** @param {Uint8Array | string} data @param {Function} [done] called when it is drawn, or put by */
  write(data, done = () => {}) {
    if (this.isShown) {
      this.xterm.write(data, done);
      return;
    }
    this.waiting.push(data);
    this.waitingBytes += data.length;
    while (this.waitingBytes > mostWaiting && this.waiting.length > 1) {
      const { length } = this.waiting.shift();
      this.waitingBytes -= length;
      this.dropped += length;
    }
    done();
  }

  show(isShown) {
    if (isShown && !this.xterm) this.open();
    this.isShown = isShown;
    if (!isShown) return;
    this.fit();
    // 0x18 ends whatever escape sequence the dropped bytes may have left half said.
    if (this.dropped) this.xterm.write(`\x18\x1b[0m\n\x1b[2m... ${Math.ceil(this.dropped / 1024)} KiB not drawn while this tab was hidden\x1b[0m\n`);
    for (const data of this.waiting) this.xterm.write(data);
    this.forget();
  }

  forget() {
    this.waiting = [];
    this.waitingBytes = 0;
    this.dropped = 0;
  }

  clear() {
    this.forget();
    this.xterm?.reset();
  }

  retheme() {
    if (this.xterm) this.xterm.options.theme = terminalTheme(this.el);
  }

  find(text, isBack = false, isTyping = false) {
    if (!this.xterm) return;
    if (!text) {
      this.search.clearDecorations();
      this.xterm.clearSelection();
      return;
    }
    const decorations = { matchBackground: "#e8c34a", matchOverviewRuler: "#e8c34a", activeMatchBackground: "#e8853a", activeMatchColorOverviewRuler: "#e8853a" };
    this.search[isBack ? "findPrevious" : "findNext"](text, { decorations, incremental: isTyping });
  }

  /** Everything in the scrollback as plain text; of a selection only that. */
  text() {
    if (!this.xterm) return "";
    if (this.xterm.hasSelection()) return this.xterm.getSelection();
    const buffer = this.xterm.buffer.active;
    let text = "";
    for (let row = 0; row < buffer.length; row++) {
      const line = buffer.getLine(row);
      if (row && !line.isWrapped) text += "\n";
      text += line.translateToString(!buffer.getLine(row + 1)?.isWrapped);
    }
    return `${text.trimEnd()}\n`;
  }

  close() {
    this.sizes?.disconnect();
    this.xterm?.dispose();
  }
}

/** Nothing a rank writes reaches beyond its terminal: no titles, links, clipboard, colours of ours, answers, mouse. */
function guard(xterm) {
  const swallow = () => true;
  // 0-2 titles, 4 and 10-19 and 104-119 colours, 7 folder, 8 links, 9 and 777 notices, 50 font, 52 clipboard, 133 and 633 prompts, 1337 files
  for (const id of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...range(10, 19), 22, 50, 51, 52, ...range(104, 119), 133, 633, 777, 1337]) {
    xterm.parser.registerOscHandler(id, swallow);
  }
  const isMouse = (modes) => modes.some((mode) => [9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004].includes(mode));
  xterm.parser.registerCsiHandler({ prefix: "?", final: "h" }, isMouse);
  xterm.parser.registerCsiHandler({ final: "t" }, swallow); // window moves and reports
}

function range(first, last) {
  return Array.from({ length: last - first + 1 }, (_, n) => first + n);
}

/** Text to the clipboard, on a plain http page too. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { style: "position:fixed;opacity:0" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  say(button, "Copied");
  setTimeout(() => say(button, before), 1200);
}
