// One row at a time. Every text of the data's is set with textContent: markup in a row stays text.
"use strict";

const at = id => document.getElementById(id);
const SHOWN_LABELS = 8;
let session, row, number = 0;

function made(tag, text, ...children) {
  const element = document.createElement(tag);
  if (text !== null) element.textContent = text;
  element.append(...children);
  return element;
}

async function ask(path, body) {
  const settings = body === undefined ? {} : { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  let answer;
  try {
    answer = await fetch(path, settings);
  } catch {
    throw new Error("The review has ended in the terminal. What you decided is kept; start it again there to go on.");
  }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

// One thing at a time: a key that is held down decides one row, not twenty.
let busy = false;
async function alone(action) {
  if (busy) return;
  busy = true;
  try {
    at("alert").textContent = "";
    await action();
  } catch (error) {
    at("alert").textContent = error.message;
  } finally {
    busy = false;
  }
}

const percent = share => `${(100 * share).toFixed(1)}\u202f%`;
const definitionOf = name => session.labels.find(label => label.name === name).definition;
const before = () => ("decision" in row ? (row.decision === null ? "You have skipped this row." : `You have said ${row.decision}.`) : "");
const chosen = name => "decision" in row && row.decision === name;

async function show(next) {
  row = await ask(`rows/${next}`);
  number = next;
  at("end").hidden = true;
  at("row").hidden = false;
  at("where").textContent = `Row ${number + 1} of ${session.decided.length}`;
  const single = row.cells.length === 1;
  at("text").hidden = !single;
  at("cells").hidden = single;
  at("text").textContent = single ? row.cells[0][1] : "";
  at("cells").replaceChildren(...(single ? [] : row.cells.map(([name, cell]) => made("div", null, made("dt", name), made("dd", cell)))));
  at("teacher").textContent = row.teacher;
  at("teacher").classList.toggle("chosen", chosen(row.teacher));
  at("definition").textContent = definitionOf(row.teacher);
  at("answers").replaceChildren(...row.answers.map(({ label, prob }) => {
    const bar = made("meter", percent(prob));
    bar.value = prob;
    bar.setAttribute("aria-hidden", "true");
    const share = made("span", percent(prob));
    share.className = "num";
    return made("li", null, made("span", label), bar, share);
  }));
  at("back").disabled = number === 0;
  at("typed").value = "";
  list();
  progress();
  at("said").textContent = `Row ${number + 1}. ${single ? row.cells[0][1] : ""} The teacher says ${row.teacher}, ${percent(row.answers[0].prob)}. ${before()}`;
  // On a touch screen the field would bring up the keyboard at every row.
  at(matchMedia("(pointer: coarse)").matches ? "where" : "typed").focus({ preventScroll: true });
  scrollTo(0, 0);
}

function progress() {
  const done = session.decided.filter(Boolean).length;
  at("done").textContent = `${done} of ${session.decided.length} decided`;
  at("bar").max = session.decided.length;
  at("bar").value = done;
}

// Labels whose name holds what was typed, those that begin with it first; then those whose definition does.
function matching() {
  const typed = at("typed").value.trim().toLowerCase();
  const likely = new Map(row.answers.map(({ label }, i) => [label, i]));
  const rank = ({ name, definition }) => {
    const lower = name.toLowerCase();
    if (lower === typed) return 0;
    if (lower.startsWith(typed)) return 1;
    if (lower.includes(typed)) return 2;
    return definition.toLowerCase().includes(typed) ? 3 : 4;
  };
  return session.labels
    .filter(label => label.name !== row.teacher && (!typed || rank(label) < 4))
    .sort((a, b) => (typed ? rank(a) - rank(b) : chosen(b.name) - chosen(a.name)) || (likely.get(a.name) ?? 1e9) - (likely.get(b.name) ?? 1e9));
}

function list() {
  const found = matching(), typed = at("typed").value.trim();
  at("labels").replaceChildren(...found.slice(0, SHOWN_LABELS).map((label, i) => {
    const name = made("span", label.name);
    name.classList.toggle("chosen", chosen(label.name));
    const button = made("button", null, name, ...(label.definition ? [made("small", label.definition)] : []));
    button.type = "button";
    button.addEventListener("click", () => alone(() => decide(label.name)));
    const item = made("li", null, button);
    item.classList.toggle("first", i === 0 && typed !== "");
    return item;
  }));
  const more = found.length > SHOWN_LABELS ? `, ${found.length - SHOWN_LABELS} more not shown` : "";
  at("hint").textContent = !typed ? before() : found.length ? `Enter takes ${found[0].name}${more}.` : accepts(typed) ? "" : "No label holds this.";
  if (accepts(typed)) at("hint").textContent = `Enter takes ${row.teacher}, the teacher\u2019s.`;
}

const accepts = typed => typed !== "" && row.teacher.toLowerCase() === typed.toLowerCase();

async function decide(label) {
  await ask(`rows/${number}`, { label });
  session.decided[number] = true;
  await forward();
}

// The next row that is not decided yet; from the last one, the first.
async function forward() {
  const count = session.decided.length;
  for (let step = 1; step <= count; step++) {
    const next = (number + step) % count;
    if (!session.decided[next]) return show(next);
  }
  progress();
  at("row").hidden = true;
  at("end").hidden = false;
  at("where").textContent = "Done";
  at("end-heading").focus();
}

function enter() {
  const typed = at("typed").value.trim();
  if (!typed || accepts(typed)) return decide(row.teacher);
  const [first] = matching();
  if (first) return decide(first.name);
}

const skip = () => alone(() => decide(null));
const back = () => alone(async () => { if (number > 0) await show(number - 1); });
const accept = () => alone(() => decide(row.teacher));

addEventListener("keydown", event => {
  if (at("row").hidden || event.altKey || event.ctrlKey || event.metaKey || event.repeat || event.isComposing) return;
  if (event.key === "PageUp") back();
  else if (event.key === "PageDown") skip();
  else if (event.key === "Enter" && event.target.tagName !== "BUTTON") alone(async () => enter());
  else return;
  event.preventDefault();
});
at("typed").addEventListener("input", list);
at("accept").addEventListener("click", accept);
at("skip").addEventListener("click", skip);
at("back").addEventListener("click", back);
at("again").addEventListener("click", () => alone(() => show(session.decided.length - 1)));

alone(async () => {
  session = await ask("session");
  document.title = `Review: ${session.title}`;
  at("title").textContent = session.title;
  at("reviewer").textContent = session.reviewer;
  number = session.decided.length - 1;
  await forward();
});
