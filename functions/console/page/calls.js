// The calls heard of. Messages come twice, late, and in any order: a call only moves on.

import { inS2, isOver } from "./words.js";

// More than anybody looks through. Those that are over go first.
const KEPT = 100;
const ORDER = ["initiated", "ringing", "in-progress"];

const progress = (status) => (isOver(status) ? ORDER.length : ORDER.indexOf(status));

/** Whether a call that stands like `known` may come to stand like `told`. */
function movesOn(known, told) {
  if (isOver(known.status)) return false;
  if (told.at !== known.at) return told.at > known.at || isOver(told.status);
  return progress(told.status) > progress(known.status);
}

export class Calls {
  #calls = new Map();

  /** All calls, the latest first. */
  all() {
    return [...this.#calls.values()].sort((one, other) => other.began - one.began || (one.id < other.id ? 1 : -1));
  }

  find(id) {
    return this.#calls.get(id);
  }

  /** Those of which more is to be heard. */
  underWay() {
    return this.all().filter((call) => !isOver(call.status));
  }

  forget() {
    this.#calls.clear();
  }

  /** `call_status_update`, or `call_initiated`: gives the call if that changes it. */
  hear(data) {
    const at = Date.parse(data?.timestamp);
    if (typeof data?.callId !== "string" || typeof data.status !== "string" || Number.isNaN(at)) return undefined;
    return this.#take(data.callId, {
      status: data.status,
      at,
      from: data.from,
      to: data.to,
      type: data.callType,
      reason: data.reason ?? undefined,
      stream: data.stream ?? undefined,
    });
  }

  /** The answer of `GET /api/calls/{id}`: gives the call if that changes it. */
  stands(id, body) {
    const history = Array.isArray(body.history) ? body.history : [];
    const last = history.at(-1)?.at ?? body.created_at;
    const known = this.#calls.get(id);
    const changed = this.#take(id, {
      status: inS2(body.status),
      at: last,
      from: body.caller_number,
      to: body.to ?? body.extension,
      type: body.call_type,
      reason: body.reason ?? undefined,
      stream: body.stream ?? undefined,
    });
    const call = this.#calls.get(id);
    const longer = history.length > (call.history?.length ?? 0);
    if (longer) call.history = history;
    call.began = Math.min(call.began, body.created_at ?? call.began);
    call.name = body.caller_name ?? call.name;
    return changed ?? (longer || known === undefined ? call : undefined);
  }

  #take(id, told) {
    const known = this.#calls.get(id);
    if (known === undefined) {
      const call = { id, began: told.at, ...told };
      this.#calls.set(id, call);
      this.#letGo();
      return call;
    }
    // An earlier message that comes late still says when the call began.
    known.began = Math.min(known.began, told.at);
    const restreamed = told.at >= known.at && told.stream !== known.stream;
    if (restreamed) known.stream = told.stream;
    if (movesOn(known, told)) {
      Object.assign(known, told);
      return known;
    }
    return restreamed ? known : undefined;
  }

  #letGo() {
    const over = this.all().filter((call) => isOver(call.status));
    while (this.#calls.size > KEPT && over.length > 0) this.#calls.delete(over.pop().id);
  }
}
