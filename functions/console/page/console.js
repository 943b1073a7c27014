// The page: who looks at it, and what they see.

import { Board } from "./board.js";
import { Calls } from "./calls.js";
import { Connection } from "./connection.js";
import { element } from "./draw.js";
import { Local } from "./local.js";
import { Phone } from "./phone.js";

const $ = (id) => document.getElementById(id);
const KEPT_TOKEN = "ringback-token";
// No call has this id. Who may ask about it is told so; who may not, that the token is no good.
const NO_CALL = "00000000-0000-7000-8000-000000000000";

const settings = await (await fetch("console/settings.json")).json();
const announce = (words) => ($("announcer").textContent = words);

/** The HTTP API, asked with a token: `{ok, status, body}`, and never an exception. */
function apiOf(token) {
  return async (method, path, body, more = {}) => {
    const headers = { authorization: `Bearer ${token}` };
    if (body) headers["content-type"] = "application/json";
    try {
      const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), ...more });
      return { ok: answer.ok, status: answer.status, body: await answer.json().catch(() => ({})) };
    } catch {
      return { ok: false, status: 0, body: { error: "The API cannot be reached." } };
    }
  };
}

/** Where the WebSocket API is: where the deployment says, or beside this page. */
function webSocketUrl() {
  if (settings.webSocketUrl) return settings.webSocketUrl;
  const url = new URL("exotel-stream", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

function connect(token, on) {
  const admitted = async () => (await apiOf(token)("GET", `api/calls/${NO_CALL}`)).status !== 401;
  return new Connection(webSocketUrl(), token, { ...on, admitted });
}

/** Everything that one token shows. */
class Session {
  #connection;
  #calls = new Calls();
  #board;
  #api;
  #hear;
  #connected;

  constructor(token, hear = () => {}, connected = () => {}) {
    this.#api = apiOf(token);
    this.#hear = hear;
    this.#connected = connected;
    this.#board = new Board($("board"), $("no-calls"), announce, (id) => this.#askAbout(id));
    this.#board.draw([]);
    this.#connection = connect(token, {
      state: (state) => this.#state(state),
      message: (message) => this.#message(message),
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
  }

  #message(message) {
    const call = message.type === "call_status_update" ? this.#calls.hear(message.data) : undefined;
    if (call) this.#changed(call);
    this.#hear(message);
  }

  #changed(call) {
    this.#board.draw(this.#calls.all());
    this.#board.changed(call);
  }

  async #askAbout(id) {
    const answer = await this.#api("GET", `api/calls/${encodeURIComponent(id)}`);
    if (answer.ok) {
      const status = this.#calls.find(id)?.status;
      const call = this.#calls.stands(id, answer.body);
      this.#board.draw(this.#calls.all());
      if (call && call.status !== status) this.#board.changed(call);
    }
    return answer;
  }

  #state(state) {
    this.#connected(state.name === "live");
    $("connection").dataset.state = state.name;
    const words = { connecting: "Connecting…", live: "Live", refused: "The token was refused: sign in anew" };
    $("connection").textContent = words[state.name] ?? "Disconnected; trying again";
    if (state.name === "refused") signedOut();
    // What changed meanwhile is not told again.
    if (state.name === "live") for (const call of this.#calls.underWay()) this.#askAbout(call.id);
  }
}

let session;
let phone;

function begin(token, hear, connected) {
  session?.close();
  session = new Session(token, hear, connected);
  $("failure").textContent = "";
  $("sign-in").hidden = true;
  $("signed").hidden = false;
  return session;
}

/** What a token says of its bearer. It is only read here: what the bearer may do, the API decides. */
function claims(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return undefined;
  }
}

/** A claim by its name or, with a slash at its beginning, by a JSON pointer. */
function claim(claims, name) {
  if (!name.startsWith("/")) return claims[name];
  const steps = name.slice(1).split("/").map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
  return steps.reduce((value, step) => value?.[step], claims);
}

// ------------------------------------------------------------------ on AWS: with a token of one's own

function signedOut() {
  sessionStorage.removeItem(KEPT_TOKEN);
  session?.close();
  session = phone = undefined;
  $("signed").hidden = true;
  $("signed-in").hidden = true;
  $("phone").hidden = true;
  $("sign-in").hidden = Boolean(local);
  if (!local) $("token").focus();
}

function signIn(token) {
  const said = claims(token);
  if (!said) {
    $("failure").textContent = "That is no token: a JWT has three parts with dots between them.";
    return;
  }
  const extension = claim(said, settings.extensionClaim || "extension");
  const role = [claim(said, settings.roleClaim || "role")].flat();
  const isOperator = role.includes("operator");
  const { api } = begin(
    token,
    (message) => phone?.hear(message),
    (isLive) => phone?.connected(isLive),
  );
  $("signed-in").hidden = false;
  $("signed-in-as").textContent = [isOperator && "Operator", extension && `Extension ${extension}`].filter(Boolean).join(", ");
  $("phone").hidden = typeof extension !== "string";
  if (typeof extension !== "string") return;
  choices($("extension"), [[extension, extension]]);
  $("extension").disabled = true;
  phone = new Phone({ extension, api, connection: () => session.connection, announce });
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  if ($("keep").checked) sessionStorage.setItem(KEPT_TOKEN, token);
  $("token").value = "";
  signIn(token);
});

$("sign-out").addEventListener("click", () => {
  signedOut();
  $("connection").dataset.state = "signed-out";
  $("connection").textContent = "Not signed in";
});

// ------------------------------------------------------------------ on the local stack: with its tokens

function beginLocally() {
  const viewers = [["operator", "an operator"], ...local.phones.map(({ extension }) => [extension, `extension ${extension}`])];
  choices($("viewer-of"), viewers);
  $("viewer").hidden = $("phone").hidden = $("test-call").hidden = false;
  const extensions = local.phones.map(({ extension }) => [extension, extension]);
  choices($("extension"), extensions);
  choices($("dialled"), local.phones.map(({ extension, number }) => [extension, `${extension}, at ${number}`]));
  const tokenOf = (who) => local.phones.find(({ extension }) => extension === who)?.token ?? local.operator.token;
  const look = () => begin(tokenOf($("viewer-of").value));
  $("viewer-of").addEventListener("change", look);
  look();

  let own;
  const play = async () => {
    await phone?.leave();
    own?.close();
    const extension = $("extension").value;
    const token = tokenOf(extension);
    own = connect(token, { state: ({ name }) => phone?.connected(name === "live"), message: (message) => phone.hear(message) });
    phone = new Phone({ extension, api: apiOf(token), connection: () => own, local, announce, watched: drawCallers });
    $("recipient").value = local.phones.find((other) => other.extension !== extension)?.extension ?? "";
  };
  $("extension").addEventListener("change", play);
  play();
  // Nobody is left to be woken.
  addEventListener("pagehide", () => phone?.off({ keepalive: true }));

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

const callers = new Map();

const SHOWN = 5;

function drawCallers(state) {
  const shown = state.callers.slice(-SHOWN);
  for (const [id, { root }] of callers) {
    if (shown.some((caller) => caller.id === id)) continue;
    root.remove();
    callers.delete(id);
  }
  for (const caller of shown) {
    const known = callers.get(caller.id) ?? addCaller(caller.id);
    const hears = caller.hears.length > 0 ? `, hears ${caller.hears.join(" and ")}` : "";
    known.words.textContent = `${caller.name}: ${caller.stage}${hears}`;
    known.button.hidden = caller.over;
  }
}

function addCaller(id) {
  const words = element("span");
  const button = element("button", { type: "button", "aria-label": `Hang up caller ${id}` }, ["Hang up"]);
  button.addEventListener("click", () => local.hangUp(id).catch((error) => ($("dial-error").textContent = error.message)));
  const root = element("li", {}, [words, button]);
  const caller = { root, words, button };
  callers.set(id, caller);
  $("callers").prepend(root);
  return caller;
}

function choices(select, values) {
  select.replaceChildren(...values.map(([value, words]) => element("option", { value }, [words])));
}

// A deployment says where its WebSocket API is; the local stack has it beside the page, and tokens for whoever asks.
const local = settings.webSocketUrl ? undefined : await Local.find().catch(() => undefined);
if (local) {
  beginLocally();
} else {
  $("sign-in").hidden = false;
  const kept = sessionStorage.getItem(KEPT_TOKEN);
  if (kept) signIn(kept);
}
