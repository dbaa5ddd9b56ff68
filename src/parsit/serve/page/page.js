// The page of `parsit serve`: a file is read page by page as it streams, and asked about. Everything that comes from a
// file or a model is put in as text, never as HTML.

const $ = (id) => document.getElementById(id);
const NAMES = {
  truncated: "cut off",
  looping: "repeated itself and was stopped",
  stopped: "stopped",
  retried: "read twice",
  low_confidence: "unsure",
  reduced: "drawn smaller",
  text_not_drawn: "letters not drawn",
  no_lines: "no lines found",
  upside_down: "upside down",
};
const EXAMPLE = {
  type: "object",
  properties: { date: { type: "string" }, total: { type: "number" } },
  required: ["date", "total"],
  additionalProperties: false,
};

// What has been read: the pages as the server gives them, by number, with the elements that show them.
const state = { file: null, source: "", pages: new Map(), sheets: new Map(), reading: null, asking: null };

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

const say = (text) => { $("status").textContent = text; };

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

// ---- the server

async function call(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...(options.headers ?? {}), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    $("token-form").hidden = false;
    $("token").focus();
  }
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    throw new Error(told?.error?.message ?? `the server answers ${response.status}`);
  }
  return response;
}

// The events of a response, each as { name, value }, as they come.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s).slice(0, 2)));
      if (fields.data !== "[DONE]") yield { name: fields.event, value: JSON.parse(fields.data) };
    }
  }
}

async function showModel() {
  try {
    const models = await (await call("v1/models")).json();
    $("model").textContent = models.data[0].id;
    $("token-form").hidden = true;
  } catch (error) {
    complain(error.message);
  }
}

// ---- the file

function choose(file) {
  state.file = file ?? null;
  $("read").disabled = !file || Boolean(state.reading);
  complain("");
  say(file ? `${file.name} is ready to be read.` : "No file yet.");
}

$("file").addEventListener("change", () => choose($("file").files[0]));

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      $("file").files = event.dataTransfer.files;
      choose(event.dataTransfer.files[0]);
    }
  });
}

// ---- reading

$("file-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!state.file || state.reading) return;
  const form = new FormData();
  form.append("file", state.file);
  form.append("mode", "stream");
  form.append("pictures", "true");
  if ($("pages").value.trim()) form.append("pages", $("pages").value.trim());
  if ($("split").value) form.append("split", $("split").value);
  beginReading();
  try {
    const response = await call("v1/parse", { method: "POST", body: form, signal: state.reading.signal });
    for await (const { name, value } of events(response)) take[name]?.(value);
  } catch (error) {
    if (error.name === "AbortError") say(`Stopped after ${state.pages.size} pages.`);
    else complain(error.message);
  } finally {
    endReading();
  }
});

$("stop").addEventListener("click", () => state.reading?.abort());

function beginReading() {
  state.reading = new AbortController();
  state.source = state.file.name;
  state.pages.clear();
  state.sheets.clear();
  $("sheets").replaceChildren();
  complain("");
  say(`Reading ${state.source} …`);
  $("read").disabled = true;
  $("stop").disabled = false;
  allowSaving();
}

function endReading() {
  state.reading = null;
  $("read").disabled = !state.file;
  $("stop").disabled = true;
  allowSaving();
}

function allowSaving() {
  for (const id of ["copy", "save-md", "save-json"]) $(id).disabled = !state.pages.size;
}

// What is done with each event of a reading.
const take = {
  drawn({ page, width, height, picture }) {
    const sheet = newSheet(page, width, height, picture);
    state.sheets.set(page, sheet);
    $("sheets").append(sheet.root);
  },
  text({ page, unit, text, box, attempt }) {
    const line = lineOf(state.sheets.get(page), unit, box);
    if (line.attempt !== attempt) {
      line.text.textContent = "";
      line.attempt = attempt;
    }
    line.text.append(text);
  },
  page(page) {
    state.pages.set(page.number, page);
    finishSheet(state.sheets.get(page.number) ?? failedSheet(page), page);
    say(`Page ${page.number} of ${state.source} is read.`);
    allowSaving();
  },
  done({ pages }) {
    say(`${state.source} is read: ${pages} ${pages === 1 ? "page" : "pages"}.`);
  },
  error({ message }) {
    complain(message);
    say("The reading ended with an error.");
  },
};

function newSheet(number, width, height, picture) {
  const title = element("h3", { id: `page-${number}` }, `Page ${number}`);
  const notes = element("div", { class: "row" });
  const lines = element("ol", { class: "text", "aria-label": `Text of page ${number}` });
  const boxes = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
  boxes.setAttribute("aria-hidden", "true");
  const figure = element("figure");
  if (picture) figure.append(element("img", { src: picture, alt: `Picture of page ${number}` }), boxes);
  const copy = element("button", { type: "button", "aria-label": `Copy page ${number}`, disabled: "" }, "Copy");
  copy.addEventListener("click", () => copyText(state.pages.get(number).text, copy));
  const side = element("div", {}, element("div", { class: "row spread" }, title, copy), notes, lines);
  const root = element("article", { class: "sheet", "aria-labelledby": `page-${number}` }, figure, side);
  return { root, notes, lines, boxes, copy, units: new Map() };
}

function failedSheet(page) {
  const sheet = newSheet(page.number, 1, 1, null);
  $("sheets").append(sheet.root);
  return sheet;
}

// The element in which one unit of a page is read: a whole page, or a piece of a line with its box.
function lineOf(sheet, unit, box) {
  if (!sheet.units.has(unit)) {
    const text = element("li");
    sheet.lines.append(text);
    const rect = box ? addBox(sheet, box) : null;
    sheet.units.set(unit, { text, rect, attempt: 0 });
    if (rect) light(text, rect);
  }
  return sheet.units.get(unit);
}

function addBox(sheet, [left, top, right, bottom]) {
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const place = { x: left, y: top, width: right - left, height: bottom - top };
  for (const [name, value] of Object.entries(place)) rect.setAttribute(name, value);
  sheet.boxes.append(rect);
  return rect;
}

function light(text, rect) {
  const both = [text, rect];
  for (const one of both) {
    one.addEventListener("mouseenter", () => both.forEach((other) => other.classList.add("lit")));
    one.addEventListener("mouseleave", () => both.forEach((other) => other.classList.remove("lit")));
  }
}

// The page as it is for good: its lines instead of the pieces that streamed, its flags, its confidence.
function finishSheet(sheet, page) {
  sheet.lines.replaceChildren();
  sheet.boxes.replaceChildren();
  sheet.units.clear();
  const lines = page.lines.length ? page.lines : page.text ? [{ text: page.text, box: null, flags: [] }] : [];
  lines.forEach((line, number) => {
    const { text, rect } = lineOf(sheet, number, line.box);
    text.textContent = line.text;
    text.dataset.line = number;
    if (line.confidence) text.title = `confidence ${percent(line.confidence.mean)}, lowest ${percent(line.confidence.lowest)}`;
    for (const one of line.flags.length ? [text, rect] : []) one?.classList.add("flagged");
  });
  sheet.notes.replaceChildren(...page.flags.map((flag) => element("span", { class: "flag" }, NAMES[flag] ?? flag)));
  if (page.error) sheet.notes.append(page.error);
  if (page.confidence) sheet.notes.append(...confidence(page.confidence));
  sheet.copy.disabled = !page.text;
}

const percent = (share) => `${Math.round(100 * share)} %`;

function confidence({ mean, lowest }) {
  const meter = element("meter", { min: 0, max: 1, low: 0.6, high: 0.85, optimum: 1, value: mean });
  meter.setAttribute("aria-label", "Mean confidence");
  return [meter, `confidence ${percent(mean)}, lowest ${percent(lowest)}`];
}

// ---- what was read, taken away

const inOrder = () => [...state.pages.values()].sort((a, b) => a.number - b.number);

const markdown = () => inOrder().map(({ number, flags, text }) => {
  const note = flags.length ? ` (${flags.join(", ")})` : "";
  return `<!-- page ${number}${note} -->\n\n${text}`.trimEnd() + "\n";
}).join("\n");

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    complain("The browser does not let this page copy.");
  }
  button.focus();
}

function save(text, suffix, kind) {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
  element("a", { href: address, download: state.source.replace(/\.[^.]*$/, "") + suffix }).click();
  URL.revokeObjectURL(address);
}

$("copy").addEventListener("click", () => copyText(inOrder().map((page) => page.text).join("\n\n"), $("copy")));
$("save-md").addEventListener("click", () => save(markdown(), ".md", "text/markdown"));
$("save-json").addEventListener("click", () =>
  save(JSON.stringify({ source: state.source, pages: inOrder() }, null, 2) + "\n", ".json", "application/json"));

// ---- asking

const dataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

async function request() {
  const content = [];
  if (state.file) {
    content.push({ type: "file", file: { filename: state.file.name, file_data: await dataUrl(state.file) } });
  }
  content.push({ type: "text", text: $("question").value });
  const asked = { messages: [{ role: "user", content }], stream: true, max_tokens: 512 };
  if ($("schema").value.trim()) {
    let schema;
    try {
      schema = JSON.parse($("schema").value);
    } catch (error) {
      throw new Error(`The schema is not JSON: ${error.message}`);
    }
    asked.response_format = { type: "json_schema", json_schema: { name: "schema", schema } };
  }
  return asked;
}

$("ask-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (state.asking) return;
  state.asking = new AbortController();
  $("ask").disabled = true;
  $("ask-stop").disabled = false;
  $("answer").textContent = "";
  $("answer-note").textContent = "…";
  complain("");
  try {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify(await request());
    const response = await call("v1/chat/completions", { method: "POST", headers, body, signal: state.asking.signal });
    for await (const { value } of events(response)) takeAnswer(value);
  } catch (error) {
    $("answer-note").textContent = error.name === "AbortError" ? "Stopped." : "";
    if (error.name !== "AbortError") complain(error.message);
  } finally {
    state.asking = null;
    $("ask").disabled = false;
    $("ask-stop").disabled = true;
  }
});

function takeAnswer(chunk) {
  if (chunk.error) throw new Error(chunk.error.message);
  const [choice] = chunk.choices;
  if (choice?.delta.content) $("answer").append(choice.delta.content);
  if (!choice?.finish_reason) return;
  const { flags, confidence: known } = choice.parsit;
  const notes = [...flags.map((flag) => NAMES[flag] ?? flag), ...(known ? confidence(known) : [])];
  $("answer-note").replaceChildren(...notes.flatMap((note) => [note, " "]));
}

$("ask-stop").addEventListener("click", () => state.asking?.abort());
$("example").addEventListener("click", () => { $("schema").value = JSON.stringify(EXAMPLE, null, 2); });

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  complain("");
  showModel();
});

showModel();
