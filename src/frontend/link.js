// One view's end of the line to Python: what came, in order; what was drawn is acknowledged.
//
// Other end: notebook/panel_messages.py names every message; notebook/panel_stream.py sends and reads them.

/** @typedef {{kind: "ready" | "bye", view: string}} Ready */
/** @typedef {{kind: "ack", view: string, seq: number}} Ack */
/** @typedef {{kind: "show", view: string, ranks: number[] | null}} Show  null: all */
/** @typedef {{kind: "output", seq: number, ranks: number[]}} Output  one buffer per rank */
/** @typedef {{kind: "whole", seq: number, view: string, ranks: number[], state: object, usage: object}} Whole */

const ackEvery = 2; // of Python's window of 4 (panel_stream.py): each message costs a kernel more than the output it is for
const ackWithin = 150; // ms

export class Link {
  /**
   * @param {object} model anywidget's model
   * @param {{output: Function, whole: Function, state: Function, usage: Function, pictures: Function, final: Function}} takers
   *   `output(ranks, buffers, done)` and `whole(message, buffers, done)` call `done` when all is drawn.
   */
  constructor(model, takers) {
    this.model = model;
    this.takers = takers;
    this.view = crypto.getRandomValues(new Uint32Array(2)).join("-");
    this.seq = null; // of the newest output that this view has; null: it has nothing yet
    this.done = this.acked = 0; // drawn, and said so
    this.listen = (message, buffers) => this.take(message, buffers);
    model.on("msg:custom", this.listen);
    this.ask();
  }

  ask() {
    this.seq = null;
    this.send({ kind: "ready" });
    clearTimeout(this.again);
    this.again = setTimeout(() => this.seq === null && this.ask(), 4000);
  }

  send(message) {
    this.model.send({ view: this.view, ...message });
  }

  take(message, buffers) {
    const bytes = () => buffers.map((b) => (b instanceof Uint8Array ? b : new Uint8Array(b.buffer ?? b, b.byteOffset ?? 0, b.byteLength)));
    switch (message.kind) {
      case "whole":
        if (message.view !== this.view && message.view !== "*") return;
        this.seq = message.seq;
        this.takers.whole(message, bytes(), () => this.sendAck(message.seq));
        return;
      case "output":
        if (this.seq === null) return; // what is under way comes with "whole"
        if (message.seq !== this.seq + 1) {
          this.ask(); // something was lost on the way: a closed lid, a server that dropped messages
          return;
        }
        this.seq = message.seq;
        this.takers.output(message.ranks, bytes(), () => this.drawn(message.seq));
        return;
      case "state":
      case "usage":
      case "pictures":
      case "final":
        if (this.seq !== null) this.takers[message.kind](message, bytes());
    }
  }

  /** Everything up to `seq` is drawn: said for every second one at once, else soon. */
  drawn(seq) {
    this.done = Math.max(this.done, seq);
    if (this.done - this.acked >= ackEvery) this.sendAck(this.done);
    else this.later ??= setTimeout(() => this.sendAck(this.done), ackWithin);
  }

  sendAck(seq) {
    clearTimeout(this.later);
    this.later = undefined;
    this.done = this.acked = seq;
    this.send({ kind: "ack", seq });
  }

  close() {
    clearTimeout(this.again);
    clearTimeout(this.later);
    this.model.off("msg:custom", this.listen);
    try {
      this.send({ kind: "bye" });
    } catch {
      // the kernel is gone: nobody is left to be told
    }
  }
}
