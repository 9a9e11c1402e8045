// Two variants, run by run.

// The pair's verdict in a few words: other columns tell by how much.
function saidOfPair(row) {
  const shown = (kind) => row.seeds > 1 && row[`p_holm${kind}`] !== null && row[`p_holm${kind}`] < 0.05,
    side = (kind) => (row[`difference${kind}`].value < 0 ? "better" : "worse"),
    equal = "_at_equal_flops";
  if (!shown("") && !shown(equal)) return row.says.replace(/, at [\d.]+( to [\d.]+)? times the cache$|, at the same cache$/, "");
  if (!shown("")) return `at equal FLOPs the first is ${side(equal)}`;
  if (!shown(equal)) return `the first is ${side("")}`;
  return `the first is ${side("")}, at equal FLOPs ${side("") === side(equal) ? "too" : side(equal)}`;
}

function verdicts() {
  const host = section("verdicts");
  if (!result.verdicts.length) host.appendChild(element("p", {}, "There are no pairs in these runs."));
  table(
    host,
    "pairs",
    [
      ["variants", (row) => `${label(row.a)} – ${label(row.b)}`],
      ["loss difference", (row) => row.difference, signed(3)],
      ["verdict", (row) => saidOfPair(row)],
      ["p (Holm)", (row) => row.p_holm, 2],
      ["more seeds to show it", (row) => row.more_seeds],
      ["p that sizes differ", (row) => row.p_sizes, 2],
      ["KV bytes, first / second", (row) => row.kv_ratio, 3],
      ["loss difference at equal FLOPs", (row) => row.difference_at_equal_flops, signed(3)],
      ["p (Holm) at equal FLOPs", (row) => row.p_holm_at_equal_flops, 2],
      ["that rests on", (row) => RESTS_ON[row.equal_flops_by] ?? "–"],
      ["tokens of the second for the first's loss (×)", (row) => row.token_multiplier, 3],
      ["these rest on", (row) => RESTS_ON[row.token_multiplier_by] ?? "–"],
      ["p (paired t)", (row) => row.p_t, 2],
      ["p (sign flips)", (row) => row.p_signs, 2],
      ["pairs", (row) => row.pairs],
      ["sizes × seeds", (row) => row.units],
    ],
    result.verdicts,
    (row) => ({"data-variant": row.a, "data-other": row.b}),
  );
}
