// A chart is drawn from series {variant, kind: line | points | band, color, dash, points: [{x, y, low, high, info}]}.
// Text of runs comes from outside: it is only ever set as textContent.

const tip = document.getElementById("tip");
const pen = document.createElement("canvas").getContext("2d"), // it measures text alone
  NAME_FONT = `600 11.5px ${getComputedStyle(document.body).fontFamily}`; // as .name in page.css
const NS = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, text = null) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function shape(parent, name, attributes, text = null) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  parent.appendChild(made);
  return made;
}

function superscript(number) {
  return String(number).replace(/./g, (digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]));
}

function short(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) {
    let [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    mantissa = String(Number(mantissa));
    return `${mantissa === "1" ? "" : mantissa + "·"}10${superscript(Number(exponent))}`;
  }
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(digits)));
}

// 281304 as 281k, 2.26e6 as 2.26M; FLOPs of a whole training run are told by short().
function count(value, digits = 3) {
  const rounded = Number(Number(value).toPrecision(digits));
  for (const [unit, sign] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (rounded >= unit) return `${Number((rounded / unit).toPrecision(digits))}${sign}`;
  return String(rounded);
}

// With as many digits as it takes for all of them to differ.
function tickLabels(values, digits, way = short) {
  for (let more = digits; more < 9; more++) {
    const told = values.map((value) => way(value, more));
    if (new Set(told).size === told.length) return told;
  }
  return values.map(String);
}

function ticks(low, high, log, count) {
  const found = [];
  if (log) {
    const decades = Math.log10(high / low);
    const steps =
      decades > count ? [1] : decades > 1.2 ? [1, 2, 5] : decades > 0.35 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : null;
    if (steps) {
      const stride = Math.max(1, Math.ceil(decades / count));
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += stride)
        for (const step of steps) found.push(step * 10 ** power);
      const within = found.filter((value) => value >= low * 0.9999 && value <= high * 1.0001);
      if (within.length > 1) return within;
    }
  }
  const raw = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw) * power;
  for (let index = Math.ceil(low / step); index * step <= high + step * 1e-9; index++) found.push(index * step);
  return found;
}

class Chart {
  // options: {x: label, y: label, logX, logY, series(): [...]}, and where they are needed marksX (where ticks stand),
  // counts (whether x counts tokens or parameters), key (what the legend holds), cut and crop (how far y goes); `tools` are more buttons for its bar
  constructor(host, options, tools = []) {
    Object.assign(this, options);
    this.bar = host.appendChild(element("div", {class: "tools"}));
    for (const tool of tools) this.bar.appendChild(tool);
    for (const axis of ["logX", "logY"]) {
      const button = this.bar.appendChild(
        element("button", {type: "button", "data-axis": axis}, `log ${axis[3].toLowerCase()}`),
      );
      button.addEventListener("click", () => {
        this[axis] = !this[axis];
        this.draw();
      });
      this[axis + "Button"] = button;
    }
    const figure = host.appendChild(element("figure"));
    this.svg = shape(figure, "svg", {role: "img", "aria-label": `${options.y()} over ${options.x()}`});
    this.legend = figure.appendChild(element("div", {class: "legend"}));
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerdown", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => {
      tip.hidden = true;
    });
    charts.push(this);
  }

  draw() {
    for (const axis of ["logX", "logY"])
      this[axis + "Button"].setAttribute("aria-pressed", String(Boolean(this[axis])));
    const width = Math.max(300, this.svg.parentNode.clientWidth),
      height = Math.round(Math.min(430, Math.max(280, width * 0.52)));
    this.svg.replaceChildren();
    this.legend.replaceChildren();
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const usable = (point) =>
      point.y !== null && point.x !== null && (!this.logX || point.x > 0) && (!this.logY || point.y > 0);
    const series = this.series()
      .filter((one) => on.has(one.variant))
      .map((one) => ({...one, points: one.points.filter(usable)}));
    const all = series.flatMap((one) => one.points);
    if (!all.length) {
      shape(
        this.svg,
        "text",
        {x: width / 2, y: height / 2, "text-anchor": "middle"},
        variants.some((name) => on.has(name)) ? "nothing to draw here" : "all variants are switched off",
      );
      this.spots = [];
      return;
    }
    const box = {left: 58, right: width - 14, top: 12, bottom: height - 50};
    const inset = Math.max(0, ...all.map((point) => Math.abs(point.aside ?? 0) + (point.mark ? 9 : 0)));
    const scaleX = this.scale(
      all.map((point) => point.x),
      this.logX,
      box.left + inset,
      box.right - inset,
      this.marksX ? 0 : 0.04,
    );
    const ends = (this.cut ? cutEnds(all) : all.flatMap((point) => [point.y, point.low, point.high])).filter(
      (y) => y != null && (!this.logY || y > 0),
    );
    const scaleY = this.scale(this.crop ? cropped(ends) : ends, this.logY, box.bottom, box.top, 0.07);
    this.axes(box, scaleX, scaleY, width, height);
    const clip = `clip${charts.indexOf(this)}`;
    const area = shape(shape(this.svg, "clipPath", {id: clip}), "rect", {
      x: box.left,
      y: box.top - 6,
      width: box.right - box.left + 6,
      height: box.bottom - box.top + 6,
    });
    area.setAttribute("fill", "none");
    const plot = shape(this.svg, "g", {"clip-path": `url(#${clip})`});
    this.spots = [];
    this.labels = [];
    this.marked = [];
    for (const kind of ["band", "line", "points"])
      for (const one of series) if (one.kind === kind && one.points.length) this.mark(plot, one, scaleX, scaleY, box);
    const narrow = width < 560;
    for (const label of this.marked) this.label(label, !narrow);
    if (this.key) this.key(this.legend, narrow);
    else for (const name of new Set(series.filter((one) => one.points.length).map((one) => one.variant))) entry(this.legend, name);
  }

  scale(values, log, from, to, margin) {
    const turn = log ? Math.log : (value) => value;
    let low = Infinity,
      high = -Infinity;
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    let [a, b] = [turn(low), turn(high)];
    const room = (b - a) * margin || Math.abs(a) * 0.05 || 1;
    [a, b] = [a - room, b + room];
    const back = log ? Math.exp : (value) => value;
    return {at: (value) => from + ((turn(value) - a) / (b - a)) * (to - from), low: back(a), high: back(b), log};
  }

  axes(box, scaleX, scaleY, width, height) {
    const within = (value, scale) => value >= scale.low * (1 - 1e-9) && value <= scale.high * (1 + 1e-9);
    const marksX = this.marksX
      ? this.marksX().filter((value) => within(value, scaleX))
      : ticks(scaleX.low, scaleX.high, scaleX.log, Math.max(3, Math.floor(width / 110)));
    const toldX = this.marksX ? marksX.map((value) => Math.round(value).toLocaleString("en-US")) : tickLabels(marksX, 3, this.counts?.() ? count : short);
    let last = -Infinity;
    marksX.forEach((value, index) => {
      const x = scaleX.at(value),
        half = 3.6 * toldX[index].length;
      shape(this.svg, "line", {class: "grid", x1: x, x2: x, y1: box.top, y2: box.bottom});
      const below = x - half < last + 6; // in a second row, where there is no room beside the one before
      if (below && !this.marksX) return;
      last = below ? last : x + half;
      shape(this.svg, "text", {x, y: box.bottom + (below ? 29 : 16), "text-anchor": "middle"}, toldX[index]);
    });
    last = Infinity;
    const marksY = ticks(scaleY.low, scaleY.high, scaleY.log, 6),
      toldY = tickLabels(marksY, 4);
    marksY.forEach((value, index) => {
      const y = scaleY.at(value);
      shape(this.svg, "line", {class: "grid", x1: box.left, x2: box.right, y1: y, y2: y});
      if (last - y < 15) return;
      last = y;
      shape(this.svg, "text", {x: box.left - 7, y: y + 4, "text-anchor": "end"}, toldY[index]);
    });
    shape(this.svg, "text", {x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle"}, this.x());
    shape(
      this.svg,
      "text",
      {
        x: 13,
        y: (box.top + box.bottom) / 2,
        "text-anchor": "middle",
        transform: `rotate(-90 13 ${(box.top + box.bottom) / 2})`,
      },
      this.y(),
    );
  }

  mark(plot, one, scaleX, scaleY, box) {
    const path = (points, key) =>
      points.map((point) => `${scaleX.at(point.x).toFixed(1)} ${scaleY.at(point[key]).toFixed(1)}`).join("L");
    if (one.kind === "band") {
      const known = one.points.filter(
        (point) => point.low !== null && point.high !== null && (!this.logY || point.low > 0),
      );
      if (known.length > 1)
        shape(plot, "path", {
          d: `M${path(known, "low")}L${path([...known].reverse(), "high")}Z`,
          fill: one.color,
          opacity: 0.16,
        });
      return;
    }
    if (one.kind === "line")
      shape(plot, "path", {
        d: `M${path(one.points, "y")}`,
        fill: "none",
        stroke: one.color,
        "stroke-width": one.thin ? 1 : 1.8,
        "stroke-dasharray": one.dash || "none",
        opacity: one.thin ? 0.75 : 1,
      });
    for (const point of one.points) {
      const x = scaleX.at(point.x) + (point.aside || 0),
        y = scaleY.at(point.y);
      const bar = one.kind === "points" && point.low != null && point.high != null,
        ends = bar ? {top: scaleY.at(point.high), bottom: scaleY.at(point.low)} : {};
      if (point.info) this.spots.push({x, y, info: point.info, ...ends});
      if (one.kind !== "points") continue;
      if (bar)
        shape(plot, "line", {
          x1: x,
          x2: x,
          y1: ends.bottom,
          y2: ends.top,
          stroke: one.color,
          "stroke-width": 1.5,
        });
      if (point.mark === "cross")
        shape(plot, "path", {d: crossAt(x, y, (one.radius || 4) - 1), stroke: one.color, "stroke-width": 2.4, fill: "none"});
      else
        shape(plot, "circle", {
          cx: x,
          cy: y,
          r: one.radius || 4,
          fill: point.mark === "hollow" ? "var(--paper)" : one.color,
          stroke: one.color,
          "stroke-width": point.mark ? 2.2 : 1.6,
        });
      if (point.name) this.marked.push({...point, at: x, y, color: one.color, box});
    }
  }

  // Right of its point and those beside it, or left, or further up or down, where no other label, mark or bar stands.
  // `always`: across bars, where there is no other place; else the legend alone tells it.
  label({name, before = 0, behind = 0, at, y, color, box}, always) {
    pen.font = NAME_FONT;
    const width = pen.measureText(name).width,
      sides = [at + behind + 10, at - before - 10 - width].filter(
        (from) => from >= box.left && from + width <= box.right + 12,
      );
    const free = (from, height, bars) =>
      height > box.top &&
      height < box.bottom &&
      this.labels.every(
        (other) => Math.abs(other.y - height) > 12 || other.from > from + width + 4 || other.from + other.width + 4 < from,
      ) &&
      this.spots.every(
        ({x, y, top = y, bottom = y}) =>
          (bars ? top > height + 6 || bottom < height - 14 : Math.abs(y - height + 4) > 11) ||
          x < from - 7 ||
          x > from + width + 7,
      );
    for (const bars of always ? [true, false] : [true])
      for (const shift of [0, 13, -13, 26, -26, 39, -39, 52, -52])
        for (const from of sides) {
          const height = y + 4 + shift;
          if (!free(from, height, bars)) continue;
          this.labels.push({from, width, y: height});
          const style = `fill:color-mix(in oklab, ${color} 62%, var(--ink))`;
          shape(this.svg, "text", {class: "name", style, x: from, y: height}, name);
          return;
        }
  }

  hover(event) {
    const frame = this.svg.getBoundingClientRect(),
      stretch = this.svg.viewBox.baseVal.width / frame.width;
    const x = (event.clientX - frame.left) * stretch,
      y = (event.clientY - frame.top) * stretch;
    let best = null,
      nearest = 26 ** 2;
    for (const spot of this.spots) {
      const distance = (spot.x - x) ** 2 + (spot.y - y) ** 2;
      if (distance < nearest) [best, nearest] = [spot, distance];
    }
    tip.hidden = best === null;
    if (best === null) return;
    tip.textContent = best.info;
    const right = event.clientX + 14 + tip.offsetWidth > innerWidth;
    tip.style.left = `${Math.max(4, right ? event.clientX - tip.offsetWidth - 14 : event.clientX + 14)}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4))}px`;
  }
}

const crossAt = (x, y, r) => `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`;

// A variant's dot and name, or a mark's, as legends have them.
function entry(host, variant, text = label(variant)) {
  const made = host.appendChild(element("span"));
  made.appendChild(element("span", {class: "dot", style: `background:${colorOf(variant)}`}));
  made.appendChild(document.createTextNode(text));
}

function markEntry(host, mark, text) {
  const made = host.appendChild(element("span")),
    svg = shape(made, "svg", {viewBox: "0 0 14 14", "aria-hidden": "true"}),
    stroke = {stroke: "currentColor", "stroke-width": 2};
  if (mark === "cross") shape(svg, "path", {d: crossAt(7, 7, 4.5), fill: "none", ...stroke});
  else shape(svg, "circle", {cx: 7, cy: 7, r: 5, fill: mark === "hollow" ? "none" : "currentColor", ...stroke});
  made.appendChild(document.createTextNode(text));
}

// Values, and their intervals as far as the values' own span beyond them: two seeds have intervals that leave no room.
function cutEnds(points) {
  const values = points.map((point) => point.y),
    least = Math.min(...values),
    most = Math.max(...values),
    room = most - least || Infinity;
  const lows = points.filter((point) => point.low != null).map((point) => Math.max(point.low, least - room)),
    highs = points.filter((point) => point.high != null).map((point) => Math.min(point.high, most + room));
  return [...values, ...lows, ...highs];
}

// The first few records of a run are far above all that matters later.
function cropped(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return [sorted[0], sorted[Math.floor((sorted.length - 1) * 0.93)]];
}
