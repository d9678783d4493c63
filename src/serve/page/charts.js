"use strict";
// Small charts without dependencies. A chart's points are [time in ms, value or null], oldest first.

const SVG = "http://www.w3.org/2000/svg";
const [CHART_W, CHART_H] = [1000, 100];

/** An element with classes, text and children. */
function make(tag, classes = "", ...children) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...children);
  return element;
}

/** Sets text only where it differs, so that a selection survives. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

/** A number with about three digits. */
function short(value, unit = "") {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  const text =
    size >= 1e6 ? (value / 1e6).toFixed(1) + "M" :
    size >= 1e4 ? (value / 1e3).toFixed(1) + "k" :
    size >= 100 ? value.toFixed(0) :
    size >= 10 ? value.toFixed(1).replace(/\.0$/, "") :
    value.toFixed(2).replace(/\.?0+$/, "");
  return text + unit;
}

/** Milliseconds for people. */
const latency = (ms) =>
  ms === null || ms === undefined ? "–" : ms >= 1000 ? short(ms / 1000) + " s" : short(ms) + " ms";

/** A latency beside its target, in the target's unit. */
function against(ms, target) {
  const [unit, name] = target >= 1000 ? [1000, "s"] : [1, "ms"];
  return `${short(ms === null ? null : ms / unit)} / ${short(target / unit)} ${name}`;
}

/** A round number at or above `value`. */
function roundUp(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((n) => n * unit).find((n) => n >= value * 0.9999);
}

/** The path of one line; steps hold their value until the next point, areas go back along zero. */
function pathOf(series, from, until, top) {
  const x = (t) => (((t - from) / Math.max(1, until - from)) * CHART_W).toFixed(1);
  const y = (v) => (CHART_H - (Math.min(v, top) / top) * CHART_H).toFixed(1);
  let path = "";
  let begun = null;
  let last = null;
  const end = (t) => {
    if (begun !== null && series.step) path += `H${x(t)}`;
    if (begun !== null && series.area) path += `V${CHART_H}H${x(begun)}Z`;
    begun = null;
  };
  for (const [t, value] of series.points) {
    if (t > until) break;
    if (value === null || value === undefined) {
      if (last !== null) end(series.step ? t : last);
      continue;
    }
    const at = Math.max(t, from);
    if (begun === null) {
      begun = at;
      path += `M${x(at)} ${y(value)}`;
    } else if (series.step) {
      path += `H${x(at)}V${y(value)}`;
    } else {
      path += `L${x(at)} ${y(value)}`;
    }
    last = at;
  }
  if (last !== null) end(series.step ? until : last);
  return path;
}

/** Points of a span, with the one before it, so that a line enters from the left. */
function within(points, from) {
  let first = points.findIndex(([t]) => t >= from);
  if (first < 0) first = points.length;
  return points.slice(Math.max(0, first - 1));
}

/** Draws lines into an SVG element, reusing its paths. */
function draw(svg, list, from, until, top) {
  svg.setAttribute("viewBox", `0 0 ${CHART_W} ${CHART_H}`);
  svg.setAttribute("preserveAspectRatio", "none");
  list.forEach((series, index) => {
    let path = svg.children[index];
    if (!path) path = svg.appendChild(document.createElementNS(SVG, "path"));
    path.setAttribute("class", "s-" + series.name);
    path.setAttribute("d", pathOf({ ...series, points: within(series.points, from) }, from, until, top));
  });
}

/** Largest value of the lines in the span. */
function topOf(list, from) {
  let top = 0;
  for (const { points } of list) for (const [, value] of within(points, from)) if (value > top) top = value;
  return top;
}

/** A chart with a title, a key, the top of its scale, its times, and values under the pointer. */
class Chart {
  /** `most` is the top of the scale, where it is known. */
  constructor(title, format, names, most) {
    Object.assign(this, { format, most });
    this.key = make("span", "key");
    this.values = names.map(([name, label]) => {
      const value = make("span");
      this.key.append(make("i", "k-" + name), `${label} `, value);
      return value;
    });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("aria-label", title);
    this.top = make("span", "top");
    this.none = make("span", "none", "no data");
    this.plot = make("div", "plot", this.svg, this.top, this.none);
    [this.first, this.last] = [make("span"), make("span")];
    this.element = make("figure", "", make("figcaption", "", make("span", "", title), this.key), this.plot,
      make("div", "times", this.first, this.last));
    this.at = null;
    const point = (event) => {
      const box = this.plot.getBoundingClientRect();
      this.at = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      this.read();
    };
    this.plot.addEventListener("pointermove", point);
    this.plot.addEventListener("pointerdown", point);
    this.plot.addEventListener("pointerleave", () => { this.at = null; this.read(); });
  }

  show(list, from, until) {
    Object.assign(this, { list, from, until });
    const top = this.most ?? roundUp(topOf(list, from) * 1.05);
    draw(this.svg, list, from, until, top);
    say(this.top, this.format(top));
    this.none.hidden = list.some(({ points }) => within(points, from).some(([, v]) => v !== null && v !== undefined));
    this.read();
  }

  /** Values under the pointer, or the latest ones. */
  read() {
    if (!this.list) return;
    const at = this.at === null ? this.until : this.from + (this.until - this.from) * this.at;
    this.list.forEach(({ points }, index) => {
      let value = null;
      for (const point of points) {
        if (point[0] > at) break;
        value = point[1];
      }
      say(this.values[index], this.format(value));
    });
    say(this.first, clock(this.from));
    say(this.last, clock(at));
    let cursor = this.svg.querySelector("line");
    if (!cursor) {
      cursor = this.svg.appendChild(document.createElementNS(SVG, "line"));
      cursor.setAttribute("class", "s-cursor");
    }
    const x = this.at === null ? -10 : this.at * CHART_W;
    for (const [name, value] of [["x1", x], ["x2", x], ["y1", 0], ["y2", CHART_H]]) cursor.setAttribute(name, value);
    cursor.style.display = this.at === null ? "none" : "";
  }
}
