
const EXAMPLES = ["what is the capital of China?", "how to implement quick sort in python?", "北京", "快排算法介绍", "بكين هي عاصمة الصين.", "Пекин — столица Китая."];
const MOST = 24;
const HEAVIEST = 12;

// What is computed here, from one answer of the server, so that the sliders need no other.

function cut(vector, dim) {
  const kept = vector.slice(0, dim);
  const length = Math.hypot(...kept) || 1;
  return kept.map((value) => value / length);
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/** Sum over the token strings of both, as the server's /v1/score has it. */
function lexical(a, b) {
  let sum = 0;
  for (const [token, weight] of a) sum += weight * (b.get(token) ?? 0);
  return sum;
}

function matrix(items, kind, dense, sparse, dim) {
  const vectors = items.map((item) => cut(item.embedding, dim));
  const score = {
    dense: (i, j) => dot(vectors[i], vectors[j]),
    sparse: (i, j) => lexical(items[i].sparse, items[j].sparse),
    hybrid: (i, j) => dense * dot(vectors[i], vectors[j]) + (sparse ? sparse * lexical(items[i].sparse, items[j].sparse) : 0),
  }[kind];
  return items.map((_, i) => items.map((_, j) => score(i, j)));
}

/** A text in pieces: [piece, token or null]. Places are counted in characters as Unicode has them, not in JavaScript's units. */
function pieces(text, tokens) {
  const characters = Array.from(text);
  const found = [];
  let at = 0;
  for (const token of tokens) {
    const start = Math.max(token.start, at);
    if (token.special || token.stop <= start) continue; // it has no character of its own
    if (start > at) found.push([characters.slice(at, start).join(""), null]);
    found.push([characters.slice(start, token.stop).join(""), token]);
    at = token.stop;
  }
  if (at < characters.length) found.push([characters.slice(at).join(""), null]);
  return found;
}

// The page.

const $ = (id) => document.getElementById(id);
const state = { models: [], items: [] };

/** A part of the page with a button that asks the server: what it says, and where. */
const area = (id) => {
  const section = $(id);
  const [form, button, progress, alert, status] = ["form", "[type=submit]", "progress", ".alert", ".status"].map((name) => section.querySelector(name));
  return { section, form, button, progress, alert, status, turn: 0 };
};
const [embedding, reranking] = ["embedding", "reranking"].map(area);

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const cards = () => [...$("texts").children];
const textOf = (card) => card.querySelector("textarea").value;
const numberOf = (card) => cards().indexOf(card) + 1;
const nameOf = (card) => `Text ${numberOf(card)}`;
/** The texts that are sent: empty fields are not. Each with its field, and its name at that time. */
const filled = () => cards().filter(textOf).map((card) => ({ card, number: numberOf(card), name: nameOf(card), text: textOf(card) }));
const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const of = (kind) => state.models.filter((each) => each.kind === kind);
const model = () => state.models.find((each) => each.id === $("model").value);

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function ask(path, body) {
  let answer;
  try {
    const sent = body ? { method: "POST", body: JSON.stringify(body) } : {};
    answer = await fetch(path, { ...sent, headers: headers(), cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    throw error instanceof TypeError && !/header/i.test(error.message) ? new Error("The server does not answer. Is it still running?") : Object.assign(new Error("This key holds characters that no key has."), { key: true });
  }
  if (answer.status === 401) {
    $("openapi").hidden = true; // a link sends no key
    throw Object.assign(new Error($("key").value ? "The server does not know this key." : "This server asks for a key: type it here, then press Enter."), { key: true });
  }
  const read = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const { message = `The server answered ${answer.status}.` } = read.error ?? read;
    throw new Error(message);
  }
  return [read, answer.headers];
}

/** What the server says of `input[2]` or `documents[2]`, said of the text that was sent there. */
function translated(message, sent) {
  const [field, index] = /^(?:input|documents)\[(\d+)\]/.exec(message) ?? [];
  const one = sent[Number(index)];
  return one ? [message.replace(field, one.name), one.card] : [message, null];
}

function report(area, message) {
  area.alert.hidden = !message;
  area.alert.textContent = message;
}

function reportKey(message) {
  $("key-error").hidden = !message;
  $("key-error").textContent = message;
  $("key").setAttribute("aria-invalid", String(Boolean(message)));
  if (message) $("key").focus();
}

/** What is said of one text, beside its name. */
function say(card, words, bad = false) {
  const facts = card.querySelector(".facts");
  facts.hidden = !words;
  facts.textContent = words;
  facts.classList.toggle("bad", bad);
  card.querySelector("textarea").setAttribute("aria-invalid", String(bad));
}

/** Show that work goes on, until it is done; then what it says, or why it failed, beside the button. */
async function work(area, doing, sent, job) {
  const turn = ++area.turn;
  const current = () => turn === area.turn;
  report(area, "");
  reportKey("");
  for (const card of cards()) if (card.querySelector("[aria-invalid=true]")) say(card, "");
  area.button.disabled = true;
  area.progress.hidden = false;
  area.section.setAttribute("aria-busy", "true");
  area.status.textContent = doing;
  try {
    const said = await job(current);
    if (current()) area.status.textContent = said;
  } catch (error) {
    if (!current()) return;
    area.status.textContent = "";
    if (error.key) return reportKey(error.message);
    const [message, card] = translated(error.message, sent);
    report(area, message);
    if (card) say(card, message, true);
  } finally {
    if (current()) {
      area.button.disabled = false;
      area.progress.hidden = true;
      area.section.removeAttribute("aria-busy");
    }
  }
}

function number() {
  cards().forEach((card, i) => {
    const area = card.querySelector("textarea");
    area.id = `text-${i + 1}`;
    card.querySelector(".facts").id = `facts-${i + 1}`;
    area.setAttribute("aria-describedby", `facts-${i + 1}`);
    card.querySelector("label").textContent = nameOf(card);
    card.querySelector("label").htmlFor = area.id;
    card.querySelector(".remove").textContent = "Remove";
    card.querySelector(".remove").setAttribute("aria-label", `Remove text ${i + 1}`);
    card.querySelector(".remove").disabled = cards().length === 1;
  });
  $("add").disabled = cards().length >= MOST;
}

function add(text) {
  $("texts").append($("text").content.cloneNode(true));
  const card = cards().at(-1);
  card.querySelector("textarea").value = text;
  card.querySelector("textarea").addEventListener("input", () => card.classList.add("stale")); // what is shown is of the text before
  card.querySelector(".remove").addEventListener("click", () => {
    const next = card.nextElementSibling ?? card.previousElementSibling;
    card.remove();
    number();
    next.querySelector("textarea").focus();
  });
  number();
  return card.querySelector("textarea");
}

function choose(select, models) {
  const chosen = select.value;
  select.replaceChildren(...models.map((each) => make("option", each.id, { value: each.id })));
  if (models.some((each) => each.id === chosen)) select.value = chosen;
}

/** Raises an error, which `work` shows. */
async function loadModels() {
  const [{ data }] = await ask("v1/models");
  state.models = data;
  const [embedders, rerankers] = [of("embedder"), of("reranker")];
  choose($("model"), embedders);
  choose($("reranker"), rerankers);
  for (const each of [$("model").parentElement, $("similarity"), $("run"), $("run-note")]) each.hidden = !embedders.length;
  reranking.section.hidden = !rerankers.length;
  $("reranker-label").hidden = rerankers.length < 2;
}

/** Raises an error if all fields are empty. */
function textsOf(sent) {
  if (!sent.length) throw new Error("Every text is empty. Type one first.");
  return sent.map(({ text }) => text);
}

const leftOut = (sent) => {
  const count = cards().length - sent.length;
  return count ? `; ${count} empty ${count === 1 ? "field was" : "fields were"} left out` : "";
};

function embed() {
  const sent = filled();
  return work(embedding, `Embedding ${counted(sent.length, "text")}…`, sent, async (current) => {
    await loadModels();
    if (!current()) return "";
    if (!model()) return "This server has no embedder. It ranks these texts.";
    const { id, sparse } = model();
    const body = { model: id, input: textsOf(sent), sparse, tokens: sparse, ...(sparse ? { sparse_format: "tokens" } : {}), on_error: "item" };
    const [answer, head] = await timed("v1/encode", body);
    return current() ? show(sent, answer, head) : "";
  });
}

function rerank() {
  const sent = filled();
  return work(reranking, `Ranking ${counted(sent.length, "text")}…`, sent, async (current) => {
    const [query, documents] = [$("query").value, textsOf(sent)];
    if (!query) throw new Error("The query is empty. Type one first.");
    const [{ results, usage }, head] = await timed("v2/rerank", { model: $("reranker").value, query, documents });
    if (!current()) return "";
    $("ranks").replaceChildren(...results.map(({ index, relevance_score: score }) => {
      const line = make("li");
      const bar = make("span", "", { class: "share", "aria-hidden": "true" });
      bar.style.setProperty("--share", score.toFixed(4));
      const { name, text } = sent[index];
      line.append(bar, make("span", score.toFixed(3), { class: "score" }), make("span", name, { class: "quiet" }), make("bdi", text));
      return line;
    }));
    const warning = head.get("x-gte-warning");
    return `Done: ${counted(results.length, "text")}, ${usage.total_tokens} tokens; scores from 0 to 1${leftOut(sent)}${warning ? `; ${warning}` : ""}.`;
  });
}

/** As `ask`. The page shows the times, and the same request for a shell. */
async function timed(path, body) {
  const begun = performance.now();
  const [answer, head] = await ask(path, body);
  showTimings(head, performance.now() - begun);
  $("curl").textContent = curl(path, body);
  return [answer, head];
}

function show(sent, answer, head) {
  for (const card of cards()) if (!sent.some((one) => one.card === card)) showText(card, "", {}, 1);
  const heaviest = Math.max(...answer.data.flatMap((item) => (item.token_weights ?? []).map((token) => token.weight)), 1e-9);
  answer.data.forEach((item, i) => showText(sent[i].card, sent[i].text, item, heaviest));
  const failed = answer.data.filter((item) => item.error).map((item) => translated(item.error.message, sent));
  for (const [message, card] of failed) if (card) say(card, message, true);
  if (failed.length) report(embedding, failed.map(([message]) => message).join(" "));
  state.items = answer.data.filter((item) => item.embedding).map((item) => ({ ...item, ...sent[item.index], sparse: new Map(Object.entries(item.sparse ?? {})) }));
  if (state.items.length) limits(state.items[0].embedding.length);
  drawHeat();
  const warning = head.get("x-gte-warning");
  return `Done: ${counted(state.items.length, "text")}, ${answer.usage.total_tokens} tokens, variant ${answer.variant}${failed.length ? `; ${failed.length} failed` : ""}${leftOut(sent)}${warning ? `; ${warning}` : ""}.`;
}

function showText(card, text, item, heaviest) {
  card.classList.remove("stale");
  const [weights, details] = [".weights", "details"].map((name) => card.querySelector(name));
  const tokens = item.token_weights ?? [];
  weights.replaceChildren(...pieces(text, tokens).map(([piece, token]) => {
    if (!token?.weight) return document.createTextNode(piece);
    const mark = make("mark", piece, { title: `${token.text} ${token.weight.toFixed(3)}` });
    mark.style.setProperty("--weight", (0.08 + 0.92 * token.weight / heaviest).toFixed(3));
    return mark;
  }));
  weights.hidden = !tokens.length;
  say(card, item.tokens ? `${counted(item.tokens, "token")}${item.truncated ? ", the rest was cut" : ""}` : "");
  const best = Object.entries(item.sparse ?? {}).sort((a, b) => b[1] - a[1]).slice(0, HEAVIEST);
  details.hidden = !best.length;
  details.querySelector("tbody").replaceChildren(...best.map(([token, weight]) => {
    const row = make("tr");
    const name = make("td");
    name.append(token ? make("bdi", token) : make("span", "▁ (a space)", { class: "quiet" }));
    row.append(name, make("td", weight.toFixed(3)));
    return row;
  }));
}

function limits(full) {
  const slider = $("dimension");
  if (Number(slider.max) === full) return;
  const step = Math.max(1, Math.min(16, full >> 3));
  Object.assign(slider, { min: full % step || step, step, max: full });
  slider.value = full;
}

// Black and white are equally far from a cell's colour at 0.785 in the light palette and at 0.615 in the dark one: 4.58 to 1.
function shade(heat) {
  if (heat > 0.785) return { class: "hot" };
  return heat > 0.615 ? { class: "warm" } : {};
}

function drawHeat() {
  const sparse = model()?.sparse ?? true;
  for (const radio of document.getElementsByName("kind")) radio.disabled = !sparse && radio.value !== "dense";
  if (!sparse) document.querySelector("[name=kind][value=dense]").checked = true;
  const kind = document.querySelector("[name=kind]:checked").value;
  const [dense, weight, dim] = ["dense-weight", "sparse-weight", "dimension"].map((id) => Number($(id).value));
  $("dense-weight-value").value = dense.toFixed(2);
  $("sparse-weight-value").value = weight.toFixed(2);
  $("dimension-value").value = dim;
  $("dense-weight").disabled = $("sparse-weight").disabled = kind !== "hybrid";
  $("dimension").disabled = kind === "sparse";
  const smallest = model()?.smallest_dimensions ?? 1;
  const cosine = `cosine of the first ${dim} values`;
  const overlap = "sum over the tokens of both of the product of their weights";
  $("formula").textContent = {
    dense: `${cosine}`, sparse: overlap, hybrid: `${dense.toFixed(2)} × ${cosine} + ${weight.toFixed(2)} × ${overlap}`,
  }[kind] + (kind !== "sparse" && dim < smallest ? `. Shorter than ${smallest}, the shortest the model was trained for.` : "");
  if (!state.items.length) {
    $("heat").tHead.replaceChildren();
    $("heat").tBodies[0].replaceChildren();
    $("heat-caption").textContent = "Nothing embedded yet.";
    return;
  }
  const scores = matrix(state.items, kind, dense, weight, dim);
  const others = scores.length > 1 ? scores.flatMap((row, i) => row.filter((_, j) => j !== i)) : scores[0];
  const [low, high] = [Math.min(...others), Math.max(...others)]; // a text with itself would leave no colour for the rest
  const names = state.items.map((item) => item.number);
  const head = make("tr");
  head.append(make("td", "", { class: "corner" }), ...names.map((name) => make("th", String(name), { scope: "col" })));
  $("heat").tHead.replaceChildren(head);
  $("heat").tBodies[0].replaceChildren(...scores.map((row, i) => {
    const line = make("tr");
    const title = make("th", `${names[i]} `, { scope: "row" });
    title.append(make("bdi", state.items[i].text.slice(0, 60)));
    line.append(title, ...row.map((score) => {
      const heat = Math.min(1, Math.max(0, high > low ? (score - low) / (high - low) : 0));
      const cell = make("td", score.toFixed(3), shade(heat));
      cell.style.setProperty("--heat", heat.toFixed(3));
      return cell;
    }));
    return line;
  }));
  $("heat-caption").textContent = `${kind[0].toUpperCase()}${kind.slice(1)} scores of every pair; colours from ${low.toFixed(3)} to ${high.toFixed(3)}, the range of different texts.`;
}

function showTimings(head, roundTrip) {
  const ms = (name) => Number(head.get(`x-${name}-time`) ?? 0);
  const parts = [["tokenizing", ms("tokenization")], ["in the queue", ms("queue")], ["model", ms("inference")]];
  const total = ms("total");
  parts.push(["rest of the server", Math.max(0, total - parts.reduce((sum, [, ms]) => sum + ms, 0))]);
  $("bar").replaceChildren(...parts.map(([, ms], i) => {
    const part = make("span", "", { class: `part-${i + 1}` });
    part.style.setProperty("--share", ms || 0.001);
    return part;
  }));
  const entries = [...parts, ["server in all", total], ["seen from here", roundTrip]];
  $("timings").replaceChildren(...entries.map(([name, ms], i) => {
    const group = make("div");
    const term = make("dt");
    if (i < parts.length) term.append(make("i", "", { class: `part-${i + 1}` }));
    term.append(name);
    group.append(term, make("dd", `${ms.toFixed(ms < 10 ? 2 : 1)} ms`));
    return group;
  }));
}

function curl(path, body) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  const key = $("key").value ? ` -H "authorization: Bearer $GTE_API_KEY"` : "";
  return `curl '${new URL(path, document.baseURI)}'${key} -H 'content-type: application/json' -d '${quoted}'`;
}

for (const [area, go] of [[embedding, embed], [reranking, rerank]]) {
  area.form.addEventListener("submit", (event) => { event.preventDefault(); go(); });
  area.form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); go(); }
  });
}
$("add").addEventListener("click", () => add("").focus());
$("model").addEventListener("change", embed);
$("access").addEventListener("submit", (event) => { event.preventDefault(); embed(); });
for (const control of [...document.getElementsByName("kind"), $("dense-weight"), $("sparse-weight"), $("dimension")]) control.addEventListener("input", drawHeat);

EXAMPLES.forEach(add);
drawHeat();
embed();
