// The page: signs in, connects, and shows the calls that the token may see.

import { Board } from "./board.js";
import { Calls } from "./calls.js";
import { Connection } from "./connection.js";
import { element } from "./draw.js";
import { Local } from "./local.js";
import { Numbers } from "./numbers.js";
import { Phone } from "./phone.js";
import { RecentCalls } from "./recent.js";

const $ = (id) => document.getElementById(id);
const TOKEN_KEY = "ringback-token";
// No call has this id. The API answers 401 to an invalid token and another error to a valid one.
const NO_CALL = "00000000-0000-7000-8000-000000000000";
const MAX_CALLERS_SHOWN = 5;

const settings = await (await fetch("console/settings.json")).json();
const announce = (text) => ($("announcer").textContent = text);

/** A function that sends requests with this token. It returns `{ok, status, body}` and never throws. */
function apiWith(token) {
  return async (method, path, body, options = {}) => {
    const { headers: conditions, ...more } = options;
    const headers = { authorization: `Bearer ${token}`, ...conditions };
    if (body) headers["content-type"] = "application/json";
    try {
      const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), ...more });
      return { ok: answer.ok, status: answer.status, body: await answer.json().catch(() => ({})) };
    } catch {
      return { ok: false, status: 0, body: { error: "The API could not be reached." } };
    }
  };
}

/** The URL of the WebSocket API: from the settings of the deployment, or else beside this page. */
function webSocketUrl() {
  if (settings.webSocketUrl) return settings.webSocketUrl;
  const url = new URL("exotel-stream", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

function connect(token, handlers) {
  const isTokenValid = async () => (await apiWith(token)("GET", `api/calls/${NO_CALL}`)).status !== 401;
  return new Connection(webSocketUrl(), token, { ...handlers, isTokenValid });
}

/** The connection and the board of one token. */
class Session {
  #connection;
  #calls = new Calls();
  #board;
  #api;
  #numbers;
  #onMessage;
  #onConnected;

  /** Shows the recent calls of `extension` at first, if the viewer has one. */
  constructor(token, extension, onMessage = () => {}, onConnected = () => {}) {
    this.#api = apiWith(token);
    new RecentCalls($("recent"), this.#api).show(extension);
    if (rolesIn(claimsOf(token)).includes("admin")) this.#numbers = new Numbers($("numbers"), this.#api);
    this.#onMessage = onMessage;
    this.#onConnected = onConnected;
    this.#board = new Board($("board"), $("no-calls"), announce, (id) => this.#fetchCall(id));
    this.#board.draw([]);
    this.#connection = connect(token, {
      state: ({ name }) => this.#showState(name),
      message: (message) => this.#handleMessage(message),
    });
  }

  get api() {
    return this.#api;
  }

  get connection() {
    return this.#connection;
  }

  close() {
    this.#connection.close();
    this.#board.close();
    this.#numbers?.close();
  }

  #handleMessage(message) {
    const call = message.type === "call_status_update" ? this.#calls.applyUpdate(message.data) : undefined;
    if (call) {
      this.#board.draw(this.#calls.all());
      this.#board.changed(call);
    }
    this.#onMessage(message);
  }

  async #fetchCall(id) {
    const answer = await this.#api("GET", `api/calls/${encodeURIComponent(id)}`);
    if (answer.ok) {
      const oldStatus = this.#calls.find(id)?.status;
      const call = this.#calls.applyAnswer(id, answer.body);
      this.#board.draw(this.#calls.all());
      if (call && call.status !== oldStatus) this.#board.changed(call);
    }
    return answer;
  }

  #showState(name) {
    const isLive = name === "live";
    this.#onConnected(isLive);
    $("connection").dataset.state = name;
    $("connection").textContent = {
      connecting: "Connecting…",
      live: "Live",
      lost: "Disconnected, reconnecting",
      refused: "The token was refused. Sign in again.",
    }[name];
    if (name === "refused") signOut();
    // The API repeats calls in progress after each connection, and no call that has ended meanwhile.
    if (isLive) for (const call of this.#calls.active()) this.#fetchCall(call.id);
  }
}

let session;
let phone;

function startSession(token, extension, onMessage, onConnected) {
  session?.close();
  session = new Session(token, extension, onMessage, onConnected);
  $("failure").textContent = "";
  $("sign-in").hidden = true;
  $("signed").hidden = false;
  return session;
}

/** The claims of a JWT, or undefined if it is not one. The page only shows them: the API decides what the token allows. */
function claimsOf(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return undefined;
  }
}

/** A claim by its name or, if the name starts with a slash, by JSON pointer. */
function claim(claims, name) {
  if (!name.startsWith("/")) return claims[name];
  const steps = name.slice(1).split("/").map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
  return steps.reduce((value, step) => value?.[step], claims);
}

/** The roles in a token's claims. */
function rolesIn(claims) {
  return [claim(claims ?? {}, settings.roleClaim || "role")].flat();
}

// ------------------------------------------------------------------ on AWS: the user's own token

function signOut() {
  sessionStorage.removeItem(TOKEN_KEY);
  session?.close();
  session = phone = undefined;
  $("signed").hidden = true;
  $("signed-in").hidden = true;
  $("phone").hidden = true;
  $("sign-in").hidden = Boolean(local);
  if (!local) $("token").focus();
}

function signIn(token) {
  const claims = claimsOf(token);
  if (!claims) {
    $("failure").textContent = "This is not a token. A JWT has three parts separated by dots.";
    return;
  }
  const extension = claim(claims, settings.extensionClaim || "extension");
  const roles = rolesIn(claims);
  const { api } = startSession(
    token,
    typeof extension === "string" ? extension : undefined,
    (message) => phone?.handleMessage(message),
    (isLive) => phone?.setConnected(isLive),
  );
  $("signed-in").hidden = false;
  const identity = [roles.includes("operator") && "Operator", roles.includes("admin") && "Admin", extension && `Extension ${extension}`];
  $("signed-in-as").textContent = identity.filter(Boolean).join(", ");
  $("phone").hidden = typeof extension !== "string";
  if (typeof extension !== "string") return;
  setOptions($("extension"), [[extension, extension]]);
  $("extension").disabled = true;
  phone = new Phone({ extension, api, connection: () => session.connection, announce });
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  if ($("keep").checked) sessionStorage.setItem(TOKEN_KEY, token);
  $("token").value = "";
  signIn(token);
});

$("sign-out").addEventListener("click", () => {
  signOut();
  $("connection").dataset.state = "signed-out";
  $("connection").textContent = "Not signed in";
});

// ------------------------------------------------------------------ on the local stack: its tokens

function startLocally() {
  const phones = local.phones;
  setOptions($("viewer-of"), [["operator", "an operator"], ["admin", "an admin"], ...phones.map(({ extension }) => [extension, `extension ${extension}`])]);
  setOptions($("extension"), phones.map(({ extension }) => [extension, extension]));
  setOptions($("dialled"), phones.map(({ extension, number }) => [extension, `${extension}, at ${number}`]));
  $("viewer").hidden = $("phone").hidden = $("test-call").hidden = false;

  const showCalls = () => {
    const viewer = $("viewer-of").value;
    const own = phones.find(({ extension }) => extension === viewer) ?? phones[0];
    startSession(localToken(viewer), own?.extension);
  };
  $("viewer-of").addEventListener("change", showCalls);
  showCalls();

  // Separate from the board's connection, which may use an operator's token.
  let phoneConnection;
  const startPhone = async () => {
    await phone?.close();
    phoneConnection?.close();
    const extension = $("extension").value;
    const token = localToken(extension);
    phoneConnection = connect(token, {
      state: ({ name }) => phone?.setConnected(name === "live"),
      message: (message) => phone.handleMessage(message),
    });
    const connection = () => phoneConnection;
    phone = new Phone({ extension, api: apiWith(token), connection, local, announce, onLocalState: drawCallers });
    $("recipient").value = phones.find((other) => other.extension !== extension)?.extension ?? "";
  };
  $("extension").addEventListener("change", startPhone);
  startPhone();
  // The request must outlive the page: after it, no push goes to this device.
  addEventListener("pagehide", () => phone?.switchOff({ keepalive: true }));

  $("dial").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("dial-error").textContent = "";
    try {
      await local.call($("dialled").value, $("caller-number").value.trim(), $("caller-name").value);
    } catch (error) {
      $("dial-error").textContent = error.message;
    }
  });
}

/** The token of an extension's app, or of a role. */
function localToken(viewer) {
  return local.phones.find(({ extension }) => extension === viewer)?.token ?? local[viewer].token;
}

// The simulated callers on the page, by id.
const callers = new Map();

function drawCallers(state) {
  const shown = state.callers.slice(-MAX_CALLERS_SHOWN);
  for (const [id, { root }] of callers) {
    if (shown.some((caller) => caller.id === id)) continue;
    root.remove();
    callers.delete(id);
  }
  for (const caller of shown) {
    const { text, button } = callers.get(caller.id) ?? addCaller(caller.id);
    const hears = caller.hears.length > 0 ? `, hears ${caller.hears.join(" and ")}` : "";
    text.textContent = `${caller.name}: ${caller.stage}${hears}`;
    button.hidden = caller.over;
  }
}

function addCaller(id) {
  const text = element("span");
  const button = element("button", { type: "button", "aria-label": `Hang up caller ${id}` }, ["Hang up"]);
  button.addEventListener("click", () => local.hangUp(id).catch((error) => ($("dial-error").textContent = error.message)));
  const root = element("li", {}, [text, button]);
  const caller = { root, text, button };
  callers.set(id, caller);
  $("callers").prepend(root);
  return caller;
}

function setOptions(select, options) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, [text])));
}

// Only a deployment on AWS has a WebSocket URL in its settings. Otherwise this is the local stack, which gives its tokens.
const local = settings.webSocketUrl ? undefined : await Local.find().catch(() => undefined);
if (local) {
  startLocally();
} else {
  $("sign-in").hidden = false;
  const storedToken = sessionStorage.getItem(TOKEN_KEY);
  if (storedToken) signIn(storedToken);
}
