// What went wrong, first of all: the words of view/report.py, the traceback, the last lines.

import { make, say } from "./dom.js";

export class Failure {
  constructor(show) {
    this.words = make("pre.ie-words");
    this.traceback = make("pre", { tabindex: "0" });
    this.last = make("pre", { tabindex: "0" });
    this.tracebackBox = make("details", { open: true }, make("summary", {}, "Traceback"), this.traceback);
    this.lastTitle = make("summary");
    this.lastBox = make("details", {}, this.lastTitle, this.last);
    this.open = make("button.ie-button", { type: "button", click: () => show(this.rank) });
    this.el = make("section.ie-failure", { hidden: true, "aria-label": "Failure" }, this.words, this.tracebackBox, this.lastBox);
  }

  take(failure) {
    this.el.hidden = !failure;
    if (!failure) return;
    this.rank = failure.rank;
    say(this.words, failure.words);
    say(this.traceback, failure.traceback);
    this.tracebackBox.hidden = !failure.traceback;
    say(this.lastTitle, failure.rank === null ? "" : `Last lines of rank ${failure.rank}`);
    say(this.last, failure.last);
    this.lastBox.hidden = !failure.last;
    if (!failure.traceback) this.lastBox.open = true;
  }
}
