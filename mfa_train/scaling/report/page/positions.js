// Held-out loss by position in the window, where runs tell it: a section behind the loss curves.

function lossByPosition() {
  const host = element("section", {id: "positions"}),
    inCell = (row) => `${row.size}/${row.cell_tokens}`,
    cells = [...new Map(result.loss_by_position.map((row) => [inCell(row), row]))].reverse();
  (section("curves") ?? section("fits")).after(host);
  host.appendChild(element("h2", {}, "Loss by position in the window"));
  host.appendChild(
    element(
      "p",
      {},
      "Means over runs of the held-out loss of targets that could look at so many tokens, and at more than half as many: a line that " +
        "goes on falling still gains from what stands further back.",
    ),
  );
  const which = choice(
    "positions-cell",
    cells.map(([name, row]) => [name, `${sizeName(row.size)}, ${count(row.cell_tokens)} tokens`]),
    () => chart.draw(),
  );
  const shown = () => result.loss_by_position.filter((row) => inCell(row) === which.value);
  const before = result.loss_by_position.some((row) => row.before !== null);
  if (before) host.lastChild.textContent += " Dotted: before the first step, with the weights that the run began with.";
  const series = (kind, of) =>
    [...new Set(shown().map((row) => row.variant))].map((variant) => ({
      variant,
      kind,
      color: colorOf(variant),
      dash: of === "before" ? "2 3" : dashOf(variant),
      radius: 3,
      points: shown()
        .filter((row) => row.variant === variant)
        .map((row) => ({
          x: row.position,
          y: row[of],
          info:
            `${variant}${of === "before" ? ", before the first step" : ""}\n` +
            `${row.position.toLocaleString("en-US")} tokens: loss ${short(row[of], 5)}, ${row.runs} ${row.runs === 1 ? "run" : "runs"}`,
        })),
    }));
  const chart = new Chart(
    host,
    {
      logX: true,
      logY: false,
      x: () => "tokens that a target could look at, at most",
      y: () => "held-out loss (nats per token)",
      marksX: () => [...new Set(shown().map((row) => row.position))],
      series: () => [...series("line", "before"), ...series("line", "loss"), ...series("points", "loss")],
    },
    [which],
  );
}

lossByPosition();
refresh();
