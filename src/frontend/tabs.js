// The tabs: "All", then one for each rank, which is its state's chip as well: a sign and a colour.

import { make, say } from "./dom.js";

const signs = { waiting: "○", running: "●", succeeded: "✓", failed: "✗", stopped: "■" };
const words = { waiting: "starting", running: "running", succeeded: "done", failed: "failed", stopped: "stopped by us" };
let made = 0;

export class Tabs {
  constructor(choose) {
    this.id = `ie-tabs-${++made}`;
    this.choose = choose;
    this.all = new Map();
    this.el = make("div.ie-tabs", {
      role: "tablist", "aria-label": "Output by rank",
      keydown: (event) => this.move(event),
    }); // prettier-ignore
  }

  add(key) {
    const sign = make("span.ie-sign", { "aria-hidden": "true" }, key === "all" ? "" : signs.waiting);
    const unread = make("span.ie-unread", { "aria-hidden": "true" });
    const label = make("span.ie-label", {}, key === "all" ? "All" : String(key));
    const tab = make("button.ie-tab", {
      type: "button", role: "tab", id: `${this.id}-${key}`, "aria-controls": `${this.id}-panel`, "aria-selected": "false", tabindex: "-1",
      click: () => this.choose(key),
    }, sign, label, unread); // prettier-ignore
    this.all.set(key, { tab, sign, isUnread: false, state: "", key });
    this.el.append(tab);
    this.name(key);
  }

  setRanks(ranks) {
    if (!this.all.size) this.add("all");
    ranks.forEach((rank, key) => {
      if (!this.all.has(key)) this.add(key);
      const entry = this.all.get(key);
      if (entry.state === rank.state && entry.exitcode === rank.exitcode) return;
      entry.state = rank.state;
      entry.exitcode = rank.exitcode;
      entry.tab.dataset.state = rank.state;
      say(entry.sign, signs[rank.state]);
      this.name(key);
    });
    for (const key of [...this.all.keys()]) {
      if (key !== "all" && key >= ranks.length) {
        this.all.get(key).tab.remove();
        this.all.delete(key);
      }
    }
    this.el.classList.toggle("ie-few", ranks.length <= 8);
  }

  name(key) {
    const { tab, state, isUnread, exitcode } = this.all.get(key);
    const code = exitcode ? `, exit code ${exitcode}` : "";
    const name = key === "all" ? "All ranks" : `Rank ${key}: ${words[state] ?? "starting"}${code}`;
    tab.setAttribute("aria-label", isUnread ? `${name}, new output` : name);
    tab.title = name;
  }

  markUnread(key, isUnread = true) {
    const entry = this.all.get(key);
    if (!entry || entry.isUnread === isUnread) return;
    entry.isUnread = isUnread;
    entry.tab.classList.toggle("ie-new", isUnread);
    this.name(key);
  }

  select(key) {
    for (const [other, { tab }] of this.all) {
      tab.setAttribute("aria-selected", String(other === key));
      tab.tabIndex = other === key ? 0 : -1;
    }
    this.markUnread(key, false);
  }

  move(event) {
    const keys = [...this.all.keys()];
    const at = keys.findIndex((key) => this.all.get(key).tab === document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + keys.length, Home: 0, End: keys.length - 1 }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const key = keys[to % keys.length];
    this.choose(key);
    this.all.get(key).tab.focus();
  }
}
