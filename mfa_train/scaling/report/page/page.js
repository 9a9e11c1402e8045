// The page as a whole: its head, its notices, its runs, and what happens when a variant is switched off.

const ofVariant = (row) => ({"data-variant": row.variant});
const runInfo = (run) =>
  [
    run.name,
    `${run.variant}, ${sizeName(run.size)}: ${short(run.params)} parameters, ${count(run.tokens)} tokens`,
    run.flops && `${short(run.flops)} FLOPs`,
    run.kv_bytes_per_token && `${short(run.kv_bytes_per_token)} KV bytes per token`,
    run.loss !== null && `loss ${short(run.loss, 5)}`,
    run.seed !== null && `seed ${run.seed}`,
  ]
    .filter(Boolean)
    .join("\n");

function heading() {
  for (const sentence of result.answer.sentences) section("answer").appendChild(element("p", {}, sentence.replace(/ ([\d.]+×KV)/g, "\u00a0$1")));
  const all = result.counts ?? {runs: result.runs.length, used: used.length},
    left = all.runs - all.used,
    seeds = new Set(used.map((run) => run.seed)).size,
    sizes = Object.values(result.sizes),
    notes = notices(),
    plural = (number, word) => `${number.toLocaleString("en-US")} ${word}${number === 1 ? "" : "s"}`;
  const told = section("summary");
  told.textContent = [
    `${plural(all.used, "run")} of ${plural(compared.length, "variant")}` +
      (sizes.length && sizes.length <= 6 ? ` (${sizes.join(", ")}; ${plural(seeds, "seed")})` : "") +
      `${left ? `, ${left} left out` : ""}, held against ${label(result.reference)}; losses: ${result.conventions.loss}.`,
    compared.some((name) => label(name) !== name) ? "×KV: the KV cache as a share of MHA's." : "",
    result.verdicts.length ? `Shown: p below 0.05, corrected for ${plural(result.verdicts.length, "pair")}.` : "",
    "[Brackets] are 95% intervals. ",
  ]
    .filter(Boolean)
    .join(" ");
  if (notes) told.appendChild(element("a", {href: "#notices"}, `${plural(notes, "notice")} below`));
  const bar = section("switches");
  for (const variant of variants) {
    const button = bar.appendChild(
      element("button", {type: "button", "aria-pressed": "true", "data-switch": variant, title: variant}),
    );
    button.appendChild(element("span", {class: "dot", style: `background:${colorOf(variant)}`}));
    button.appendChild(document.createTextNode(label(variant)));
    button.addEventListener("click", () => {
      on.has(variant) ? on.delete(variant) : on.add(variant);
      button.setAttribute("aria-pressed", String(on.has(variant)));
      refresh();
    });
  }
}

function notices() {
  const host = section("notices"),
    list = host.querySelector("ul");
  for (const [what, [some, of]] of Object.entries(result.thinned ?? {}))
    list.appendChild(
      element(
        "li",
        {class: "thinned"},
        `this page lists ${some.toLocaleString("en-US")} of ${of.toLocaleString("en-US")} ${what.replaceAll("_", " ")}, evenly; ` +
          "the numbers are of all that are compared, and the CSV beside it has more of them",
      ),
    );
  for (const notice of result.notices) list.appendChild(element("li", {}, label(notice)));
  const many = list.children.length;
  if (!many) host.remove();
  return many;
}

function allRuns() {
  const hash = (value) => (value ? String(value).slice(0, 12) : null);
  table(
    section("runs"),
    "all-runs",
    [
      ["run", (run) => run.name],
      ["variant", (run) => label(run.variant ?? "–")],
      ["size", (run) => sizeName(run.size)],
      ["status", (run) => run.excluded ?? run.status],
      ["parameters", (run) => run.params],
      ["without embeddings", (run) => run.non_embedding_params],
      ["tokens", (run) => run.tokens, count],
      ["FLOPs", (run) => run.flops],
      ["KV bytes per token", (run) => run.kv_bytes_per_token],
      ["decode FLOPs per token", (run) => run.decode_flops_per_token, count],
      ["loss", (run) => run.loss, fixed(4)],
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
  tables.forEach((mark) => mark());
}

[heading, kv, verdicts, compute, fits, lossCurves, allRuns, conventions].forEach((part) => part());
refresh();
let waiting = null;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(refresh, 120);
});
