// A connection to the WebSocket API that is kept up, by the rules that local/client/README.md gives for every client:
// pinged, replaced before API Gateway ends it, found again after it was lost, stopped when the token is refused.

const MINUTE = 60_000;

export const PACE = {
  // API Gateway asks for one in 10 minutes. Whoever looks at a page wants to know sooner that it is not live.
  pingEvery: MINUTE,
  pongWithin: 20_000,
  // API Gateway ends every connection after two hours.
  renewAfter: 110 * MINUTE,
  openWithin: 10_000,
  firstWait: 1000,
  longestWait: MINUTE,
};

/** Exponential backoff with full jitter, as milliseconds. */
export const wait = (failed, random, pace = PACE) =>
  Math.min(pace.firstWait * 2 ** Math.min(failed, 30), pace.longestWait) * random;

/**
 * Tells `on.state({ name, again })`, with the names connecting, live, lost and refused and, when lost, the time at
 * which it tries again; and `on.message(message)`. `on.admitted()` is asked, after a refused handshake, whether the
 * API knows the token: a browser is not told why a handshake failed.
 */
export class Connection {
  #url;
  #on;
  #pace;
  #socket;
  #fresh;
  #timers = new Map();
  #failed = 0;
  #openedAt = 0;
  #closed = false;

  // The network is back: there is nothing to wait for.
  #wake = () => {
    if (this.#closed || this.#socket || this.#fresh) return;
    this.#stop("renew");
    this.#on.state({ name: "connecting" });
    this.#open();
  };

  constructor(url, token, on, pace = PACE) {
    const address = new URL(url);
    // A browser cannot set a header here. This URL is the socket's own: no log, history or referrer sees it.
    address.searchParams.set("token", token);
    this.#url = address.href;
    this.#on = on;
    this.#pace = pace;
    addEventListener("online", this.#wake);
    this.#on.state({ name: "connecting" });
    this.#open();
  }

  /** Whether it went out. What does not go out now never will: a call is not to start minutes late. */
  send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  close() {
    this.#closed = true;
    removeEventListener("online", this.#wake);
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#fresh?.close();
    this.#socket?.close();
  }

  #open() {
    const fresh = new WebSocket(this.#url);
    this.#fresh = fresh;
    this.#after("opening", this.#pace.openWithin, () => this.#gone(fresh));
    fresh.addEventListener("open", () => this.#opened(fresh));
    fresh.addEventListener("message", (event) => this.#received(fresh, event.data));
    fresh.addEventListener("close", () => this.#gone(fresh));
  }

  #opened(fresh) {
    // Given up already.
    if (this.#closed || this.#fresh !== fresh) return fresh.close();
    const old = this.#socket;
    this.#fresh = undefined;
    this.#socket = fresh;
    this.#openedAt = Date.now();
    this.#stop("opening");
    this.#after("renew", this.#pace.renewAfter * (1 - 0.1 * Math.random()), () => this.#open());
    this.#ping();
    this.#on.state({ name: "live" });
    // Only now, so that nothing is missed; what is told on both is told once.
    old?.close();
  }

  #received(socket, text) {
    this.#stop("pong");
    if (this.#closed) return;
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    this.#on.message(message);
  }

  #ping() {
    this.#after("ping", this.#pace.pingEvery, () => this.#ping());
    if (!this.send({ type: "ping" })) return;
    const socket = this.#socket;
    this.#after("pong", this.#pace.pongWithin, () => this.#gone(socket));
  }

  /** A socket that has closed, or that nobody waits for any longer. */
  #gone(socket) {
    if (this.#closed) return;
    if (socket === this.#fresh) this.#notOpened(socket);
    else if (socket === this.#socket) this.#lost(socket);
  }

  #lost(socket) {
    this.#socket = undefined;
    this.#stop("ping");
    this.#stop("pong");
    socket.close();
    const lasted = Date.now() - this.#openedAt;
    this.#failed = lasted < this.#pace.longestWait ? this.#failed + 1 : 0;
    // One that is being opened to take its place now takes it sooner.
    if (this.#fresh) this.#on.state({ name: "connecting" });
    else this.#openAgain();
  }

  async #notOpened(fresh) {
    this.#fresh = undefined;
    this.#stop("opening");
    fresh.close();
    this.#failed += 1;
    if (this.#socket) return this.#after("renew", this.#nextWait(), () => this.#open());
    this.#openAgain();
    if (await this.#on.admitted()) return;
    if (this.#closed || this.#socket) return;
    this.close();
    this.#on.state({ name: "refused" });
  }

  #openAgain() {
    const wait = this.#nextWait();
    this.#on.state({ name: "lost", again: Date.now() + wait });
    this.#after("renew", wait, () => {
      this.#on.state({ name: "connecting" });
      this.#open();
    });
  }

  #nextWait() {
    return wait(this.#failed, Math.random(), this.#pace);
  }

  #after(name, milliseconds, act) {
    this.#stop(name);
    this.#timers.set(name, setTimeout(act, Math.max(0, milliseconds)));
  }

  #stop(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
