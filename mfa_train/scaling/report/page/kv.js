// Loss against KV cache: the picture, its marks, the table of its losses.

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
        first: index === 0,
        aside: (index - (same.length - 1) / 2) * step,
        before: index * step,
        behind: (same.length - 1 - index) * step,
      })),
  );
}

// The axis tells the cache.
const withoutShare = (variant) => variant.replace(new RegExp(looks.SHARE), "");
const MARKS = [
  ["filled", looks.ON, "shown to be on the KV frontier: all others with no more cache are worse, or there are none"],
  ["hollow", null, "not shown to be on the KV frontier, nor off it"],
  ["cross", looks.OFF, "shown to be off the KV frontier: another with no more cache is better"],
];
const markOf = (row) => (MARKS.find(([, told]) => told === row.frontier) ?? MARKS[1])[0];

function saidOf(variant) {
  const row = against.get(variant);
  if (!row) return variant === result.reference ? "the reference" : "–";
  if (row.said !== "open") return row.said;
  if (row.sizes_differ) return "not shown; sizes differ";
  return row.more_seeds === null ? "not shown" : `not shown; ${row.more_seeds} more seed${row.more_seeds === 1 ? "" : "s"}`;
}

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
    cells.map(([name, row]) => [name, `${sizeName(row.size)}, ${count(row.cell_tokens)} tokens`]),
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
      marksX: () => besideEachOther(chosen()).filter(({first}) => first).map(({row}) => row.kv_bytes_per_token),
      key: (legend, narrow) => {
        for (const [mark, , told] of MARKS)
          if (chosen().some((row) => on.has(row.variant) && markOf(row) === mark)) markEntry(legend, mark, told);
        if (narrow) for (const row of chosen()) if (on.has(row.variant)) entry(legend, row.variant);
      },
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
              mark: markOf(row),
              ...place,
              name: withoutShare(row.variant),
              info: [
                row.variant,
                `${short(row.kv_bytes_per_token)} KV bytes per token, ${count(row.tokens)} tokens`,
                `loss ${row.loss.value.toFixed(4)} ${bracketed(row.loss, fixed(4))}, ${row.all_runs ?? row.runs.length} run(s)`,
                `KV frontier: ${row.frontier}`,
              ].join("\n"),
            },
          ],
        })),
    },
    [which, how],
  );
  const holder = host.appendChild(element("div"));
  if (rows.some((row) => row.decode_flops_per_token))
    host.appendChild(
      element(
        "p",
        {},
        `Decode FLOPs: of one token, all layers${result.decode_context ? `, behind ${result.decode_context.toLocaleString("en-US")} cached tokens` : ""}. ` +
          "All pairs: the mean over all sizes, token budgets and seeds that both variants have.",
      ),
    );
  const refill = () => {
    holder.replaceChildren();
    table(
      holder,
      "kv-table",
      [
        ["variant", (row) => label(row.variant)],
        ["KV bytes / token", (row) => row.kv_bytes_per_token],
        ["decode FLOPs / token", (row) => row.decode_flops_per_token, count],
        ["loss", (row) => row.loss, fixed(4)],
        [`loss less ${label(result.reference)}'s, all pairs`, (row) => against.get(row.variant)?.difference, signed(3)],
        ["that is", (row) => saidOf(row.variant)],
        ["on the KV frontier", (row) => row.frontier.replace(" it", "")],
        ["runs", (row) => row.all_runs ?? row.runs.length],
        ["tokens", (row) => row.tokens, count],
        ["parameters", (row) => row.params, count],
        ["loss rests on", (row) => RESTS_ON[row.by] ?? "–"],
      ],
      [...chosen()].sort((a, b) => a.loss.value - b.loss.value),
      ofVariant,
    );
    hideSwitched();
    tables.forEach((mark) => mark());
  };
  refill();
  if (result.kv_at_equal_loss.length) {
    const answered = result.kv_at_equal_loss.filter((row) => row.kv_bytes_needed.value !== null),
      left = result.kv_at_equal_loss.length - answered.length;
    host.appendChild(element("h3", {}, "KV bytes for the same loss"));
    if (left)
      host.appendChild(element("p", {}, `${left} others have no answer; kv_at_equal_loss.csv gives the reason of each.`));
    table(
      host,
      "kv-equal",
      [
        ["attention", (row) => row.attention],
        ["to reach", (row) => label(row.variant)],
        ["at", (row) => ACCOUNTING[row.accounting]],
        ["size", (row) => sizeName(row.size)],
        ["tokens", (row) => row.cell_tokens, count],
        ["needs KV bytes", (row) => row.kv_bytes_needed, 3],
        ["that one's", (row) => row.kv_bytes_per_token],
        ["ratio", (row) => row.ratio, 3],
      ],
      answered,
    );
  }
}
