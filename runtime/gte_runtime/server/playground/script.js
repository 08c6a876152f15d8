
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
    if (token.special || token.stop <= at) continue;
    const start = Math.max(token.start, at);
    if (start > at) found.push([characters.slice(at, start).join(""), null]);
    found.push([characters.slice(start, token.stop).join(""), token]);
    at = token.stop;
  }
  if (at < characters.length) found.push([characters.slice(at).join(""), null]);
  return found;
}

// The page.

const $ = (id) => document.getElementById(id);
const state = { models: [], items: [], texts: [], run: 0 };

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const cards = () => [...$("texts").children];
const areas = () => cards().map((card) => card.querySelector("textarea"));
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
    throw error instanceof TypeError && !/header/i.test(error.message) ? new Error("The server does not answer.") : new Error("The key holds characters that no key has.");
  }
  if (answer.status === 401) {
    $("openapi").hidden = true; // a link sends no key
    throw Object.assign(new Error($("key").value ? "The server does not know this key." : "This server asks for a key: type it above, then press Enter."), { key: true });
  }
  const read = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const { message = `The server answered ${answer.status}.`, param = null } = read.error ?? {};
    throw Object.assign(new Error(message), { param });
  }
  return [read, answer.headers];
}

function report(error) {
  $("alert").hidden = !error;
  $("alert").textContent = error?.message ?? "";
  const place = /^input(?:\[(\d+)\])?$/.exec(error?.param ?? "");
  areas().forEach((area, i) => area.setAttribute("aria-invalid", String(Boolean(place) && i === Number(place[1] ?? 0))));
  if (error?.key) $("key").focus();
}

function number() {
  cards().forEach((card, i) => {
    const area = card.querySelector("textarea");
    area.id = `text-${i + 1}`;
    card.querySelector("label").textContent = `Text ${i + 1}`;
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
  card.querySelector(".remove").addEventListener("click", () => {
    const next = card.nextElementSibling ?? card.previousElementSibling;
    card.remove();
    number();
    next.querySelector("textarea").focus();
  });
  number();
  return card.querySelector("textarea");
}

/** Raises what `report` tells. */
async function loadModels() {
  const [{ data }] = await ask("v1/models");
  state.models = data.filter((each) => each.kind === "embedder");
  if (!state.models.length) throw new Error("The server has no embedder, only rerankers; this page shows embeddings.");
  const chosen = $("model").value;
  $("model").replaceChildren(...state.models.map((each) => make("option", each.id, { value: each.id })));
  if (state.models.some((each) => each.id === chosen)) $("model").value = chosen;
}

async function run() {
  const turn = ++state.run;
  report(null);
  $("run").disabled = true;
  $("status").textContent = "Embedding…";
  try {
    await loadModels();
    const { id, sparse } = model();
    const [shown, texts] = [cards(), areas().map((area) => area.value)];
    const body = { model: id, input: texts, sparse, tokens: sparse, ...(sparse ? { sparse_format: "tokens" } : {}), on_error: "item" };
    const begun = performance.now();
    const [answer, head] = await ask("v1/encode", body);
    if (turn !== state.run) return;
    show(shown, texts, answer, head, performance.now() - begun);
    $("curl").textContent = curl(body);
  } catch (error) {
    if (turn !== state.run) return;
    $("status").textContent = "";
    report(error);
  } finally {
    if (turn === state.run) $("run").disabled = false;
  }
}

function show(shown, texts, answer, head, roundTrip) {
  const heaviest = Math.max(...answer.data.flatMap((item) => (item.token_weights ?? []).map((token) => token.weight)), 1e-9);
  answer.data.forEach((item, i) => showText(shown[i], texts[i], item, heaviest));
  state.items = answer.data.filter((item) => item.embedding).map((item) => ({ ...item, sparse: new Map(Object.entries(item.sparse ?? {})) }));
  state.texts = texts;
  if (!state.items.length) throw new Error("None of the texts could be embedded; each says why.");
  limits(state.items[0].embedding.length);
  drawHeat();
  showTimings(head, roundTrip);
  const warning = head.get("x-gte-warning");
  const failed = texts.length - state.items.length;
  $("status").textContent = `Done: ${texts.length} texts, ${answer.usage.total_tokens} tokens, variant ${answer.variant}${failed ? `; ${failed} failed` : ""}${warning ? `; ${warning}` : ""}.`;
}

function showText(card, text, item, heaviest) {
  const [weights, facts, details] = [".weights", ".facts", "details"].map((name) => card.querySelector(name));
  const tokens = item.token_weights ?? [];
  weights.replaceChildren(...pieces(text, tokens).map(([piece, token]) => {
    if (!token?.weight) return document.createTextNode(piece);
    const mark = make("mark", piece, { title: `${token.text} ${token.weight.toFixed(3)}` });
    mark.style.setProperty("--weight", (0.08 + 0.92 * token.weight / heaviest).toFixed(3));
    return mark;
  }));
  weights.hidden = !tokens.length;
  facts.hidden = false;
  facts.classList.toggle("bad", Boolean(item.error));
  facts.textContent = item.error ? item.error.message : `${item.tokens} tokens${item.truncated ? ", the rest was cut" : ""}`;
  const best = Object.entries(item.sparse ?? {}).sort((a, b) => b[1] - a[1]).slice(0, HEAVIEST);
  details.hidden = !best.length;
  details.querySelector("tbody").replaceChildren(...best.map(([token, weight]) => {
    const row = make("tr");
    const name = make("td");
    name.append(make("bdi", token));
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
  if (!state.items.length) return;
  const scores = matrix(state.items, kind, dense, weight, dim);
  const others = scores.length > 1 ? scores.flatMap((row, i) => row.filter((_, j) => j !== i)) : scores[0];
  const [low, high] = [Math.min(...others), Math.max(...others)]; // a text with itself would leave no colour for the rest
  const names = state.items.map((item) => item.index + 1);
  const head = make("tr");
  head.append(make("td", "", { class: "corner" }), ...names.map((name) => make("th", String(name), { scope: "col" })));
  $("heat").tHead.replaceChildren(head);
  $("heat").tBodies[0].replaceChildren(...scores.map((row, i) => {
    const line = make("tr");
    const title = make("th", `${names[i]} `, { scope: "row" });
    title.append(make("bdi", state.texts[state.items[i].index].slice(0, 60)));
    line.append(title, ...row.map((score) => {
      const heat = Math.min(1, Math.max(0, high > low ? (score - low) / (high - low) : 0));
      const cell = make("td", score.toFixed(3), shade(heat));
      cell.style.setProperty("--heat", heat.toFixed(3));
      return cell;
    }));
    return line;
  }));
  $("heat-caption").textContent = `${kind} scores of every pair; colours from ${low.toFixed(3)} to ${high.toFixed(3)}, the range of different texts.`;
}

function showTimings(head, roundTrip) {
  const of = (name) => Number(head.get(`x-${name}-time`) ?? 0);
  const parts = [["tokenizing", of("tokenization")], ["in the queue", of("queue")], ["model", of("inference")]];
  const total = of("total");
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

function curl(body) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  const key = $("key").value ? ` -H "authorization: Bearer $GTE_API_KEY"` : "";
  return `curl '${new URL("v1/encode", document.baseURI)}'${key} -H 'content-type: application/json' -d '${quoted}'`;
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
$("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
});
$("add").addEventListener("click", () => add("").focus());
$("model").addEventListener("change", run);
$("access").addEventListener("submit", (event) => { event.preventDefault(); run(); });
for (const control of [...document.getElementsByName("kind"), $("dense-weight"), $("sparse-weight"), $("dimension")]) control.addEventListener("input", drawHeat);

EXAMPLES.forEach(add);
drawHeat();
run();
