// The laws, and what follows from them.

function compute() {
  const host = section("compute");
  if (!result.frontiers.length) host.querySelector("p").remove(); // it tells of lines
  if (result.answer.why_no_law) host.appendChild(element("p", {class: "why"}, result.answer.why_no_law));
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
  const answered = result.at_budgets.filter((row) => row.difference);
  if (answered.length) {
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
            const points = answered
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
        ["variant", (row) => label(row.variant)],
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
  const fitted = laws.some((law) => law.method !== "none");
  const said = (row) => [...(fitted ? [row.reason] : []), ...row.notices].filter(Boolean).join("; ");
  if (fitted) drawLaws(host, laws);
  else host.querySelector("p").remove(); // it tells of lines
  table(
    host,
    "laws",
    [
      ["variant", (row) => label(row.variant)],
      ...(fitted
        ? [
            ["E", (row) => row.E ?? null],
            ["A", (row) => row.A ?? null, 3],
            ["α", (row) => row.alpha ?? null],
            ["B", (row) => row.B ?? null, 3],
            ["β", (row) => row.beta ?? null],
            ["fit", (row) => row.method],
          ]
        : [["no law, since", (row) => row.reason]]),
      ["runs", (row) => row.runs ?? null],
      ["rms residual", (row) => row.rms_residual ?? null, 3],
      ["between seeds", (row) => row.seed_scatter ?? null, 3],
      ...(laws.some(said) ? [["said of it", said]] : []),
    ],
    laws,
    ofVariant,
  );
}

function drawLaws(host, laws) {
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
      counts: () => true,
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
}
