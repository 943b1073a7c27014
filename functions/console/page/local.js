// What only the local stack has: its tokens, its simulated SIP phones and callers, and a push service that can be
// looked into. The gateway of the local stack answers here; on AWS nobody does.

const ROOT = "local/";

async function ask(method, path, body) {
  const answer = await fetch(ROOT + path, {
    method,
    headers: body ? { "content-type": "application/json" } : {},
    body: body && JSON.stringify(body),
  });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `the local stack says ${answer.status}`);
  return answer.status === 204 ? undefined : answer.json();
}

export class Local {
  /** The local stack's tokens and phones: `{operator: {token}, phones: [{extension, token, number}]}`. */
  static async find() {
    const local = new Local();
    Object.assign(local, await ask("GET", "stack"));
    return local;
  }

  /** A caller on the simulated trunk dials an extension's number. Gives the caller's id. */
  call(extension, number, name) {
    return ask("POST", "callers", { extension, number, name });
  }

  hangUp(caller) {
    return ask("DELETE", `callers/${encodeURIComponent(caller)}`);
  }

  /** The extension's SIP phone registers. */
  register(extension) {
    return ask("PUT", `phones/${encodeURIComponent(extension)}`);
  }

  /** It registers, and picks up what rings there next, as an app does when its person has accepted. */
  pickUp(extension) {
    return ask("POST", `phones/${encodeURIComponent(extension)}/pick-up`);
  }

  /** Tells `{phones, callers, pushes}` whenever something there changes. Gives a function that ends it. */
  watch(pushToken, tell) {
    const events = new EventSource(`${ROOT}events?push_token=${encodeURIComponent(pushToken)}`);
    events.addEventListener("message", (event) => tell(JSON.parse(event.data)));
    return () => events.close();
  }
}
