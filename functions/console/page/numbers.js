// What admins see: number routes, the telephones of extensions, and the changes of both. It asks the API and has no connection.

import { element } from "./draw.js";

const KINDS = {
  numbers: {
    key: "number", value: "extension",
    current: ({ number, extension }) => `${number} leads to extension ${extension}`,
    none: (number) => `${number} leads to no extension`,
    note: ({ number }) => number.startsWith("+") ? "" : " It has no country code, so only calls that report exactly these digits find it.",
  },
  extensions: {
    key: "extension", value: "number",
    current: ({ extension, number }) => `Extension ${extension} has the telephone ${number}`,
    none: (extension) => `Extension ${extension} has no telephone`,
    note: () => "",
  },
};

export class Numbers {
  #section;

  /** `api` sends requests with the viewer's token. */
  constructor(section, api) {
    this.#section = section;
    const changes = new List(section.querySelector(".changes"), api, "audit", "changes", changeLine);
    for (const kind of Object.keys(KINDS)) new Directory(section.querySelector(`.${kind}`), api, kind, () => changes.show());
    changes.show();
    section.hidden = false;
  }

  close() {
    this.#section.hidden = true;
  }
}

/** A list that is loaded page by page. */
class List {
  #list;
  #note;
  #more;
  #api;
  #kind;
  #field;
  #line;
  #next;
  // Of two loads at once, the later one counts.
  #load = 0;

  constructor(root, api, kind, field, line) {
    this.#list = root.querySelector("ol");
    this.#note = root.querySelector(".state");
    this.#more = root.querySelector("button.more");
    [this.#api, this.#kind, this.#field, this.#line] = [api, kind, field, line];
    this.#more.onclick = () => this.#append(this.#next);
  }

  /** Shows the first page. */
  show() {
    return this.#append();
  }

  async #append(next) {
    const load = ++this.#load;
    const query = next ? `?${new URLSearchParams({ next })}` : "";
    const { ok, body } = await this.#api("GET", `api/admin/${this.#kind}${query}`);
    if (load !== this.#load) return;
    this.#note.textContent = ok ? "" : `The list could not be loaded: ${body.error ?? "no answer"}`;
    if (!ok) return;
    const lines = body[this.#field].map(this.#line);
    if (next) this.#list.append(...lines);
    else this.#list.replaceChildren(...lines);
    if (this.#list.childElementCount === 0) this.#note.textContent = "None yet.";
    this.#next = body.next;
    this.#more.hidden = !body.next;
  }
}

/** One directory: its list, and the form that adds or changes an entry. */
class Directory {
  #api;
  #kind;
  #form;
  #key;
  #value;
  #cancel;
  #answer;
  #list;
  #onChange;
  // The entry that the form changes. Without one, it adds an entry.
  #changed;

  constructor(root, api, kind, onChange) {
    this.#api = api;
    this.#kind = kind;
    this.#onChange = onChange;
    this.#form = root.querySelector("form");
    [this.#key, this.#value] = [KINDS[kind].key, KINDS[kind].value].map((name) => this.#form.elements[name]);
    this.#cancel = this.#form.querySelector(".cancel");
    this.#answer = root.querySelector(".answer");
    this.#list = new List(root, api, kind, kind, (entry) => this.#line(entry));
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      this.#save();
    };
    this.#cancel.onclick = () => this.#edit();
    this.#edit();
    this.#answer.textContent = "";
    this.#list.show();
  }

  /** Fills the form with this entry, or empties it. */
  #edit(entry) {
    this.#changed = entry;
    this.#form.reset();
    this.#key.value = entry?.[KINDS[this.#kind].key] ?? "";
    this.#value.value = entry?.[KINDS[this.#kind].value] ?? "";
    this.#key.readOnly = Boolean(entry);
    this.#cancel.hidden = !entry;
  }

  async #save() {
    const condition = this.#changed ? { "if-match": this.#changed.etag } : { "if-none-match": "*" };
    const answer = await this.#send("PUT", this.#key.value.trim(), { [KINDS[this.#kind].value]: this.#value.value.trim() }, condition);
    const { current, note } = KINDS[this.#kind];
    if (answer.status === 412 && !this.#changed) this.#answer.textContent = `Not saved: ${current(answer.body.current)} already. Use Change in the list.`;
    // The form keeps what was typed, and the next attempt expects what is there now.
    if (answer.status === 412 && this.#changed) {
      this.#changed = answer.body.current ?? undefined;
      this.#key.readOnly = Boolean(this.#changed);
    }
    if (!answer.ok) return;
    this.#answer.textContent = `Saved: ${current(answer.body)}.${note(answer.body)}`;
    this.#edit();
    this.#key.focus();
  }

  async #delete(entry) {
    const key = entry[KINDS[this.#kind].key];
    const answer = await this.#send("DELETE", key, undefined, { "if-match": entry.etag });
    if (!answer.ok) return;
    this.#answer.textContent = `Deleted: ${KINDS[this.#kind].none(key)} now.`;
  }

  async #send(method, key, body, headers) {
    const answer = await this.#api(method, `api/admin/${this.#kind}/${encodeURIComponent(key)}`, body, { headers });
    const { ok, status } = answer;
    if (!ok) this.#answer.textContent = status === 412 ? this.#conflict(key, answer.body.current) : `Not done: ${answer.body.error ?? "no answer"}`;
    // After 404 and 412, the list shows something that is gone or another.
    if (ok || status === 404 || status === 412) {
      this.#list.show();
      this.#onChange();
    }
    return answer;
  }

  #conflict(key, entry) {
    const { current, none } = KINDS[this.#kind];
    return `Not done: another admin has changed this. ${entry ? current(entry) : none(key)} now. Check it, then try again.`;
  }

  #line(entry) {
    const { key, current } = KINDS[this.#kind];
    const change = element("button", { type: "button", "aria-label": `Change ${entry[key]}` }, ["Change"]);
    change.onclick = () => {
      this.#answer.textContent = "";
      this.#edit(entry);
      this.#value.focus();
    };
    const remove = element("button", { type: "button", class: "remove", "aria-label": `Delete ${entry[key]}` }, ["Delete"]);
    remove.onclick = () => {
      if (remove.dataset.asked) return this.#delete(entry);
      remove.dataset.asked = "yes";
      remove.textContent = "Really delete";
      remove.setAttribute("aria-label", `Really delete ${entry[key]}`);
    };
    const item = element("li", {}, [element("span", {}, [current(entry)]), change, remove]);
    item.dataset.key = entry[key];
    return item;
  }
}

function changeLine({ at, by, directory, key, before, after }) {
  const moment = new Date(at);
  const names = KINDS[directory];
  const text = (value) => (value === null ? names.none(key) : names.current({ [names.key]: key, [names.value]: value }));
  return element("li", {}, [
    element("time", { datetime: moment.toISOString() }, [moment.toLocaleString()]),
    element("span", {}, [` ${by}: ${text(after)}. Before: ${before ?? "nothing"}.`]),
  ]);
}
