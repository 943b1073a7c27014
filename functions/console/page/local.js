// The API that only the local stack's gateway has: tokens, simulated callers and SIP phones, and the pushes that were
// sent. A deployment on AWS does not have it.

const ROOT = "local/";

async function request(method, path, body) {
  const answer = await fetch(ROOT + path, {
    method,
    headers: body ? { "content-type": "application/json" } : {},
    body: body && JSON.stringify(body),
  });
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({}));
    throw new Error(error ?? `The local stack answered ${answer.status}`);
  }
  return answer.status === 204 ? undefined : answer.json();
}

export class Local {
  /** The local stack with its tokens and phones: `{operator: {token}, admin: {token}, phones: [{extension, token, number}]}`. */
  static async find() {
    const local = new Local();
    Object.assign(local, await request("GET", "stack"));
    return local;
  }

  /** A simulated caller dials the extension's number. Returns the caller's id. */
  call(extension, number, name) {
    return request("POST", "callers", { extension, number, name });
  }

  hangUp(caller) {
    return request("DELETE", `callers/${encodeURIComponent(caller)}`);
  }

  /** Registers the extension's SIP phone. */
  register(extension) {
    return request("PUT", `phones/${encodeURIComponent(extension)}`);
  }

  /** Registers the extension's SIP phone, which then answers the next call, as an app does after "Accept". */
  pickUp(extension) {
    return request("POST", `phones/${encodeURIComponent(extension)}/pick-up`);
  }

  /** Calls `onChange({phones, callers, pushes})` after each change. Returns a function that stops it. */
  watch(pushToken, onChange) {
    const events = new EventSource(`${ROOT}events?push_token=${encodeURIComponent(pushToken)}`);
    events.addEventListener("message", (event) => onChange(JSON.parse(event.data)));
    return () => events.close();
  }
}
