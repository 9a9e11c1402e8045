// Tables and menus. Text of runs comes from outside: it is only ever set as textContent.

function bracketed({low, high}, how) {
  return `[${low === null ? "–∞" : written(low, how)}, ${high === null ? "∞" : written(high, how)}]`;
}

// Ways to write a number: with so many decimals, whatever its size, and a sign where it is a difference.
const fixed = (decimals) => (value) => value.toFixed(decimals);
const signed = (decimals) => (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(decimals);
const written = (value, how) => (typeof how === "function" ? how(value) : short(value, how));

// An interval, a number or text; the number itself stands in data-value, as fit.json has it. `how` is the number of
// digits or one of the ways above.
function cell(value, how = 4) {
  if (value !== null && typeof value === "object") {
    const made = element(
      "td",
      value.value === null ? {} : {"data-value": value.value},
      value.value === null ? "never" : written(value.value, how),
    );
    if (value.low !== null || value.high !== null)
      made.appendChild(element("span", {class: "range"}, ` ${bracketed(value, how)}`));
    return made;
  }
  if (typeof value === "number") return element("td", {"data-value": value}, written(value, how));
  return element("td", {class: "text" + (String(value ?? "").length > 40 ? " long" : "")}, value ?? "–");
}

// Shadows at the edges say that a table goes on, and a line below it by how many columns.
function table(host, id, columns, rows, rowOf = () => ({})) {
  if (!rows.length) return;
  const made = element("table", {id}),
    head = element("tr"),
    body = element("tbody");
  for (const [title, value, how] of columns) {
    const known = rows.find((row) => value(row) !== null && value(row) !== undefined) ?? rows[0];
    const several = title.split(" ").length > 2 ? " several" : "";
    head.appendChild(element("th", {class: cell(value(known), how).className + several}, title));
  }
  made.appendChild(element("thead")).appendChild(head);
  for (const row of rows) {
    const line = element("tr", rowOf(row));
    for (const [, value, how] of columns) line.appendChild(cell(value(row), how));
    body.appendChild(line);
  }
  made.appendChild(body);
  const frame = host.appendChild(element("div", {class: "frame"})),
    scroll = frame.appendChild(element("div", {class: "scroll", tabindex: "0"})),
    hint = host.appendChild(element("p", {class: "hint"}));
  scroll.appendChild(made);
  const mark = () => {
    const right = scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft > 2,
      edge = scroll.getBoundingClientRect().right,
      hidden = [...head.children].filter((cell) => cell.getBoundingClientRect().right > edge + 2).length;
    frame.classList.toggle("more-right", right);
    frame.classList.toggle("more-below", scroll.scrollHeight - scroll.clientHeight - scroll.scrollTop > 2);
    hint.textContent = right ? `${hidden} more column${hidden === 1 ? "" : "s"} →` : "";
    hint.hidden = !right;
  };
  scroll.addEventListener("scroll", mark, {passive: true});
  tables.push(mark);
}

function choice(id, options, changed) {
  const made = element("select", {id, "aria-label": id});
  options.forEach(([value, text]) => made.appendChild(element("option", {value}, text)));
  made.addEventListener("change", changed);
  return made;
}
