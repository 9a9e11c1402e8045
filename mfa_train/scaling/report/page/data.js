// What the page carries with it: all numbers come from fit.json. And what variants and sizes are called and look like.

const {result, curves, looks} = JSON.parse(document.getElementById("data").textContent);
const {SAME_CACHE} = looks;
const charts = [],
  tables = [],
  compared = Object.keys(result.variants),
  variants = Object.keys(looks.variants),
  on = new Set(variants);
// On dark paper every color is lifted a little: --own is how much of it stays.
const colorOf = (variant) => `color-mix(in oklab, ${looks.variants[variant]?.color ?? "#777777"} var(--own), white)`;
const dashOf = (variant) => looks.variants[variant]?.dash ?? "none";
// "mfa 0.125 of MHA's KV" is "mfa 0.125×KV" where space is short; the whole name stands in the run's info.
const label = (variant) => variant.replace(new RegExp(looks.SHARE, "g"), " $1×KV");
const sizeName = (size) => result.sizes[size] ?? size ?? "–";
const against = new Map(result.answer.against.map((row) => [row.variant, row]));
const byName = new Map(result.runs.map((run) => [run.name, run]));
const used = result.runs.filter((run) => !run.excluded);
const ACCOUNTING = {parameters: "equal parameters × tokens", flops: "equal training FLOPs"};
const section = (id) => document.getElementById(id);
const lossLabel = `loss (${result.conventions.loss})`;
