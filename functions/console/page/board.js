// The board: every known call with its timeline, the newest first.

import { arrange, element } from "./draw.js";
import { callerText, clock, elapsed, eventText, isOver, partyText, reasonText, statusMark, statusText } from "./texts.js";

// Milliseconds. The last line of a timeline may be stored shortly after the status update.
const REFRESH_AGAIN_AFTER = 1500;

export class Board {
  #list;
  #empty;
  #announce;
  #fetchCall;
  #cards = new Map();
  #clock;

  /**
   * `fetchCall(id)` sends `GET /api/calls/{id}` and returns `{ok, status, body}`. Its caller applies the body and draws
   * the board again.
   */
  constructor(list, empty, announce, fetchCall) {
    this.#list = list;
    this.#empty = empty;
    this.#announce = announce;
    this.#fetchCall = fetchCall;
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
        card = new Card(call, this.#fetchCall);
        this.#cards.set(call.id, card);
      }
      card.show(call);
      return card.root;
    });
    arrange(this.#list, roots);
  }

  /** Announces a changed call to screen readers and refreshes its timeline. */
  changed(call) {
    const parties = `from ${partyText(call.from)} to ${partyText(call.to)}`;
    const reason = call.reason ? `: ${reasonText(call.reason)}` : "";
    this.#announce(`Call ${parties}: ${statusText(call.status)}${reason}`);
    this.#cards.get(call.id)?.refresh();
  }

  #tick() {
    for (const card of this.#cards.values()) card.tick();
  }
}

class Card {
  root;
  #call;
  #fetchCall;
  #parts;
  #details;
  #closed = false;
  #refreshAgain;
  #isStale = false;
  #isFetching = false;

  constructor(call, fetchCall) {
    this.#fetchCall = fetchCall;
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
    this.#details = element("details", {}, [element("summary", {}, ["Timeline"]), lines, note]);
    this.#details.addEventListener("toggle", () => this.#isFetching || this.refresh());
    this.root = element("li", { class: "call" }, [
      element("article", { "aria-labelledby": title }, [
        this.#parts.title,
        element("p", { class: "status" }, [mark, " ", status, " ", clock]),
        reason,
        this.#details,
      ]),
    ]);
    this.root.dataset.call = call.id;
    this.#details.open = true;
  }

  show(call) {
    this.#call = call;
    this.root.dataset.status = call.status;
    this.#parts.title.textContent = `${callerText(call.name, call.from)} → ${partyText(call.to)}`;
    this.#parts.mark.textContent = statusMark(call.status);
    const video = call.type === "video" ? ", video" : "";
    const streaming = call.stream === "started" ? ", streaming audio" : "";
    this.#parts.status.textContent = statusText(call.status) + video + streaming;
    this.#parts.reason.textContent = call.reason ? `Reason: ${reasonText(call.reason)}` : "";
    this.#parts.reason.hidden = !call.reason;
    this.#parts.lines.replaceChildren(...(call.history ?? []).map((entry) => timelineLine(entry, call)));
    if (call.history) this.#parts.note.hidden = true;
    this.tick();
  }

  tick() {
    const until = isOver(this.#call.status) ? this.#call.at : Date.now();
    this.#parts.clock.textContent = clock(until - this.#call.began);
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#refreshAgain);
  }

  /** Loads the timeline if it is open, and once more when its last line must be stored. */
  async refresh() {
    if (!this.#details.open || this.#closed) return;
    this.#isStale = true;
    // One request at a time: the loop below also covers changes that arrive during a request.
    if (this.#isFetching) return;
    this.#isFetching = true;
    while (this.#isStale) {
      this.#isStale = false;
      await this.#loadTimeline();
    }
    this.#isFetching = false;
    clearTimeout(this.#refreshAgain);
    if (this.#closed) return;
    this.#refreshAgain = setTimeout(() => this.#details.open && this.#loadTimeline(), REFRESH_AGAIN_AFTER);
  }

  async #loadTimeline() {
    const { ok, status, body } = await this.#fetchCall(this.#call.id);
    if (ok) return;
    const isForbidden = status === 403;
    // A forbidden timeline stays forbidden, so this card sends no more requests.
    if (isForbidden) this.#closed = true;
    this.#parts.note.textContent = isForbidden
      ? "You are not a participant of this call. Its numbers are masked and its timeline is hidden."
      : `The timeline could not be loaded: ${body?.error ?? "no answer"}`;
    this.#parts.note.hidden = Boolean(this.#call.history);
  }
}

function timelineLine(entry, { began, receipts }) {
  const at = new Date(entry.at);
  const time = element("time", { datetime: at.toISOString(), title: at.toLocaleString() }, [elapsed(entry.at - began)]);
  const { text, detail } = eventText(entry, receipts);
  const details = detail ? [" ", element("span", { class: "by" }, [detail])] : [];
  return element("li", {}, [time, " ", element("span", {}, [text]), ...details]);
}
