// Scores on tasks, where runs have any: a section behind the pairs, and columns of the table of runs.

const metricName = (metric) => metric.replaceAll("_", " ");
const withSpaces = (name) => name.replace(/\S+$/, metricName); // of a task and metric, the metric's
const breakable = (name) => name.replaceAll("_", "_\u200b"); // a long name in a narrow column
const inCell = (row) => `${row.size}/${row.cell_tokens}`;
const markOfScore = (row) => looks.MARKS.find(([said, of]) => said === row.said && of === row.of)?.[2] ?? "";
const decimals = (value) => (Math.abs(value) < 1000 ? fixed(3)(value) : short(value, 4));

function told(row) {
  if (row.said === "not paired") return "not paired: other documents, none, or no run of the same seed";
  if (row.said === "open") return row.p === null ? "no telling" : "not shown";
  return row.of === "runs" ? `${row.said}, of these two runs alone` : row.said;
}

// Variants × tasks of one metric: values with their standard errors, and marks of what is shown.
function scoreTable(host, rows, metric) {
  const own = rows.filter((row) => row.metric === metric),
    tasks = [...new Set(own.map((row) => row.task))],
    of = new Map(own.map((row) => [`${row.variant}\n${row.task}`, row])),
    first = (variant) => (variant === result.reference ? 0 : 1),
    names = [...new Set(own.map((row) => row.variant))].sort((a, b) => first(a) - first(b) || (a < b ? -1 : 1)),
    id = `scores-of-${metric}`;
  host.appendChild(element("h3", {}, `${metricName(metric)} (${own[0].higher_is_better ? "higher" : "lower"} is better)`));
  table(
    host,
    id,
    [
      ["variant", (variant) => label(variant)],
      ...tasks.map((task) => [breakable(task), (variant) => of.get(`${variant}\n${task}`)?.value, decimals]),
    ],
    names,
    (variant) => ({"data-variant": variant}),
  );
  names.forEach((variant, line) =>
    tasks.forEach((task, column) => {
      const row = of.get(`${variant}\n${task}`),
        place = document.getElementById(id).tBodies[0].rows[line].cells[column + 1];
      if (!row) return;
      const mark = markOfScore(row) || (row.said === "not paired" ? "°" : "");
      if (mark) place.appendChild(document.createTextNode(`\u00a0${mark}`));
      if (row.stderr !== null) place.appendChild(element("span", {class: "range"}, ` ±${decimals(row.stderr)}`));
      if (row.best) place.setAttribute("style", "font-weight: 700");
    }),
  );
}

function scoreLegend(rows) {
  const name = label(result.reference),
    of = (kind) => rows.some((row) => row.of === kind && markOfScore(row)),
    mark = (said, kind) => looks.MARKS.find((one) => one[0] === said && one[1] === kind)[2];
  return [
    "± is the standard error: of documents, with several seeds of seeds too.",
    of("variants") &&
      `${mark("better", "variants")} better, ${mark("worse", "variants")} worse than ${name}, shown: p below 0.05, corrected for the questions of the size and token budget.`,
    of("runs") &&
      `${mark("better", "runs")} better, ${mark("worse", "runs")} worse than ${name}'s run, as surely, but of these two runs alone: one seed says nothing of the attentions.`,
    rows.some((row) => row.best) && "Bold: shown to be better than every other variant.",
    rows.some((row) => row.said === "not paired") && `° not paired with ${name}'s.`,
  ]
    .filter(Boolean)
    .join(" ");
}

function scoresOnTasks() {
  const host = element("section", {id: "scores"}),
    cells = [...new Map(result.evaluations.map((row) => [inCell(row), row]))].reverse();
  section("verdicts").after(host);
  host.appendChild(element("h2", {}, "Scores on tasks"));
  host.appendChild(
    element(
      "p",
      {},
      "Runs' last states on the same documents. Below: means over documents and seeds, and each variant held against the reference, document by document.",
    ),
  );
  const which = choice(
    "scores-cell",
    cells.map(([name, row]) => [name, `${sizeName(row.size)}, ${count(row.cell_tokens)} tokens`]),
    () => fill(),
  );
  host.appendChild(element("div", {class: "tools"})).appendChild(which);
  const holder = host.appendChild(element("div"));
  const fill = () => {
    holder.replaceChildren();
    const rows = result.evaluations.filter((row) => inCell(row) === which.value),
      sentences = result.evaluations_told.find((one) => inCell(one) === which.value).sentences,
      first = (metric) => (metric === "bits_per_byte" ? 0 : 1),
      metrics = [...new Set(rows.map((row) => row.metric))].sort((a, b) => first(a) - first(b) || (a < b ? -1 : 1));
    for (const sentence of sentences) holder.appendChild(element("p", {style: "color: var(--ink)"}, sentence));
    for (const metric of metrics) scoreTable(holder, rows, metric);
    holder.appendChild(element("p", {}, scoreLegend(rows)));
    const held = rows.filter((row) => row.said !== "reference");
    if (held.length) holder.appendChild(element("h3", {}, `Held against ${label(result.reference)}`));
    table(
      holder,
      "scores-held",
      [
        ["variant", (row) => label(row.variant)],
        ["task", (row) => row.task],
        ["metric", (row) => metricName(row.metric)],
        [`less ${label(result.reference)}'s`, (row) => row.difference, signed(3)],
        ["that is", told],
        ["p (Holm)", (row) => row.p_holm, 2],
        ["test", (row) => row.test],
        ["p", (row) => row.p, 2],
        ["seeds", (row) => row.shared_seeds],
        ["documents", (row) => row.documents],
      ],
      held,
      ofVariant,
    );
    refresh();
  };
  fill();
}

// Behind the column of held-out bits per byte.
function columnsOfRuns() {
  const lines = document.getElementById("all-runs").rows,
    names = [...new Set(result.runs.flatMap((run) => Object.keys(run.scores)))].sort(),
    place = [...lines[0].cells].findIndex((cell) => cell.textContent === "bits per byte") + 1;
  [null, ...result.runs].forEach((run, line) => {
    const before = lines[line].cells[place];
    for (const name of names)
      lines[line].insertBefore(run ? cell(run.scores[name] ?? null) : element("th", {class: "several"}, breakable(withSpaces(name))), before);
  });
}

scoresOnTasks();
columnsOfRuns();
refresh();
