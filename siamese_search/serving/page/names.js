// Asking for a name, completed from the gallery's own.

import { fresh, h, question } from "./dom.js";

const OFFERED = 12;
const PAUSE = 120; // milliseconds without a key before names are asked for

/** A labelled field for an identity's name, with completion. Returns {label, field}. */
export function nameField(context, text, value = "", properties = {}) {
  const names = h("datalist", { id: fresh("names") });
  const field = h("input", {
    type: "text", list: names.id, required: true, autocomplete: "off", maxlength: 500, ...properties,
  });
  field.value = value;
  let timer = 0;
  let latest = 0;
  const complete = async () => {
    const mine = ++latest;
    try {
      const query = { search: field.value.trim(), limit: OFFERED };
      const { identities } = await context.api.call("identities", { query });
      if (mine !== latest) return;
      names.replaceChildren(...identities.map(({ name }) => h("option", { value: name })));
    } catch {
      // Completion is a help; without it the name is typed in full.
    }
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(complete, PAUSE);
  });
  field.addEventListener("focus", complete);
  return { label: h("label", {}, text, field, names), field };
}

/** Ask for a name: the name, or null. */
export function askName(context, title, text, action, value = "", explanation = null) {
  const { label, field } = nameField(context, text, value);
  const body = [explanation && h("p", {}, explanation), label];
  return question(title, h("div", {}, ...body), action, () => field.value.trim() || null);
}
