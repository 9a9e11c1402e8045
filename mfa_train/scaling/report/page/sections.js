// The sections with a chart. Each is called once and draws itself again when a switch or a menu changes.

const RESTS_ON = {measured: "runs", law: "its law"};

// Points of nearly the same cache stand side by side by their loss, names beside them all.
function besideEachOther(rows) {
  const step = 10,
    groups = [];
  for (const row of [...rows].sort((a, b) => a.kv_bytes_per_token - b.kv_bytes_per_token)) {
    const last = groups.at(-1);
    if (last && row.kv_bytes_per_token < SAME_CACHE * last[0].kv_bytes_per_token) last.push(row);
    else groups.push([row]);
  }
  return groups.flatMap((same) =>
    same
      .sort((a, b) => a.loss.value - b.loss.value)
      .map((row, index) => ({
        row,
        aside: (index - (same.length - 1) / 2) * step,
        before: index * step,
        behind: (same.length - 1 - index) * step,
      })),
  );
}

// The axis tells the cache.
const withoutShare = (variant) => variant.replace(new RegExp(looks.SHARE), "");

function kv() {
  const rows = result.loss_over_kv,
    host = section("kv");
  if (!rows.length) return host.remove();
  const key = (row) => `${row.size}/${row.cell_tokens}`;
  const cells = [...new Map(rows.map((row) => [key(row), row]))].reverse();
  const redraw = () => {
    chart.draw();
    refill();
  };
  const which = choice(
    "cell",
    cells.map(([name, row]) => [name, `${short(row.params)} parameters, ${short(row.cell_tokens)} tokens`]),
    redraw,
  );
  const how = choice("kv-accounting", Object.entries(ACCOUNTING), redraw);
  const chosen = () => rows.filter((row) => key(row) === which.value && row.accounting === how.value);
  const chart = new Chart(
    host,
    {
      logX: true,
      logY: false,
      cut: true,
      x: () => "KV cache (bytes per token, all layers)",
      y: () => lossLabel,
      series: () =>
        besideEachOther(chosen()).map(({row, ...place}) => ({
          variant: row.variant,
          kind: "points",
          color: colorOf(row.variant),
          radius: 6,
          points: [
            {
              x: row.kv_bytes_per_token,
              y: row.loss.value,
              low: row.loss.low,
              high: row.loss.high,
              hollow: row.on_frontier === false,
              ...place,
              name: withoutShare(row.variant),
              info: [
                row.variant,
                `${short(row.kv_bytes_per_token)} KV bytes per token, ${short(row.tokens)} tokens`,
                `loss ${short(row.loss.value, 5)}, ${row.all_runs ?? row.runs.length} run(s)`,
              ].join("\n"),
            },
          ],
        })),
    },
    [which, how],
  );
  const holder = host.appendChild(element("div"));
  const refill = () => {
    holder.replaceChildren();
    table(
      holder,
      "kv-table",
      [
        ["variant", (row) => row.variant],
        ["KV bytes per token", (row) => row.kv_bytes_per_token],
        ["loss", (row) => row.loss, 5],
        ["parameters", (row) => row.params],
        ["tokens", (row) => row.tokens],
        ["rests on", (row) => RESTS_ON[row.by] ?? "–"],
        ["runs", (row) => row.all_runs ?? row.runs.length],
        ["on the frontier", (row) => ({true: "yes", false: "no"})[row.on_frontier] ?? "–"],
      ],
      chosen(),
      ofVariant,
    );
    hideSwitched();
  };
  refill();
  if (result.kv_at_equal_loss.length) {
    const answered = result.kv_at_equal_loss.filter((row) => row.kv_bytes_needed.value !== null),
      left = result.kv_at_equal_loss.length - answered.length;
    host.appendChild(element("h3", {}, "KV bytes for the same loss"));
    if (left)
      host.appendChild(element("p", {}, `${left} more have no answer; kv_at_equal_loss.csv gives the reason of each.`));
    table(
      host,
      "kv-equal",
      [
        ["attention", (row) => row.attention],
        ["to reach", (row) => row.variant],
        ["at", (row) => ACCOUNTING[row.accounting]],
        ["size", (row) => row.size],
        ["tokens", (row) => row.cell_tokens],
        ["needs KV bytes", (row) => row.kv_bytes_needed],
        ["that one's", (row) => row.kv_bytes_per_token],
        ["ratio", (row) => row.ratio],
      ],
      answered,
    );
  }
}

function compute() {
  const host = section("compute");
  if (!result.frontiers.length)
    host.appendChild(element("p", {}, "No law could be fitted to these runs, so there are no lines; the reasons stand with the laws below."));
  const how = choice("accounting", Object.entries(ACCOUNTING), () => {
    chart.draw();
    refill();
  });
  const spent = (run) => (how.value === "flops" ? run.flops : 6 * run.params * run.tokens);
  const chart = new Chart(
    host,
    {
      logX: true,
      logY: false,
      y: () => lossLabel,
      x: () => (how.value === "flops" ? "training FLOPs" : "6 × parameters × tokens (FLOPs)"),
      series: () => [
        ...result.frontiers
          .filter((one) => one.accounting === how.value)
          .flatMap((one) => {
            const points = one.points.map((point) => ({
              x: point.compute,
              y: point.value,
              low: point.low,
              high: point.high,
              info: [
                `${one.variant}, best size`,
                `${short(point.compute)} FLOPs`,
                `loss ${short(point.value, 5)} ${bracketed(point, 5)}`,
              ].join("\n"),
            }));
            return ["band", "line"].map((kind) => ({
              variant: one.variant,
              kind,
              color: colorOf(one.variant),
              dash: dashOf(one.variant),
              points,
            }));
          }),
        ...variants.map((variant) => ({
          variant,
          kind: "points",
          color: colorOf(variant),
          radius: 2.5,
          points: used
            .filter((run) => run.variant === variant)
            .map((run) => ({x: spent(run), y: run.loss, info: runInfo(run)})),
        })),
      ],
    },
    [how],
  );
  const against = result.at_budgets.filter((row) => row.difference);
  if (against.length) {
    host.appendChild(element("h3", {}, `Against ${result.reference}`));
    const what = choice(
      "against",
      [
        ["difference", "loss difference"],
        ["multiplier", "compute multiplier"],
      ],
      () => difference.draw(),
    );
    const difference = new Chart(
      host,
      {
        logX: true,
        logY: false,
        x: chart.x,
        y: () =>
          what.value === "difference"
            ? `loss – ${result.reference}'s`
            : `compute ${result.reference} needs for it (×)`,
        series: () =>
          variants.flatMap((variant) => {
            const points = against
              .filter((row) => row.variant === variant && row.accounting === how.value)
              .map((row) => ({
                x: row.compute,
                y: row[what.value].value,
                low: row[what.value].low,
                high: row[what.value].high,
                info: [
                  `${variant} against ${result.reference}`,
                  `${short(row.compute)} FLOPs`,
                  `${short(row[what.value].value)} ${bracketed(row[what.value])}`,
                ].join("\n"),
              }));
            return ["line", "points"].map((kind) => ({
              variant,
              kind,
              color: colorOf(variant),
              dash: dashOf(variant),
              points,
            }));
          }),
      },
      [what],
    );
    how.addEventListener("change", () => difference.draw());
  }
  const holder = host.appendChild(element("div"));
  const refill = () => {
    holder.replaceChildren();
    table(
      holder,
      "budgets",
      [
        ["variant", (row) => row.variant],
        ["FLOPs", (row) => row.compute],
        ["loss", (row) => row.loss, 5],
        [`loss – ${result.reference}'s`, (row) => row.difference, 3],
        [`the same at ${result.reference}'s N and D`, (row) => row.difference_at_same_shape, 3],
        [`compute ${result.reference} needs for it (×)`, (row) => row.multiplier, 3],
        ["best N", (row) => row.params, 3],
        ["best D", (row) => row.tokens, 3],
        ["", (row) => (row.extrapolated ? "extrapolated" : "")],
      ],
      result.at_budgets.filter((row) => row.accounting === how.value),
      ofVariant,
    );
    hideSwitched();
  };
  refill();
}

function fits() {
  const host = section("fits"),
    laws = Object.entries(result.variants).map(([variant, one]) => ({variant, ...one.fit}));
  const loss = (law, n, d) => law.E.value + law.A.value / n ** law.alpha.value + law.B.value / d ** law.beta.value;
  const axis = choice(
    "fit-axis",
    [
      ["tokens", "over tokens, a line for each size"],
      ["params", "over parameters, a line for each budget"],
    ],
    () => chart.draw(),
  );
  const chart = new Chart(
    host,
    {
      logX: true,
      logY: true,
      y: () => lossLabel,
      x: () => (axis.value === "tokens" ? "training tokens D" : "parameters N"),
      series: () =>
        laws.flatMap((law) => {
          const own = used.filter((run) => run.variant === law.variant),
            other = axis.value === "tokens" ? "params" : "tokens";
          const base = {variant: law.variant, color: colorOf(law.variant)};
          const dots = {
            ...base,
            kind: "points",
            radius: 3,
            points: own.map((run) => ({x: run[axis.value], y: run.loss, info: runInfo(run)})),
          };
          if (law.method === "none") return [dots];
          const range = own.map((run) => Math.log(run[axis.value])),
            low = Math.min(...range),
            high = Math.max(...range);
          const fixed = [...new Map(own.map((run) => [run[other].toPrecision(2), run[other]])).values()].slice(0, 12);
          return [
            dots,
            ...fixed.map((value) => ({
              ...base,
              kind: "line",
              dash: dashOf(law.variant),
              points: Array.from({length: 30}, (_, index) => {
                const x = Math.exp(low + ((high - low) * index) / 29);
                return {x, y: axis.value === "tokens" ? loss(law, value, x) : loss(law, x, value)};
              }),
            })),
          ];
        }),
    },
    [axis],
  );
  table(
    host,
    "laws",
    [
      ["variant", (row) => row.variant],
      ["E", (row) => row.E ?? null],
      ["A", (row) => row.A ?? null, 3],
      ["α", (row) => row.alpha ?? null],
      ["B", (row) => row.B ?? null, 3],
      ["β", (row) => row.beta ?? null],
      ["fit", (row) => row.method],
      ["runs", (row) => row.runs ?? null],
      ["rms residual", (row) => row.rms_residual ?? null, 3],
      ["between seeds", (row) => row.seed_scatter ?? null, 3],
      ["said of it", (row) => [row.reason, ...row.notices].filter(Boolean).join("; ")],
    ],
    laws,
    ofVariant,
  );
}

function verdicts() {
  const host = section("verdicts");
  if (!result.verdicts.length) host.appendChild(element("p", {}, "There are no pairs in these runs."));
  table(
    host,
    "pairs",
    [
      ["variants", (row) => `${row.a} – ${row.b}`],
      ["verdict", (row) => row.says],
      ["loss difference", (row) => row.difference, 3],
      ["at equal FLOPs", (row) => row.difference_at_equal_flops, 3],
      ["that rests on", (row) => RESTS_ON[row.equal_flops_by] ?? "–"],
      ["tokens the second needs for the first's loss (×)", (row) => row.token_multiplier, 3],
      ["these rest on", (row) => RESTS_ON[row.token_multiplier_by] ?? "–"],
      ["KV bytes, first / second", (row) => row.kv_ratio, 3],
      ["p (paired t)", (row) => row.p_t, 2],
      ["p (sign flips)", (row) => row.p_signs, 2],
      ["p (Holm)", (row) => row.p_holm, 2],
      ["at equal FLOPs", (row) => row.p_holm_at_equal_flops, 2],
      ["pairs", (row) => row.pairs],
      ["sizes × seeds", (row) => row.units],
    ],
    result.verdicts,
    (row) => ({"data-variant": row.a, "data-other": row.b}),
  );
}

function lossCurves() {
  const host = section("curves");
  if (!curves.length) return host.remove();
  const x = choice(
    "curve-x",
    [
      ["tokens", "over tokens"],
      ["flops", "over FLOPs"],
      ["seconds", "over time"],
    ],
    () => chart.draw(),
  );
  const shown = [
    ["val/loss", "held-out loss"],
    ["train/loss", "training loss"],
  ];
  const evaluations = (curve) => curve["val/loss"].filter((loss) => loss !== null).length;
  if (curves.every((curve) => evaluations(curve) < 2)) shown.reverse(); // evaluated at the end alone: no curves
  const y = choice("curve-y", shown, () => chart.draw());
  const chart = new Chart(
    host,
    {
      logX: true,
      logY: false,
      crop: true,
      y: () => `${y.value === "val/loss" ? "held-out" : "training"} loss (nats per token)`,
      x: () => ({tokens: "tokens", flops: "training FLOPs", seconds: "seconds"})[x.value],
      series: () =>
        curves.map((curve) => {
          const run = byName.get(curve.name);
          return {
            variant: run.variant,
            kind: "line",
            thin: true,
            color: colorOf(run.variant),
            dash: run.excluded ? "2 3" : dashOf(run.variant),
            points: curve[x.value].map((at, index) => ({
              x: at,
              y: curve[y.value][index],
              info: [
                run.name + (run.excluded ? ` (${run.status})` : ""),
                `${short(at)} ${x.value}, loss ${short(curve[y.value][index], 5)}`,
              ].join("\n"),
            })),
          };
        }),
    },
    [x, y],
  );
}
