// The run view: header, failure, a tab per rank with its terminal. It paints what Python decided.
//
//   notebook/panel_stream.py -> link.js -> [here] -> header, failure, tabs, usage, terminal, lines, pictures
//
// anywidget calls `render` once for each view of the widget; views know nothing of each other.

import xtermStyle from "@xterm/xterm/css/xterm.css";
import style from "./style.css";
import { keepKeys, make } from "./dom.js";
import { Failure } from "./failure.js";
import { Header } from "./header.js";
import { AllLines } from "./lines.js";
import { Link } from "./link.js";
import { Pictures } from "./pictures.js";
import { putIntoNotebook } from "./saved.js";
import { Tabs } from "./tabs.js";
import { copy, RankTerminal } from "./terminal.js";
import { watchTheme, isDark } from "./theme.js";
import { Usage } from "./usage.js";

function addStyle() {
  const id = "ipyelastic-style";
  if (!document.getElementById(id)) document.head.append(make("style", { id }, `${xtermStyle}\n${style}`));
}

class RunView {
  constructor(model, el) {
    this.model = model;
    this.shown = null; // rank number, or "all"
    this.epoch = null;
    this.terminals = new Map();
    this.header = new Header();
    this.failure = new Failure((rank) => this.show(rank));
    this.usage = new Usage();
    this.all = new AllLines();
    this.pictures = new Pictures();
    this.tabs = new Tabs((key) => this.show(key));
    this.notes = make("ul.ie-notes", { hidden: true });
    this.makeTools();
    this.body = make("div.ie-body", { role: "tabpanel", id: `${this.tabs.id}-panel`, tabindex: "-1" });
    this.el = make("section.ie-panel", { "aria-label": "Run" }, this.header.el, this.failure.el, this.notes, this.tabs.el, this.tools, this.body, this.pictures.el);
    el.append(this.el);
    this.retheme();
    this.unwatch = watchTheme(() => this.retheme());
    this.link = new Link(model, {
      output: (ranks, buffers, done) => this.takeOutput(ranks, buffers, done),
      whole: (message, buffers, done) => this.takeWhole(message, buffers, done),
      state: ({ state }) => this.takeState(state),
      usage: ({ samples }) => this.takeUsage(samples),
      pictures: (message, buffers) => this.takePictures(message.pictures, buffers),
      final: (message) => putIntoNotebook(model, message),
    });
    this.clock = setInterval(() => this.header.tick(), 250);
  }

  makeTools() {
    this.find = make("input.ie-input", {
      type: "search", placeholder: "Search", "aria-label": "Search in this tab",
      input: () => this.search(false, true), keydown: (event) => {
        event.stopPropagation();
        if (event.key === "Enter") this.search(event.shiftKey);
      },
    }); // prettier-ignore
    this.filter = make("input.ie-input", {
      type: "search", placeholder: "Only lines with …", "aria-label": "Show only lines that contain this text",
      input: () => this.filterLines(), keydown: (event) => event.stopPropagation(),
    }); // prettier-ignore
    this.copyButton = make("button.ie-button", { type: "button", title: "Copy the selection, or all of this tab", click: () => copy(this.terminal().text(), this.copyButton) }, "Copy");
    this.tools = make("div.ie-tools", {}, this.usage.el, make("span.ie-space"), this.filter, this.find, this.copyButton);
  }

  search(isBack, isTyping = false) {
    this.terminal().find(this.find.value, isBack, isTyping);
  }

  filterLines() {
    const [wanted, all] = this.all.setFilter(this.filter.value);
    this.header.announce(this.filter.value ? `${wanted} of ${all} lines` : `${all} lines`);
  }

  terminal() {
    return this.shown === "all" ? this.all.terminal : this.terminals.get(this.shown);
  }

  // ------------------------------------------------------------------------------------------------ what Python says

  takeWhole(message, buffers, done) {
    if (this.epoch !== message.state.epoch) this.pictures.clear();
    this.epoch = message.state.epoch;
    for (const terminal of this.terminals.values()) terminal.clear();
    this.all.clear();
    this.usage.clear();
    this.takeState(message.state);
    this.keepButtonKeys();
    this.usage.takeHistory(message.usage);
    this.takeOutput(message.ranks, buffers, done, false);
    this.showUsage();
  }

  /** The buttons above are ipywidgets, beside us in the page. */
  keepButtonKeys() {
    for (const button of this.el.closest(".ipyelastic-run")?.querySelectorAll(".ipyelastic-bar button") ?? []) keepKeys(button);
  }

  takeState(state) {
    const failedBefore = this.state?.failure;
    this.state = state;
    this.tabs.setRanks(state.ranks);
    this.all.setRanks(state.ranks.length);
    this.el.classList.toggle("ie-many", state.ranks.length > 16);
    for (let rank = 0; rank < state.ranks.length; rank++) {
      if (!this.terminals.has(rank)) this.addTerminal(rank);
    }
    this.header.take(state);
    this.failure.take(state.failure);
    this.notes.hidden = !state.notes.length;
    this.notes.replaceChildren(...state.notes.map((note) => make("li", {}, note)));
    if (state.failure && state.failure.rank !== null && state.failure.rank !== failedBefore?.rank) this.show(state.failure.rank);
    else if (this.shown === null || (this.shown !== "all" && !this.terminals.has(this.shown))) this.show(state.first);
    this.showUsage();
  }

  takeOutput(ranks, buffers, done, isNew = true) {
    let left = ranks.length + 1;
    const one = () => --left || done(); // what is drawn, and what is put by, of every rank and of "All"
    ranks.forEach((rank, i) => {
      if (!this.terminals.has(rank)) this.addTerminal(rank);
      this.terminals.get(rank).write(buffers[i], one);
      if (isNew && this.shown !== rank) this.tabs.markUnread(rank);
    });
    this.all.take(ranks, buffers, one);
    if (isNew && ranks.length && this.shown !== "all") this.tabs.markUnread("all");
  }

  takeUsage(samples) {
    this.usage.take(samples);
    this.showUsage();
  }

  takePictures(rows, buffers) {
    for (const rank of this.pictures.take(rows, buffers)) {
      if (this.shown !== rank) this.tabs.markUnread(rank);
    }
    this.pictures.show(this.shown);
  }

  // ------------------------------------------------------------------------------------------------ what is looked at

  addTerminal(rank) {
    const terminal = new RankTerminal(`Output of rank ${rank}`);
    terminal.el.hidden = true;
    this.terminals.set(rank, terminal);
    this.body.append(terminal.el);
  }

  show(key) {
    if (key !== "all" && !this.terminals.has(key)) return;
    this.shown = key;
    if (!this.all.terminal.el.isConnected) this.body.append(this.all.terminal.el);
    for (const [rank, terminal] of this.terminals) {
      terminal.el.hidden = rank !== key;
      if (rank === key || terminal.isShown) terminal.show(rank === key);
    }
    this.all.terminal.el.hidden = key !== "all";
    if (key === "all" || this.all.terminal.isShown) this.all.show(key === "all");
    this.tabs.select(key);
    this.pictures.show(key);
    this.filter.hidden = key !== "all";
    this.body.setAttribute("aria-labelledby", `${this.tabs.id}-${key}`);
    this.link?.send({ kind: "show", ranks: key === "all" ? null : [key] });
    this.showUsage();
  }

  showUsage() {
    if (this.state && this.shown !== null) this.usage.show(this.shown, this.state.ranks[this.shown]);
  }

  retheme() {
    this.el.classList.toggle("ie-dark", isDark(this.el.parentElement ?? this.el));
    for (const terminal of [...this.terminals.values(), this.all.terminal]) terminal.retheme();
  }

  close() {
    clearInterval(this.clock);
    this.unwatch();
    this.link.close();
    this.pictures.clear();
    for (const terminal of [...this.terminals.values(), this.all.terminal]) terminal.close();
  }
}

function render({ model, el }) {
  addStyle();
  const view = new RunView(model, el);
  el.ipyelastic = view; // for tests and the curious: document.querySelector(...).ipyelastic
  return () => view.close();
}

export default { render };
