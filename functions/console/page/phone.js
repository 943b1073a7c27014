// The phone that a person plays: what an app of one extension does, by the routes and messages that an app has. On the
// local stack it is a device that is woken by pushes, with a simulated SIP phone; on AWS it is an app that is running.

import { element } from "./draw.js";
import { because, inWords, isOver, party } from "./words.js";

const $ = (id) => document.getElementById(id);
const ID_IN_TAB = "ringback-device";

export class Phone {
  #extension;
  #api;
  #connection;
  #local;
  #announce;
  #device;
  #on = false;
  #call;
  #heard = new Set();
  #stopWatching;

  /**
   * `api` and `connection` carry the extension's own token. `local` is the local stack, where there is one, and tells
   * `watched(state)` of its callers.
   */
  constructor({ extension, api, connection, local, announce, watched }) {
    this.#extension = extension;
    this.#api = api;
    this.#connection = connection;
    this.#local = local;
    this.#announce = announce;
    this.#device = `console-${idOfTab()}`;
    $("audio").hidden = Boolean(local);
    $("pushes-of").hidden = !local;
    $("switch").onclick = () => this.#busy($("switch"), () => (this.#on ? this.off() : this.#switchOn()));
    $("accept").onclick = () => this.#busy($("accept"), () => this.#accept());
    $("decline").onclick = () => this.#busy($("decline"), () => this.#say("decline"));
    $("hang-up").onclick = () => this.#busy($("hang-up"), () => this.#say("hangup"));
    $("place").onsubmit = (event) => {
      event.preventDefault();
      this.#busy($("place").querySelector("button"), () => this.#place());
    };
    this.connected(false);
    if (local) this.#stopWatching = local.watch(this.#pushToken, (state) => this.#watched(state, watched));
    this.#show();
  }

  get #pushToken() {
    return `${this.#device}-${this.#extension}`;
  }

  /** The extension's own connection stands, or is lost: calls are started over it. */
  connected(isLive) {
    $("place").querySelector("button").disabled = !isLive;
  }

  /** A message on the extension's own connection. */
  hear(message) {
    const { type, data } = message;
    if (type === "call_status_update") this.#update(data);
    if (type === "call_initiated") this.#placed(data);
    if (type === "error") this.#failed(message.error);
  }

  /** Takes the registration back: nobody is here any more. */
  async off(request = {}) {
    if (!this.#on) return;
    this.#on = false;
    this.#call = undefined;
    this.#show();
    if (this.#local) await this.#api("DELETE", this.#devicePath, undefined, request);
  }

  /** Somebody else plays it from now on. */
  async leave() {
    this.#stopWatching?.();
    await this.off();
  }

  get #devicePath() {
    return `api/devices/${this.#device}`;
  }

  async #switchOn() {
    if (this.#local) {
      const device = { extension: this.#extension, platform: "fcm", token: this.#pushToken };
      const answer = await this.#api("PUT", this.#devicePath, device);
      if (!answer.ok) return this.#failed(answer.body.error);
    }
    this.#on = true;
    this.#show();
  }

  /** The push service has brought something, or a SIP leg has changed. */
  #watched(state, watched) {
    watched(state);
    const leg = state.phones[this.#extension];
    $("leg").textContent = leg ? `Its SIP phone ${legInWords(leg)}.` : "";
    $("push-count").textContent = state.pushes.length;
    $("pushes").replaceChildren(...state.pushes.toReversed().map(push));
    for (const { data } of state.pushes) {
      const key = `${data.type} ${data.call_id}`;
      if (this.#heard.has(key)) continue;
      this.#heard.add(key);
      if (data.type === "incoming_call") this.#woken(data.call_id);
      if (data.type === "call_cancelled" && this.#call?.id === data.call_id && this.#call.state === "ringing") {
        this.#over(`Cancelled: ${cancelledBecause(data.reason)}`);
      }
    }
  }

  #update(data) {
    if (this.#call?.id !== data.callId) {
      // A running app is told of its calls here; one that sleeps, by push.
      if (!this.#local && data.status === "ringing" && data.to === this.#extension) this.#woken(data.callId);
    } else if (isOver(data.status)) {
      this.#over(inWords(data.status) + (data.reason ? `: ${because(data.reason)}` : ""));
    } else if (data.status === "in-progress") {
      this.#becomes("talking");
    }
  }

  /** What woke it may be late, so the call is asked about before it rings. */
  async #woken(id) {
    if (!this.#on || this.#call) return;
    const { ok, body } = await this.#api("GET", `api/calls/${encodeURIComponent(id)}`);
    if (!ok || !this.#on || this.#call || body.status !== "waiting_for_mobile") return;
    const name = body.caller_name ? `${body.caller_name}, ` : "";
    this.#call = { id, with: name + party(body.caller_number), state: "ringing" };
    this.#show();
    this.#announce(`Incoming call from ${this.#call.with}`);
  }

  async #accept() {
    this.#becomes("connecting");
    // An app that was woken registers with SIP before it says that it is ready; a running one may do so afterwards.
    if (this.#local) await this.#local.pickUp(this.#extension);
    const accepted = await this.#say(this.#local ? "accept_ready" : "accept");
    if (!accepted && this.#call?.state === "connecting") this.#becomes("ringing");
  }

  async #say(action) {
    const call = this.#call;
    if (!call) return false;
    const { ok, status, body } = await this.#api("POST", "api/call-response", {
      server_call_id: call.id,
      extension: this.#extension,
      action,
      timestamp: Date.now(),
      ...(this.#local && { device_id: this.#device }),
    });
    if (this.#call !== call) return ok;
    if (status === 409) this.#over(`Gone another way: ${String(body.status).replaceAll("_", " ")}`);
    else if (!ok) this.#failed(body.error);
    else if (action === "decline") this.#over("Declined");
    else if (action === "hangup") this.#over("Hung up");
    return ok;
  }

  async #place() {
    const recipientId = $("recipient").value.trim();
    // The caller's own phone is called first.
    if (this.#local) await this.#local.register(this.#extension);
    const sent = this.#connection().send({
      type: "incoming_call",
      callerId: this.#extension,
      recipientId,
      callType: $("video").checked ? "video" : "voice",
      clientReference: crypto.randomUUID(),
    });
    if (!sent) this.#failed("Not connected, so the call was not placed.");
  }

  #placed(data) {
    this.#call = { id: data.callId, with: party(data.to), state: isOver(data.status) ? "over" : "calling" };
    this.#show();
  }

  #becomes(state) {
    if (!this.#call) return;
    this.#call.state = state;
    this.#show();
  }

  #over(words) {
    this.#call = undefined;
    this.#show(words);
    this.#announce(words);
  }

  #failed(words) {
    $("phone-error").textContent = words ?? "That did not work.";
  }

  /** One press at a time; what goes wrong is said. */
  async #busy(button, act) {
    if (button.ariaDisabled === "true") return;
    $("phone-error").textContent = "";
    // Not `disabled`, which would take the focus away.
    button.ariaDisabled = "true";
    try {
      await act();
    } catch (error) {
      this.#failed(error.message);
    } finally {
      button.ariaDisabled = "false";
    }
  }

  #show(last) {
    const focused = document.activeElement;
    const state = this.#call?.state ?? (this.#on ? "on" : "off");
    $("phone").dataset.state = state;
    $("switch").textContent = this.#on ? "Switch off" : "Switch on";
    $("switch").setAttribute("aria-pressed", String(this.#on));
    const now = {
      off: "It is off.",
      on: this.#local ? "It sleeps, and can be woken." : "It is on, and hears of its calls.",
      ringing: `${this.#call?.with} is calling.`,
      connecting: `Connecting with ${this.#call?.with}…`,
      calling: `Calling ${this.#call?.with}…`,
      talking: `Talking with ${this.#call?.with}.`,
    }[state];
    $("phone-state").textContent = last ? `${last}. ${now}` : now;
    $("accept").hidden = $("decline").hidden = state !== "ringing" && state !== "connecting";
    $("accept").textContent = state === "connecting" ? "Accepting…" : "Accept";
    $("decline").hidden ||= state === "connecting";
    $("hang-up").hidden = !["connecting", "calling", "talking"].includes(state);
    if ($("ringing").contains(focused) && focused.hidden) focusOnWhatIsLeft();
  }
}

/** A button that has gone takes nobody's place on the page with it. */
function focusOnWhatIsLeft() {
  ["accept", "hang-up", "phone-state"].map($).find((one) => !one.hidden)?.focus();
}

function idOfTab() {
  const known = sessionStorage.getItem(ID_IN_TAB);
  const id = known ?? crypto.randomUUID().slice(0, 8);
  sessionStorage.setItem(ID_IN_TAB, id);
  return id;
}

const CANCELLED = {
  caller_hung_up: "the caller gave up",
  answered_elsewhere: "answered on another device",
  timeout: "nobody answered in time",
};

const cancelledBecause = (reason) => (Object.hasOwn(CANCELLED, reason) ? CANCELLED[reason] : because(reason));

function push({ at, data }) {
  const kind = data.type === "incoming_call" ? "incoming_call from" : `call_cancelled, ${cancelledBecause(data.reason)}:`;
  const name = data.caller_name ? `${data.caller_name}, ` : "";
  const time = element("time", { datetime: at }, [new Date(at).toLocaleTimeString()]);
  return element("li", {}, [time, ` ${kind} ${name}${party(data.caller_number)}`]);
}

function legInWords({ registered, leg }) {
  const is = registered ? "is registered" : "is not registered";
  if (!leg) return is;
  const hears = leg.hears.length > 0 ? `, and hears ${leg.hears.join(" and ")}` : "";
  return `${is}, ${leg.stage}${hears}`;
}
