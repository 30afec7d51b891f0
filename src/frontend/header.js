// The first line: how the run stands, for how long, which attempt, and what is left of a Stop's grace.

import { make, say, seconds } from "./dom.js";

export class Header {
  constructor() {
    this.status = make("span.ie-status");
    this.name = make("span.ie-name");
    this.time = make("span.ie-time", { "aria-hidden": "true" }); // a screen reader asks for it in the announcement
    this.detail = make("span.ie-detail");
    this.grace = make("span.ie-grace", { hidden: true });
    this.live = make("span.ie-unseen", { role: "status", "aria-live": "polite" });
    this.el = make("header.ie-head", {}, this.status, this.name, this.detail, make("span.ie-space"), this.grace, this.time, this.live);
  }

  take(state) {
    this.state = state;
    this.came = performance.now();
    this.el.parentElement?.setAttribute("data-status", state.status);
    say(this.status, `${state.sign} ${state.status}`);
    say(this.name, state.name);
    this.name.title = state.run_id ? `run ${state.run_id}` : "";
    say(this.detail, state.detail);
    this.announce(state.announcement);
    this.tick();
  }

  announce(text) {
    say(this.live, text);
  }

  /** The page counts on between two messages. */
  tick() {
    const { state } = this;
    if (!state) return;
    const since = state.is_live ? (performance.now() - this.came) / 1000 : 0;
    say(this.time, state.elapsed_s === null ? "" : seconds(state.elapsed_s + since));
    this.grace.hidden = state.grace_left_s === null;
    if (state.grace_left_s !== null) {
      const left = state.grace_left_s - since;
      say(this.grace, left > 0 ? `asked to end, killed in ${left.toFixed(1)} s` : "being killed");
    }
  }
}
