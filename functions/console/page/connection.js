// A connection to the WebSocket API that is kept open, by the rules for every client in local/client/README.md: ping it,
// replace it before API Gateway ends it, reconnect when it is lost, and stop when the token is refused.

const MINUTE = 60_000;

// Milliseconds.
export const TIMING = {
  // API Gateway ends a connection that is idle for 10 minutes. One minute shows sooner that a connection is lost.
  pingEvery: MINUTE,
  pongWithin: 20_000,
  // API Gateway ends every connection after two hours.
  renewAfter: 110 * MINUTE,
  openWithin: 10_000,
  firstWait: 1000,
  longestWait: MINUTE,
};

/** The wait after this many failures, in milliseconds: exponential backoff with full jitter. `random` is from 0 to 1. */
export const backoff = (failures, random, timing = TIMING) =>
  Math.min(timing.firstWait * 2 ** Math.min(failures, 30), timing.longestWait) * random;

/**
 * Calls `handlers.state({ name })`, where the name is connecting, live, lost or refused, and `handlers.message(message)`.
 * A browser does not learn why a handshake failed, so `handlers.isTokenValid()` is asked after a failed one.
 */
export class Connection {
  #url;
  #handlers;
  #timing;
  // The open socket.
  #socket;
  // A socket that is being opened, to be the first or to replace `#socket`.
  #opening;
  #timers = new Map();
  #failures = 0;
  #openedAt = 0;
  #closed = false;

  // The network is back, so there is no reason to wait for the next attempt.
  #onOnline = () => {
    if (this.#closed || this.#socket || this.#opening) return;
    this.#stopTimer("renew");
    this.#handlers.state({ name: "connecting" });
    this.#open();
  };

  constructor(url, token, handlers, timing = TIMING) {
    const address = new URL(url);
    // A browser cannot set a header for a WebSocket. This URL appears in no history and no referrer.
    address.searchParams.set("token", token);
    this.#url = address.href;
    this.#handlers = handlers;
    this.#timing = timing;
    addEventListener("online", this.#onOnline);
    this.#handlers.state({ name: "connecting" });
    this.#open();
  }

  /** Returns whether the message was sent. It is never queued: a call must not start minutes late. */
  send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  close() {
    this.#closed = true;
    removeEventListener("online", this.#onOnline);
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#opening?.close();
    this.#socket?.close();
  }

  #open() {
    const socket = new WebSocket(this.#url);
    this.#opening = socket;
    this.#startTimer("opening", this.#timing.openWithin, () => this.#onClosed(socket));
    socket.addEventListener("open", () => this.#onOpened(socket));
    socket.addEventListener("message", (event) => this.#onMessage(event.data));
    socket.addEventListener("close", () => this.#onClosed(socket));
  }

  #onOpened(socket) {
    // It opened after its time limit.
    if (this.#closed || this.#opening !== socket) return socket.close();
    const old = this.#socket;
    this.#opening = undefined;
    this.#socket = socket;
    this.#openedAt = Date.now();
    this.#stopTimer("opening");
    // The jitter spreads the renewals of clients that connected at the same time.
    this.#startTimer("renew", this.#timing.renewAfter * (1 - 0.1 * Math.random()), () => this.#open());
    this.#ping();
    this.#handlers.state({ name: "live" });
    // Closed only after the new one is open, so that no message is missed. A message on both is applied once.
    old?.close();
  }

  #onMessage(text) {
    this.#stopTimer("pong");
    if (this.#closed) return;
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    this.#handlers.message(message);
  }

  #ping() {
    this.#startTimer("ping", this.#timing.pingEvery, () => this.#ping());
    if (!this.send({ type: "ping" })) return;
    const socket = this.#socket;
    this.#startTimer("pong", this.#timing.pongWithin, () => this.#onClosed(socket));
  }

  /** A socket has closed or exceeded a time limit. */
  #onClosed(socket) {
    if (this.#closed) return;
    if (socket === this.#opening) this.#onOpenFailed(socket);
    else if (socket === this.#socket) this.#onLost(socket);
  }

  #onLost(socket) {
    this.#socket = undefined;
    this.#stopTimer("ping");
    this.#stopTimer("pong");
    socket.close();
    // A connection that lasted only briefly counts as a failure, so that a server that drops clients is not flooded.
    const lasted = Date.now() - this.#openedAt;
    this.#failures = lasted < this.#timing.longestWait ? this.#failures + 1 : 0;
    // If a replacement is being opened already, it takes over.
    if (this.#opening) this.#handlers.state({ name: "connecting" });
    else this.#retry();
  }

  async #onOpenFailed(socket) {
    this.#opening = undefined;
    this.#stopTimer("opening");
    socket.close();
    this.#failures += 1;
    // The old connection still works, so only the renewal is retried.
    if (this.#socket) return this.#startTimer("renew", this.#nextWait(), () => this.#open());
    this.#retry();
    if (await this.#handlers.isTokenValid()) return;
    if (this.#closed || this.#socket) return;
    this.close();
    this.#handlers.state({ name: "refused" });
  }

  #retry() {
    this.#handlers.state({ name: "lost" });
    this.#startTimer("renew", this.#nextWait(), () => {
      this.#handlers.state({ name: "connecting" });
      this.#open();
    });
  }

  #nextWait() {
    return backoff(this.#failures, Math.random(), this.#timing);
  }

  #startTimer(name, milliseconds, action) {
    this.#stopTimer(name);
    this.#timers.set(name, setTimeout(action, Math.max(0, milliseconds)));
  }

  #stopTimer(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
