// The "All" tab: whole lines of every rank as they came, each with its rank in front, those that contain a text.

import { RankTerminal } from "./terminal.js";

const mostLines = 5000;
const mostWaiting = 1 << 20; // bytes that are kept unread while the tab is hidden
const longest = 4096; // characters of one line; the rank's own tab has the rest
const escapes = /\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b./g; // eslint-disable-line no-control-regex
const colours = [36, 35, 32, 33, 34, 31];

export class AllLines {
  constructor() {
    this.terminal = new RankTerminal("Output of all ranks");
    this.decoders = new Map();
    this.halves = new Map();
    this.lines = [];
    this.waiting = [];
    this.waitingBytes = 0;
    this.filter = "";
    this.width = 1;
  }

  setRanks(count) {
    this.width = String(Math.max(0, count - 1)).length;
  }

  /** Cutting into lines is work: a hidden tab puts it off, and of a flood keeps the newest only. */
  take(ranks, buffers, done = () => {}) {
    ranks.forEach((rank, i) => this.waiting.push([rank, buffers[i]]));
    for (const buffer of buffers) this.waitingBytes += buffer.length;
    while (this.waitingBytes > mostWaiting && this.waiting.length > 1) {
      const [rank, { length }] = this.waiting.shift();
      this.waitingBytes -= length;
      this.decoders.delete(rank);
      this.halves.delete(rank);
    }
    if (this.terminal.isShown) this.read(done);
    else done();
  }

  show(isShown) {
    this.terminal.show(isShown);
    if (isShown) this.read();
  }

  read(done = () => {}) {
    let added = "";
    for (const [rank, buffer] of this.waiting) added += this.cut(rank, buffer);
    this.waiting = [];
    this.waitingBytes = 0;
    if (this.lines.length > 2 * mostLines) this.lines.splice(0, this.lines.length - mostLines);
    if (added) this.terminal.write(added, done);
    else done();
  }

  cut(rank, buffer) {
    if (!this.decoders.has(rank)) this.decoders.set(rank, new TextDecoder());
    const text = (this.halves.get(rank) ?? "") + this.decoders.get(rank).decode(buffer, { stream: true });
    const end = text.lastIndexOf("\n");
    const half = text.slice(end + 1);
    // Of a progress bar only the newest state matters, and it shows when the line ends.
    this.halves.set(rank, half.slice(Math.max(half.lastIndexOf("\r", half.length - 2), half.length - longest, 0)));
    if (end < 0) return "";
    return text.slice(0, end).split("\n").reduce((added, raw) => added + this.add(rank, raw), "");
  }

  add(rank, raw) {
    const shown = raw.replace(/\r+$/, "");
    // Colours stay; cursor moves and whatever else would reach into other ranks' lines goes.
    const safe = shown
      .slice(shown.lastIndexOf("\r") + 1)
      .slice(0, longest)
      .replace(escapes, (found) => (/^\x1b\[[\d;:]*m$/.test(found) ? found : "")) // eslint-disable-line no-control-regex
      .replace(/[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[[\d;:]*m)/g, ""); // eslint-disable-line no-control-regex
    const line = { text: safe.replace(escapes, "").toLowerCase(), shown: `${this.prefix(rank)}${safe}\x1b[0m\n`, rank };
    this.lines.push(line);
    return this.isWanted(line) ? line.shown : "";
  }

  prefix(rank) {
    return `\x1b[${colours[rank % colours.length]}m${String(rank).padStart(this.width)} │\x1b[0m `;
  }

  isWanted(line) {
    return !this.filter || line.text.includes(this.filter);
  }

  setFilter(text) {
    this.read();
    this.filter = text.toLowerCase();
    this.terminal.clear();
    const wanted = this.lines.filter((line) => this.isWanted(line)).slice(-mostLines);
    if (wanted.length) this.terminal.write(wanted.map((line) => line.shown).join(""));
    return [wanted.length, this.lines.length];
  }

  clear() {
    this.decoders.clear();
    this.halves.clear();
    this.waiting = [];
    this.waitingBytes = 0;
    this.lines = [];
    this.terminal.clear();
  }
}
