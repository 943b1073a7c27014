// The list of an extension's recent calls, also those that ended before this page was opened. It asks the API and has no connection.

import { element } from "./draw.js";
import { callerText, partyText, reasonText, statusMark, statusText, updateStatus } from "./texts.js";

export class RecentCalls {
  #form;
  #list;
  #note;
  #older;
  #api;
  #extension;
  #next;

  /** `api` sends requests with the viewer's token. */
  constructor(section, api) {
    this.#form = section.querySelector("form");
    this.#list = section.querySelector("ol");
    this.#note = section.querySelector(".note");
    this.#older = section.querySelector("button.older");
    this.#api = api;
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      this.show(this.#form.elements.extension.value.trim());
    };
    this.#older.onclick = () => this.#load(this.#next);
  }

  /** Shows the calls of an extension, the newest first. Without one, the viewer names it. */
  show(extension) {
    this.#extension = extension;
    this.#form.elements.extension.value = extension ?? "";
    this.#list.replaceChildren();
    this.#older.hidden = true;
    this.#note.textContent = "Enter an extension.";
    return extension ? this.#load() : undefined;
  }

  async #load(next) {
    const extension = this.#extension;
    const query = new URLSearchParams({ extension, ...(next && { next }) });
    const { ok, body } = await this.#api("GET", `api/calls?${query}`);
    // Another extension was chosen meanwhile.
    if (extension !== this.#extension) return;
    this.#note.textContent = ok ? "" : `The calls could not be loaded: ${body.error ?? "no answer"}`;
    if (!ok) return;
    this.#list.append(...body.calls.map(line));
    this.#next = body.next;
    this.#older.hidden = !body.next;
    if (this.#list.childElementCount === 0) this.#note.textContent = "No calls.";
  }
}

function line(call) {
  const at = new Date(call.created_at);
  const status = updateStatus(call.status);
  const reason = call.reason ? `: ${reasonText(call.reason)}` : "";
  const parties = `${callerText(call.caller_name, call.caller_number)} → ${partyText(call.to ?? call.extension)}`;
  const mark = element("span", { "aria-hidden": "true" }, [statusMark(status)]);
  const item = element("li", {}, [
    element("time", { datetime: at.toISOString() }, [at.toLocaleString()]), " ",
    element("strong", {}, [parties]), " ",
    mark, ` ${statusText(status)}${reason}`,
  ]);
  item.dataset.call = call.call_id;
  return item;
}
