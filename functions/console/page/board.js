// The board: every call heard of, the latest first, each with its timeline.

import { element, inTurn } from "./draw.js";
import { because, clock, happened, inWords, isOver, mark, party, since } from "./words.js";

// A line may be written a moment after the one that clients are told of.
const ASK_AGAIN = 1500;

export class Board {
  #list;
  #empty;
  #announce;
  #ask;
  #cards = new Map();
  #clock;

  /** `ask(id)` is `GET /api/calls/{id}`, as `{ok, body}`; what it tells is heard of by whoever draws. */
  constructor(list, empty, announce, ask) {
    this.#list = list;
    this.#empty = empty;
    this.#announce = announce;
    this.#ask = ask;
    this.#clock = setInterval(() => this.#tick(), 500);
  }

  close() {
    clearInterval(this.#clock);
    for (const card of this.#cards.values()) card.close();
  }

  draw(calls) {
    this.#empty.hidden = calls.length > 0;
    for (const [id, card] of this.#cards) {
      if (!calls.some((call) => call.id === id)) {
        card.root.remove();
        this.#cards.delete(id);
      }
    }
    const roots = calls.map((call) => {
      let card = this.#cards.get(call.id);
      if (!card) {
        card = new Card(call, (id) => this.#ask(id));
        this.#cards.set(call.id, card);
      }
      card.show(call);
      return card.root;
    });
    inTurn(this.#list, roots);
  }

  /** Says a call's change aloud, and has its timeline asked for. */
  changed(call) {
    const parties = `from ${party(call.from)} to ${party(call.to)}`;
    const why = call.reason ? `: ${because(call.reason)}` : "";
    this.#announce(`Call ${parties}: ${inWords(call.status)}${why}`);
    this.#cards.get(call.id)?.refresh();
  }

  #tick() {
    for (const card of this.#cards.values()) card.tick();
  }
}

class Card {
  root;
  #call;
  #ask;
  #parts;
  #refused = false;
  #again;
  #stale = false;
  #asking = false;
  details;

  constructor(call, ask) {
    this.#ask = ask;
    const title = `call-${call.id}`;
    this.#parts = {
      title: element("h3", { id: title }),
      mark: element("span", { class: "mark", "aria-hidden": "true" }),
      status: element("span", { class: "words" }),
      clock: element("span", { class: "clock" }),
      reason: element("p", { class: "reason" }),
      lines: element("ol", { class: "timeline" }),
      note: element("p", { class: "note" }),
    };
    const { mark, status, clock, reason, lines, note } = this.#parts;
    this.details = element("details", {}, [element("summary", {}, ["Timeline"]), lines, note]);
    this.details.addEventListener("toggle", () => this.#asking || this.refresh());
    this.root = element("li", { class: "call" }, [
      element("article", { "aria-labelledby": title }, [
        this.#parts.title,
        element("p", { class: "status" }, [mark, " ", status, " ", clock]),
        reason,
        this.details,
      ]),
    ]);
    this.root.dataset.call = call.id;
    this.details.open = true;
  }

  show(call) {
    this.#call = call;
    this.root.dataset.status = call.status;
    const name = call.name ? `${call.name}, ${party(call.from)}` : party(call.from);
    this.#parts.title.textContent = `${name} → ${party(call.to)}`;
    this.#parts.mark.textContent = mark(call.status);
    const video = call.type === "video" ? ", with video" : "";
    const streamed = call.stream === "started" ? ", streamed" : "";
    this.#parts.status.textContent = inWords(call.status) + video + streamed;
    this.#parts.reason.textContent = call.reason ? `Because ${because(call.reason)}.` : "";
    this.#parts.reason.hidden = !call.reason;
    this.#parts.lines.replaceChildren(...(call.history ?? []).map((entry) => line(entry, call.began)));
    if (call.history) this.#parts.note.hidden = true;
    this.tick();
  }

  tick() {
    const over = isOver(this.#call.status);
    const until = over ? this.#call.at : Date.now();
    this.#parts.clock.textContent = clock(until - this.#call.began);
  }

  close() {
    this.#refused = true;
    clearTimeout(this.#again);
  }

  /** Asks for the timeline while somebody looks at it, and once more when the last line must have been written. */
  async refresh() {
    if (!this.details.open || this.#refused) return;
    this.#stale = true;
    // One question at a time: what has changed since it was asked is asked after it.
    if (this.#asking) return;
    this.#asking = true;
    while (this.#stale) {
      this.#stale = false;
      await this.#askOnce();
    }
    this.#asking = false;
    clearTimeout(this.#again);
    this.#again = setTimeout(() => this.details.open && this.#askOnce(), ASK_AGAIN);
  }

  async #askOnce() {
    const { ok, status, body } = await this.#ask(this.#call.id);
    if (ok) return;
    this.#refused = status === 403;
    const words = this.#refused
      ? "You have no part in this call: its numbers are masked, and its timeline is its participants'."
      : `The timeline cannot be had: ${body?.error ?? "no answer"}`;
    this.#parts.note.textContent = words;
    this.#parts.note.hidden = Boolean(this.#call.history);
  }
}

function line(entry, began) {
  const at = new Date(entry.at);
  const time = element("time", { datetime: at.toISOString(), title: at.toLocaleString() }, [since(entry.at - began)]);
  const by = entry.by ? [" ", element("span", { class: "by" }, [entry.by])] : [];
  return element("li", {}, [time, " ", element("span", {}, [happened(entry.event)]), ...by]);
}
