// What the API says, in words for people.

// A call's status, in S2's words: [mark, words, is it over].
const STATUSES = {
  initiated: ["◌", "Being placed", false],
  ringing: ["◔", "Ringing", false],
  "in-progress": ["●", "Talking", false],
  completed: ["✓", "Ended", true],
  busy: ["✕", "Declined", true],
  "no-answer": ["✕", "Not answered", true],
  canceled: ["✕", "Caller gave up", true],
  failed: ["!", "Failed", true],
};

const UNKNOWN = ["?", "", false];

// The statuses of GET /api/calls/{id}, in S2's words.
const IN_S2 = {
  waiting_for_mobile: "ringing",
  mobile_ready: "ringing",
  in_progress: "in-progress",
  declined: "busy",
  timed_out: "no-answer",
};

const REASONS = {
  caller_hung_up: "the caller hung up",
  callee_hung_up: "the person called hung up",
  callee_declined: "the person called declined",
  no_answer: "nobody answered in time",
  no_device: "no device is registered there",
  push_failed: "no push service took a push",
  phone_unreachable: "the phone's SIP leg failed",
  not_connected: "the two were not joined in time",
  caller_unreachable: "the caller's own phone is not registered with SIP",
  talked_too_long: "it lasted as long as a call may",
  hung_up: "one of the two hung up",
};

const EVENTS = {
  ring: "A caller is there",
  initiate: "An app asks for the call",
  announced: "Exotel announced it",
  caller_arrived: "The caller's leg waits at the PBX",
  rang: "Pushes went out",
  nobody_rang: "No device could be woken",
  caller_found: "The calling phone was found",
  caller_called: "The calling phone is being called",
  caller_unreachable: "The calling phone is not there",
  accept: "Accepted by a running app",
  accept_ready: "Accepted: the app is ready",
  decline: "Declined",
  hangup: "Hung up by the app",
  bridged: "The two are talking",
  not_bridged: "The two were not joined",
  caller_left: "The caller's leg ended",
  phone_left: "The phone's leg ended",
  reported: "Exotel reported",
  not_placed: "Exotel did not place it",
  exotel_silent: "Exotel did not answer",
  stream_started: "Audio is streamed",
  stream_stopped: "Audio is streamed no longer",
  timer_fired: "Its time was up",
  overwritten: "The other region's version came",
  settled: "All that was owed is done",
};

// What has no words of its own is shown as it is called.
const spelt = (name) => String(name).replaceAll("_", " ");

const lookedUp = (table, name) => (Object.hasOwn(table, name) ? table[name] : undefined);

export const mark = (status) => (lookedUp(STATUSES, status) ?? UNKNOWN)[0];
export const inWords = (status) => lookedUp(STATUSES, status)?.[1] ?? spelt(status);
export const isOver = (status) => (lookedUp(STATUSES, status) ?? UNKNOWN)[2];
export const inS2 = (status) => lookedUp(IN_S2, status) ?? status;
export const because = (reason) => lookedUp(REASONS, reason) ?? spelt(reason);
export const happened = (event) => lookedUp(EVENTS, event) ?? spelt(event);

/** A telephone number or an extension, as a person reads it. */
export const party = (shown) => (shown === "anonymous" ? "Number withheld" : String(shown ?? "unknown"));

/** Milliseconds since the call began: +0.25 s, +12.3 s, +3:05 min. */
export function since(milliseconds) {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 10) return `+${seconds.toFixed(2)} s`;
  if (seconds < 60) return `+${seconds.toFixed(1)} s`;
  return `+${clock(milliseconds)} min`;
}

/** Milliseconds as a stopwatch shows them: 0:07, 12:30. */
export function clock(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
