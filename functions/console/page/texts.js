// The texts for what the API reports by name.

// The statuses of `call_status_update`: [mark, text, whether the call is over].
const STATUSES = {
  initiated: ["◌", "Dialing", false],
  ringing: ["◔", "Ringing", false],
  "in-progress": ["●", "Talking", false],
  completed: ["✓", "Ended", true],
  busy: ["✕", "Declined", true],
  "no-answer": ["✕", "Not answered", true],
  canceled: ["✕", "Canceled", true],
  failed: ["!", "Failed", true],
};

const UNKNOWN_STATUS = ["?", "", false];

// `GET /api/calls/{id}` uses other status names. These correspond to statuses of `call_status_update`.
const UPDATE_STATUSES = {
  waiting_for_mobile: "ringing",
  mobile_ready: "ringing",
  in_progress: "in-progress",
  declined: "busy",
  timed_out: "no-answer",
};

// End reasons. One that is not listed is shown by its name.
const REASONS = {
  callee_hung_up: "the callee hung up",
  callee_declined: "the callee declined",
  busy: "the callee was in another conversation",
  do_not_disturb: "the callee wants no calls now",
  caller_hung_up: "the caller hung up",
  answered_elsewhere: "answered elsewhere",
  declined_elsewhere: "declined elsewhere",
  hung_up: "one side hung up",
  no_answer: "no answer in time",
  no_device: "no device is registered for the extension",
  push_failed: "no push service accepted the push",
  phone_unreachable: "the phone could not be reached over SIP",
  caller_unreachable: "the caller's phone is not registered over SIP",
  not_connected: "the legs were not bridged in time",
  talked_too_long: "the maximum duration of a call was reached",
  number_busy: "the number was busy",
  network_failed: "the network could not connect the call",
  exotel_refused: "Exotel rejected the call",
  exotel_no_balance: "the Exotel account has no balance left",
  exotel_too_many: "too many calls within a minute for Exotel",
  exotel_unavailable: "Exotel could not be reached",
  exotel_not_configured: "no usable Exotel account is configured",
  never_reported: "no report of the call arrived",
};

// Texts for events whose name is not clear enough. The text of any other event is its name: `push_not_sent` is shown as
// "Push not sent".
const EVENTS = {
  ring: "Ringing",
  initiate: "Call requested by an app",
  ringing: "Device rings",
  call_reported: "Call reported by Exotel",
  caller_leg_arrived: "Caller's leg reached the PBX",
  caller_leg_ended: "Caller's leg ended",
  agent_done: "Exotel is done with this agent",
  phone_leg_ended: "Phone's leg ended",
  caller_phone_located: "Caller's phone located",
  caller_phone_dialed: "Caller's phone dialed",
  caller_unreachable: "Caller's phone unreachable",
  push_delayed: "No push accepted yet",
  clients_rung: "Connected apps ring",
  accept: "Accepted by a running app",
  accept_ready: "Accepted, app is ready",
  hangup: "Hung up by an app",
  bridged: "Legs bridged",
  not_bridged: "Legs not bridged",
  exotel_progress: "Exotel reported progress",
  exotel_no_answer: "Exotel did not answer",
  outbound_call_rejected: "Exotel rejected the call",
  replica_overwritten: "Replaced by the other region's version",
};

const STOP_REASONS = { stopped: "by the call flow", callended: "the call ended" };

// `answered=true cause=16` as "answered, cause 16".
const legText = (by) =>
  by.replace("answered=true", "answered").replace("answered=false", "not answered").replace(" cause=", ", cause ");

// How an event's `by` is shown. Without an entry here, it is shown as it is.
const DETAILS = {
  push_not_sent: (by) => reasonText(by),
  callee_unavailable: (by) => reasonText(by),
  outbound_call_rejected: (by) => reasonText(by),
  caller_leg_ended: legText,
  phone_leg_ended: legText,
  stream_stopped: (by) => lookUp(STOP_REASONS, by) ?? readable(by),
  exotel_progress: (by) => readable(by),
  replica_overwritten: (by) => readable(by),
};

const lookUp = (table, name) => (Object.hasOwn(table, name) ? table[name] : undefined);
const status = (name) => lookUp(STATUSES, name) ?? UNKNOWN_STATUS;
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** A name as a text: `in_progress` as "in progress". */
export const readable = (name) => String(name).replaceAll("_", " ");

export const statusMark = (name) => status(name)[0];
export const statusText = (name) => status(name)[1] || sentence(readable(name));
export const isOver = (name) => status(name)[2];
export const updateStatus = (name) => lookUp(UPDATE_STATUSES, name) ?? name;
export const reasonText = (name) => lookUp(REASONS, name) ?? readable(name);

// The platforms of pushes.
const PLATFORMS = { fcm: "FCM", apns: "APNs", apns_voip: "APNs VoIP" };

/** How long after its push a device rang, as in "1001/my-pixel-8, 0.81 s after the push (FCM)". */
function ringText(by, receipts) {
  const receipt = lookUp(receipts, String(by).split("/").at(-1));
  if (!receipt) return by;
  const platform = lookUp(PLATFORMS, receipt.platform) ?? readable(receipt.platform);
  return `${by}, ${(receipt.time_to_ring_ms / 1000).toFixed(2)} s after the push (${platform})`;
}

/** A line of a call's history: `{text, detail}`. `detail` is undefined if there is none. `receipts` has what each device reported. */
export function eventText({ event, by }, receipts = {}) {
  if (event === "ringing") return { text: EVENTS.ringing, detail: ringText(by, receipts) };
  if (event === "push_sent") return { text: `Push sent to ${count(Number.parseInt(by, 10), "device")}` };
  const text = lookUp(EVENTS, event) ?? sentence(readable(event));
  return { text, detail: by ? (lookUp(DETAILS, event)?.(by) ?? by) : undefined };
}

const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** A telephone number or an extension, as a person reads it. */
export const partyText = (party) => (party === "anonymous" ? "Number withheld" : String(party ?? "unknown"));

/** The name and the number of a caller. */
export const callerText = (name, number) => (name ? `${name}, ${partyText(number)}` : partyText(number));

/** A time after the start of the call: +0.25 s, +12.3 s, +3:05 min. */
export function elapsed(milliseconds) {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 10) return `+${seconds.toFixed(2)} s`;
  if (seconds < 60) return `+${seconds.toFixed(1)} s`;
  return `+${clock(milliseconds)} min`;
}

/** A duration as a stopwatch shows it: 0:07, 12:30. */
export function clock(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
