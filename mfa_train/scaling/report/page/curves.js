// Loss curves of all runs.

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
      counts: () => x.value === "tokens",
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
