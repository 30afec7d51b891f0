// What a rank uses of the machine: a number and the last minute as a line, for CPU, memory and GPU.

import { bytes, make, say } from "./dom.js";

const points = 60;
const [width, height] = [60, 14];
const svg = "http://www.w3.org/2000/svg";
const rows = [
  { name: "CPU", index: 1, text: (v) => `${Math.round(v)} %`, top: (values) => Math.max(100, ...values) },
  { name: "mem", index: 2, text: bytes, top: (values) => Math.max(1, ...values) * 1.25 },
  { name: "GPU", index: 3, text: (v) => `${Math.round(v)} %`, top: () => 100 },
  { name: "GPU mem", index: 4, text: bytes, top: (values) => Math.max(1, ...values) * 1.25 },
];

export class Usage {
  constructor() {
    this.history = new Map();
    this.who = make("span.ie-who");
    this.meters = rows.map((row) => {
      const value = make("span.ie-value");
      const line = document.createElementNS(svg, "polyline");
      const box = document.createElementNS(svg, "svg");
      box.setAttribute("viewBox", `0 0 ${width} ${height}`);
      box.setAttribute("class", "ie-spark");
      box.setAttribute("aria-hidden", "true");
      box.append(line);
      return { ...row, value, line, el: make("span.ie-meter", { hidden: true }, `${row.name} `, box, value) };
    });
    this.el = make("div.ie-usage", {}, this.who, ...this.meters.map((meter) => meter.el));
  }

  clear() {
    this.history.clear();
  }

  takeHistory(history) {
    for (const samples of history) this.take(samples);
  }

  /** @param {(number | null)[][]} samples rank, CPU %, bytes, GPU %, GPU bytes; one for each rank at about the same time */
  take(samples) {
    for (const sample of samples) {
      const kept = this.history.get(sample[0]) ?? [];
      kept.push(sample);
      if (kept.length > points) kept.shift();
      this.history.set(sample[0], kept);
    }
  }

  samples(key) {
    if (key !== "all") return this.history.get(key) ?? [];
    const sums = [];
    for (const kept of this.history.values()) {
      kept.forEach((sample, i) => {
        const at = points - kept.length + i;
        const sum = (sums[at] ??= ["all", 0, 0, null, null]);
        for (let n = 1; n < 5; n++) if (sample[n] !== null) sum[n] = (sum[n] ?? 0) + sample[n] / (n === 3 ? this.history.size : 1);
      });
    }
    return sums.filter(Boolean);
  }

  show(key, rank) {
    const isLive = key === "all" || rank?.state === "running";
    const code = rank?.exitcode ? `exit code ${rank.exitcode}` : "";
    say(this.who, key === "all" ? "" : [rank?.pid ? `pid ${rank.pid}` : "", code].filter(Boolean).join(" · "));
    const kept = this.samples(key);
    for (const meter of this.meters) {
      const values = kept.map((sample) => sample[meter.index]).filter((value) => value !== null);
      meter.el.hidden = !values.length || !isLive;
      if (meter.el.hidden) continue;
      const top = meter.top(values);
      const start = width - ((values.length - 1) * width) / (points - 1);
      const at = (value, i) => `${(start + (i * width) / (points - 1)).toFixed(1)},${(height - 1 - (value / top) * (height - 2)).toFixed(1)}`;
      meter.line.setAttribute("points", values.map(at).join(" "));
      say(meter.value, meter.text(values.at(-1)));
    }
  }
}
