// A phone that the user of this page operates. It does what an app of one extension does, over the same routes and
// messages. On the local stack it is a sleeping app that pushes wake, with a simulated SIP phone. On AWS it is a running
// app without SIP.

import { element } from "./draw.js";
import { callerText, isOver, partyText, readable, reasonText, statusText } from "./texts.js";

const $ = (id) => document.getElementById(id);
const DEVICE_ID_KEY = "ringback-device";

export class Phone {
  #extension;
  #api;
  #connection;
  #local;
  #announce;
  #device;
  #isOn = false;
  #call;
  #handledPushes = new Set();
  #stopWatching;

  /**
   * `api` and `connection()` use the extension's own token. `local` is the local stack, if there is one; `onLocalState`
   * is called with each new state of it.
   */
  constructor({ extension, api, connection, local, announce, onLocalState }) {
    this.#extension = extension;
    this.#api = api;
    this.#connection = connection;
    this.#local = local;
    this.#announce = announce;
    this.#device = `console-${deviceIdOfTab()}`;
    $("audio").hidden = Boolean(local);
    $("pushes-of").hidden = !local;
    $("switch").onclick = () => this.#run($("switch"), () => (this.#isOn ? this.switchOff() : this.#switchOn()));
    $("accept").onclick = () => this.#run($("accept"), () => this.#accept());
    $("decline").onclick = () => this.#run($("decline"), () => this.#respond("decline"));
    $("hang-up").onclick = () => this.#run($("hang-up"), () => this.#respond("hangup"));
    $("place").onsubmit = (event) => {
      event.preventDefault();
      this.#run($("place").querySelector("button"), () => this.#placeCall());
    };
    this.setConnected(false);
    if (local) {
      this.#stopWatching = local.watch(this.#pushToken, (state) => {
        onLocalState(state);
        this.#applyLocalState(state);
      });
    }
    this.#show();
  }

  get #pushToken() {
    return `${this.#device}-${this.#extension}`;
  }

  /** Calls are placed over the extension's own connection, so the button needs it. */
  setConnected(isLive) {
    $("place").querySelector("button").disabled = !isLive;
  }

  /** Handles a message on the extension's own connection. */
  handleMessage(message) {
    const { type, data } = message;
    if (type === "call_status_update") this.#applyUpdate(data);
    if (type === "call_initiated") this.#callPlaced(data);
    if (type === "error") this.#showError(message.error);
  }

  /** Switches the phone off and deletes its registration. */
  async switchOff(options = {}) {
    if (!this.#isOn) return;
    this.#isOn = false;
    this.#call = undefined;
    this.#show();
    if (this.#local) await this.#api("DELETE", this.#devicePath, undefined, options);
  }

  /** Stops this phone for good, before another one takes its place on the page. */
  async close() {
    this.#stopWatching?.();
    await this.switchOff();
  }

  get #devicePath() {
    return `api/devices/${this.#device}`;
  }

  async #switchOn() {
    if (this.#local) {
      const device = { extension: this.#extension, platform: "fcm", token: this.#pushToken };
      const answer = await this.#api("PUT", this.#devicePath, device);
      if (!answer.ok) return this.#showError(answer.body.error);
    }
    this.#isOn = true;
    this.#show();
  }

  /** Shows the SIP phone and the pushes of the local stack, and handles new pushes. */
  #applyLocalState(state) {
    const sipPhone = state.phones[this.#extension];
    $("leg").textContent = sipPhone ? `SIP phone: ${sipPhoneText(sipPhone)}.` : "";
    $("push-count").textContent = state.pushes.length;
    $("pushes").replaceChildren(...state.pushes.toReversed().map(pushLine));
    for (const { data } of state.pushes) {
      // The state has all pushes each time.
      const key = `${data.type} ${data.call_id}`;
      if (this.#handledPushes.has(key)) continue;
      this.#handledPushes.add(key);
      if (data.type === "incoming_call") this.#wake(data.call_id, data.answer_url);
      if (data.type === "call_cancelled" && this.#call?.id === data.call_id && this.#call.state === "ringing") {
        this.#endCall(`Canceled: ${cancelReasonText(data.reason)}`);
      }
    }
  }

  #applyUpdate(data) {
    if (this.#call?.id !== data.callId) {
      // Only on AWS: a running app learns of its calls here, a sleeping app from a push.
      if (!this.#local && data.status === "ringing" && data.to === this.#extension) this.#wake(data.callId);
    } else if (isOver(data.status)) {
      this.#endCall(statusText(data.status) + (data.reason ? `: ${reasonText(data.reason)}` : ""));
    } else if (data.status === "in-progress") {
      this.#setState("talking");
    }
  }

  /** A push may arrive late, so the phone asks for the call's status before it rings. */
  async #wake(id, answerUrl) {
    if (!this.#isOn || this.#call) return;
    const { ok, body } = await this.#api("GET", `api/calls/${encodeURIComponent(id)}`);
    if (!ok || !this.#isOn || this.#call || body.status !== "waiting_for_mobile") return;
    this.#call = { id, with: callerText(body.caller_name, body.caller_number), state: "ringing" };
    this.#show();
    this.#announce(`Incoming call from ${this.#call.with}`);
    if (answerUrl) reportRinging(answerUrl);
  }

  async #accept() {
    this.#setState("connecting");
    // A woken app registers with SIP before it reports that it is ready. A running app may register afterwards.
    if (this.#local) await this.#local.pickUp(this.#extension);
    const accepted = await this.#respond(this.#local ? "accept_ready" : "accept");
    if (!accepted && this.#call?.state === "connecting") this.#setState("ringing");
  }

  /** Sends the user's response to the current call. Returns whether the API took it. */
  async #respond(action) {
    const call = this.#call;
    if (!call) return false;
    const { ok, status, body } = await this.#api("POST", "api/call-response", {
      server_call_id: call.id,
      extension: this.#extension,
      action,
      timestamp: Date.now(),
      ...(this.#local && { device_id: this.#device }),
    });
    // An update may have ended the call meanwhile.
    if (this.#call !== call) return ok;
    if (status === 409) this.#endCall(`Not possible any more, call status: ${readable(body.status)}`);
    else if (!ok) this.#showError(body.error);
    else if (action === "decline") this.#endCall("Declined");
    else if (action === "hangup") this.#endCall("Hung up");
    return ok;
  }

  async #placeCall() {
    const recipientId = $("recipient").value.trim();
    // The PBX dials the caller's own phone first, so it must be registered.
    if (this.#local) await this.#local.register(this.#extension);
    const sent = this.#connection().send({
      type: "incoming_call",
      callerId: this.#extension,
      recipientId,
      callType: $("video").checked ? "video" : "voice",
      clientReference: crypto.randomUUID(),
    });
    if (!sent) this.#showError("Not connected. The call was not placed.");
  }

  #callPlaced(data) {
    if (isOver(data.status)) return this.#endCall(statusText(data.status));
    this.#call = { id: data.callId, with: partyText(data.to), state: "calling" };
    this.#show();
  }

  #setState(state) {
    if (!this.#call) return;
    this.#call.state = state;
    this.#show();
  }

  #endCall(result) {
    this.#call = undefined;
    this.#show(result);
    this.#announce(result);
  }

  #showError(text) {
    $("phone-error").textContent = text ?? "The request failed.";
  }

  /** Runs a button's action, ignores clicks until it ends, and shows its error. */
  async #run(button, action) {
    if (button.ariaDisabled === "true") return;
    $("phone-error").textContent = "";
    // Not `disabled`: a disabled button loses the focus.
    button.ariaDisabled = "true";
    try {
      await action();
    } catch (error) {
      this.#showError(error.message);
    } finally {
      button.ariaDisabled = "false";
    }
  }

  #show(result) {
    const focused = document.activeElement;
    const state = this.#call?.state ?? (this.#isOn ? "on" : "off");
    $("phone").dataset.state = state;
    $("switch").textContent = this.#isOn ? "Switch off" : "Switch on";
    $("switch").setAttribute("aria-pressed", String(this.#isOn));
    const text = {
      off: "Off.",
      on: this.#local ? "Asleep, waiting for a push." : "On, waiting for a call.",
      ringing: `${this.#call?.with} is calling.`,
      connecting: `Connecting with ${this.#call?.with}…`,
      calling: `Calling ${this.#call?.with}…`,
      talking: `Talking with ${this.#call?.with}.`,
    }[state];
    $("phone-state").textContent = result ? `${result}. ${text}` : text;
    $("accept").hidden = $("decline").hidden = state !== "ringing" && state !== "connecting";
    $("accept").textContent = state === "connecting" ? "Accepting…" : "Accept";
    $("decline").hidden ||= state === "connecting";
    $("hang-up").hidden = !["connecting", "calling", "talking"].includes(state);
    if ($("ringing").contains(focused) && focused.hidden) moveFocus();
  }
}

/** Keeps the focus in the phone when the focused button has disappeared. */
function moveFocus() {
  ["accept", "hang-up", "phone-state"].map($).find((one) => !one.hidden)?.focus();
}

function deviceIdOfTab() {
  const id = sessionStorage.getItem(DEVICE_ID_KEY) ?? crypto.randomUUID().slice(0, 8);
  sessionStorage.setItem(DEVICE_ID_KEY, id);
  return id;
}

/** An app that a push has started reports without a login that it rings. The call does not depend on this report. */
const reportRinging = (answerUrl) =>
  fetch(new URL(answerUrl).pathname, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ action: "ringing" }),
  }).catch(() => undefined);

// The reasons that only a `call_cancelled` push has.
const CANCEL_REASONS = {
  timeout: "no answer in time",
};

const cancelReasonText = (reason) => (Object.hasOwn(CANCEL_REASONS, reason) ? CANCEL_REASONS[reason] : reasonText(reason));

function pushLine({ at, data }) {
  const kind =
    data.type === "incoming_call" ? "Incoming call from" : `Call canceled (${cancelReasonText(data.reason)}):`;
  const time = element("time", { datetime: at }, [new Date(at).toLocaleTimeString()]);
  return element("li", {}, [time, ` ${kind} ${callerText(data.caller_name, data.caller_number)}`]);
}

function sipPhoneText({ registered, leg }) {
  const parts = [registered ? "registered" : "not registered"];
  if (leg) parts.push(leg.stage);
  if (leg?.hears.length > 0) parts.push(`hears ${leg.hears.join(" and ")}`);
  return parts.join(", ");
}
