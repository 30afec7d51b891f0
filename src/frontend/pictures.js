// Pictures that ranks saved, below their terminal: the newest few of each rank, as they come.
//
// Other end: notebook/panel_pictures.py sends them; a browser draws them as images and nothing else.

import { make } from "./dom.js";

const mostOfARank = 8; // as in panel_pictures.py

export class Pictures {
  constructor() {
    this.byRank = new Map(); // rank -> Map(path -> {el, url})
    this.totals = new Map();
    this.el = make("div.ie-pictures", { hidden: true, role: "region", "aria-label": "Pictures", tabindex: "0" });
  }

  /** @param {[number, string, number][]} rows rank, path, how many it has saved @param {Uint8Array[]} buffers */
  take(rows, buffers) {
    const ranks = new Set();
    rows.forEach(([rank, path, total], i) => {
      this.totals.set(rank, total);
      if (!this.byRank.has(rank)) this.byRank.set(rank, new Map());
      const own = this.byRank.get(rank);
      if (own.has(path)) return;
      own.set(path, this.draw(rank, path, buffers[i]));
      ranks.add(rank);
      while (own.size > mostOfARank) {
        const [oldest, { el, url }] = own.entries().next().value;
        if (url) URL.revokeObjectURL(url);
        el.remove();
        own.delete(oldest);
      }
    });
    return ranks;
  }

  draw(rank, path, data) {
    const caption = make("figcaption", { title: path }, make("span.ie-of", {}, `rank ${rank} · `), path.split("/").pop());
    if (!data.length) {
      caption.append(": too large to be shown, or no PNG; see the log folder");
      return { el: make("figure.ie-picture", {}, caption) };
    }
    const url = URL.createObjectURL(new Blob([data], { type: "image/png" }));
    return { url, el: make("figure.ie-picture", {}, make("img", { src: url, alt: `${path.split("/").pop()} of rank ${rank}` }), caption) };
  }

  /** @param {number | "all"} key */
  show(key) {
    const ranks = [...this.byRank.keys()].sort((a, b) => a - b).filter((rank) => key === "all" || rank === key);
    const shown = ranks.flatMap((rank) => {
      const own = [...this.byRank.get(rank).values()].map(({ el }) => el);
      const more = this.totals.get(rank) - own.length;
      return more > 0 ? [make("p.ie-earlier", {}, `rank ${rank}: ${more} earlier, see the log folder`), ...own] : own;
    });
    this.el.hidden = !shown.length;
    this.el.classList.toggle("ie-one", key !== "all");
    this.el.replaceChildren(...shown);
  }

  clear() {
    for (const own of this.byRank.values()) for (const { url } of own.values()) if (url) URL.revokeObjectURL(url);
    this.byRank.clear();
    this.totals.clear();
    this.el.replaceChildren();
    this.el.hidden = true;
  }
}
