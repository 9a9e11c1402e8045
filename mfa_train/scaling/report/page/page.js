// What is where on the page. All numbers come from fit.json, which the page carries with it.

const {result, curves, looks} = JSON.parse(document.getElementById("data").textContent);
const {COLORS, SAME_CACHE} = looks;
const charts = [],
  compared = Object.keys(result.variants),
  variants = [...new Set([...compared, ...result.runs.map((run) => run.variant).filter(Boolean)])],
  on = new Set(variants);
const colorOf = (variant) => COLORS[Math.max(0, variants.indexOf(variant)) % COLORS.length];
const dashOf = (variant) => (variants.indexOf(variant) >= COLORS.length ? "5 3" : "none");
const byName = new Map(result.runs.map((run) => [run.name, run]));
const used = result.runs.filter((run) => !run.excluded);
const ACCOUNTING = {parameters: "equal parameters × tokens", flops: "equal training FLOPs"};
const section = (id) => document.getElementById(id);
const lossLabel = `loss (${result.conventions.loss})`;

function bracketed({low, high}, digits) {
  return `[${low === null ? "–∞" : short(low, digits)}, ${high === null ? "∞" : short(high, digits)}]`;
}

function cell(value, digits = 4) {
  // An interval, a number or text; the number itself stands in data-value, as fit.json has it.
  if (value !== null && typeof value === "object") {
    const made = element(
      "td",
      value.value === null ? {} : {"data-value": value.value},
      value.value === null ? "never" : short(value.value, digits),
    );
    if (value.low !== null || value.high !== null)
      made.appendChild(element("span", {class: "range"}, ` ${bracketed(value, digits)}`));
    return made;
  }
  if (typeof value === "number") return element("td", {"data-value": value}, short(value, digits));
  return element("td", {class: "text" + (String(value ?? "").length > 40 ? " long" : "")}, value ?? "–");
}

function table(host, id, columns, rows, rowOf = () => ({})) {
  if (!rows.length) return;
  const made = element("table", {id}),
    head = element("tr"),
    body = element("tbody");
  for (const [title, value, digits] of columns)
    head.appendChild(element("th", {class: cell(value(rows[0]), digits).className}, title));
  made.appendChild(element("thead")).appendChild(head);
  for (const row of rows) {
    const line = element("tr", rowOf(row));
    for (const [, value, digits] of columns) line.appendChild(cell(value(row), digits));
    body.appendChild(line);
  }
  made.appendChild(body);
  host.appendChild(element("div", {class: "scroll"})).appendChild(made);
}

function choice(id, options, changed) {
  const made = element("select", {id, "aria-label": id});
  options.forEach(([value, text]) => made.appendChild(element("option", {value}, text)));
  made.addEventListener("change", changed);
  return made;
}

const ofVariant = (row) => ({"data-variant": row.variant});
const runInfo = (run) =>
  [
    run.name,
    `${run.variant}, ${short(run.params)} parameters, ${short(run.tokens)} tokens`,
    run.flops && `${short(run.flops)} FLOPs`,
    run.kv_bytes_per_token && `${short(run.kv_bytes_per_token)} KV bytes per token`,
    run.loss !== null && `loss ${short(run.loss, 5)}`,
    run.seed !== null && `seed ${run.seed}`,
  ]
    .filter(Boolean)
    .join("\n");

function heading() {
  const all = result.counts ?? {runs: result.runs.length, used: used.length},
    left = all.runs - all.used;
  section("summary").textContent =
    `${all.used.toLocaleString("en-US")} runs of ${compared.length} variant${compared.length > 1 ? "s" : ""}` +
    `${left ? `, ${left} left out` : ""}; held against ${result.reference}. ` +
    `Brackets are ${result.conventions.intervals.split(";")[0]} intervals.`;
  const bar = section("switches");
  for (const variant of variants) {
    const button = bar.appendChild(element("button", {type: "button", "aria-pressed": "true", "data-switch": variant}));
    button.appendChild(element("span", {class: "dot", style: `background:${colorOf(variant)}`}));
    button.appendChild(document.createTextNode(variant));
    button.addEventListener("click", () => {
      on.has(variant) ? on.delete(variant) : on.add(variant);
      button.setAttribute("aria-pressed", String(on.has(variant)));
      refresh();
    });
  }
  for (const [list, [some, of]] of Object.entries(result.thinned ?? {}))
    section("notices").appendChild(
      element(
        "li",
        {class: "thinned"},
        `this page lists ${some.toLocaleString("en-US")} of ${of.toLocaleString("en-US")} ${list.replaceAll("_", " ")}, evenly; ` +
          "the numbers are of all that are compared, and the CSV beside it has more of them",
      ),
    );
  for (const notice of result.notices) section("notices").appendChild(element("li", {}, notice));
}

function allRuns() {
  const hash = (value) => (value ? String(value).slice(0, 12) : null);
  table(
    section("runs"),
    "all-runs",
    [
      ["run", (run) => run.name],
      ["variant", (run) => run.variant],
      ["status", (run) => run.excluded ?? run.status],
      ["parameters", (run) => run.params],
      ["without embeddings", (run) => run.non_embedding_params],
      ["tokens", (run) => run.tokens],
      ["FLOPs", (run) => run.flops],
      ["KV bytes per token", (run) => run.kv_bytes_per_token],
      ["loss", (run) => run.loss, 5],
      ["bits per byte", (run) => run.bits_per_byte],
      ["run – law", (run) => run.residual, 2],
      ["seconds", (run) => run.seconds],
      ["seed", (run) => run.seed],
      [
        "shape",
        (run) =>
          Object.entries(run.shape)
            .map(([key, value]) => `${key}=${value}`)
            .join(" ") || null,
      ],
      ["config sha256", (run) => hash(run.config_sha256)],
      ["training data", (run) => hash(run.data?.train_sha256)],
      ["code", (run) => hash(run.code_commit)],
      ["from", (run) => run.source],
    ],
    result.runs,
    (run) => ({"data-variant": run.excluded ? "" : run.variant, ...(run.excluded ? {class: "left-out"} : {})}),
  );
}

function conventions() {
  const list = section("conventions").querySelector("dl");
  for (const [key, value] of Object.entries({...result.conventions, ...result.made_by}))
    for (const [name, text] of typeof value === "object" && value
      ? Object.entries(value).map(([inner, told]) => [`${key}, ${inner}`, told])
      : [[key, value]]) {
      list.appendChild(element("dt", {}, name.replaceAll("_", " ")));
      list.appendChild(element("dd", {}, text ?? "unknown"));
    }
}

function hideSwitched() {
  for (const row of document.querySelectorAll("tr[data-variant]"))
    row.hidden = [row.dataset.variant, row.dataset.other].some((name) => name && !on.has(name));
}

function refresh() {
  charts.forEach((chart) => chart.draw());
  hideSwitched();
}

[heading, kv, compute, fits, verdicts, lossCurves, allRuns, conventions].forEach((part) => part());
refresh();
let waiting = null;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(refresh, 120);
});
