// The calls that this page knows. Messages may arrive twice, late, and in any order, but a call only moves forward.

import { isOver, updateStatus } from "./texts.js";

// When there are more, calls that are over are dropped, the oldest first.
const MAX_CALLS = 100;
const ORDER = ["initiated", "ringing", "in-progress"];

const progress = (status) => (isOver(status) ? ORDER.length : ORDER.indexOf(status));

/** Whether `update` moves the call forward. */
function isNewer(update, call) {
  if (isOver(call.status)) return false;
  if (update.at !== call.at) return update.at > call.at || isOver(update.status);
  return progress(update.status) > progress(call.status);
}

export class Calls {
  #calls = new Map();

  /** All calls, the newest first. */
  all() {
    return [...this.#calls.values()].sort((one, other) => other.began - one.began || (one.id < other.id ? 1 : -1));
  }

  find(id) {
    return this.#calls.get(id);
  }

  active() {
    return this.all().filter((call) => !isOver(call.status));
  }

  /** Applies the data of a `call_status_update`. Returns the call if it changed. */
  applyUpdate(data) {
    const at = Date.parse(data?.timestamp);
    if (typeof data?.callId !== "string" || typeof data.status !== "string" || Number.isNaN(at)) return undefined;
    return this.#apply(data.callId, {
      status: data.status,
      at,
      from: data.from,
      to: data.to,
      type: data.callType,
      reason: data.reason ?? undefined,
      stream: data.stream ?? undefined,
    });
  }

  /** Applies an answer of `GET /api/calls/{id}`. Returns the call if it changed. */
  applyAnswer(id, body) {
    const history = Array.isArray(body.history) ? body.history : [];
    const isNew = !this.#calls.has(id);
    const changed = this.#apply(id, {
      status: updateStatus(body.status),
      at: history.at(-1)?.at ?? body.created_at,
      from: body.caller_number,
      to: body.to ?? body.extension,
      type: body.call_type,
      reason: body.reason ?? undefined,
      stream: body.stream ?? undefined,
    });
    const call = this.#calls.get(id);
    const isLonger = history.length > (call.history?.length ?? 0);
    if (isLonger) call.history = history;
    call.receipts = body.ring_receipts ?? {};
    call.began = Math.min(call.began, body.created_at ?? call.began);
    call.name = body.caller_name ?? call.name;
    return changed ?? (isLonger || isNew ? call : undefined);
  }

  #apply(id, update) {
    const call = this.#calls.get(id);
    if (call === undefined) {
      const added = { id, began: update.at, ...update };
      this.#calls.set(id, added);
      this.#dropOldest();
      return added;
    }
    // An earlier message that arrives late still says when the call began.
    call.began = Math.min(call.began, update.at);
    const streamChanged = update.at >= call.at && update.stream !== call.stream;
    if (streamChanged) call.stream = update.stream;
    if (isNewer(update, call)) {
      Object.assign(call, update);
      return call;
    }
    return streamChanged ? call : undefined;
  }

  #dropOldest() {
    const over = this.all().filter((call) => isOver(call.status));
    while (this.#calls.size > MAX_CALLS && over.length > 0) this.#calls.delete(over.pop().id);
  }
}
