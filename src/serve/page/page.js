// The page: follows api/v1/stream and shows it. Everything from the server is set as text, never as HTML.

const BASE = location.pathname.endsWith("/") ? location.pathname : location.pathname + "/";
const POINTS_MAX = 1200;
const SPAN_MS = 15 * 60_000;
const SHOWN_MAX = 200;
const LOST_MS = 7000;
const CHANGES_SHOWN = 30;

const byId = (id) => document.getElementById(id);
const state = {
  version: -1, now: null, notReady: null, status: null, problems: [], unmatched: null,
  variants: new Map(), history: new Map(), recent: [], heard: 0, rate: null, has: false,
};
const views = new Map();
const models = new Map();

// ---- what is kept -------------------------------------------------------------------------------

const keyOf = ({ namespace, name }) => namespace + "/" + name;
const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

function keep(variant) {
  const key = keyOf(variant);
  state.variants.set(key, variant);
  const history = state.history.get(key) || [];
  state.history.set(key, history);
  const t = state.now;
  if (t === null || (history.length && history[history.length - 1].t >= t)) return;
  const { decision: d, load: l } = variant;
  const ready = d ? Math.max(0, d.current - d.pending) : null;
  history.push({
    t, desired: d?.desired ?? null, current: d?.current ?? null, rate: l.arrivalRatePerSecond,
    capacity: l.capacityPerReplicaPerSecond === null || ready === null ? null : l.capacityPerReplicaPerSecond * ready,
    kv: l.kvCacheUsage, waiting: l.waiting, running: l.running, ttft: l.ttftMs, itl: l.itlMs,
  });
  if (history.length > POINTS_MAX) history.splice(0, history.length - POINTS_MAX);
}

function takeBoard(board) {
  // A restarted sidecar counts its boards anew, and what it does not know is gone.
  if (state.now !== null && board.streamTimeMs !== null && board.streamTimeMs < state.now - SPAN_MS) state.history.clear();
  state.variants.clear();
  takeUpdate({ ...board, removed: [] }, true);
  state.recent = board.recent;
  state.has = true;
  recall();
}

function takeUpdate(update, whole = false) {
  if (!whole && update.version <= state.version) return;
  state.version = update.version;
  state.now = update.streamTimeMs ?? state.now;
  state.notReady = update.notReady;
  update.variants.forEach(keep);
  for (const gone of update.removed) {
    state.variants.delete(keyOf(gone));
    state.history.delete(keyOf(gone));
  }
  state.problems = update.problems ?? state.problems;
  state.unmatched = update.unmatched ?? state.unmatched;
}

function takeStatus(status) {
  const used = status.samples.used ?? 0;
  const at = performance.now();
  const before = state.rate;
  const since = before ? (at - before.at) / 1000 : 0;
  if (!before || since > 1) {
    state.rate = { at, used, perSecond: before && used >= before.used ? (used - before.used) / since : null };
  }
  state.status = status;
  state.notReady = status.notReady;
}

/** Fetches what was recorded before the page was opened, where the sidecar records. */
const RECALLED = {
  desired: ["inferno_desired_replicas"], current: ["inferno_current_replicas"],
  rate: ["inferno_arrival_rate_per_second"], kv: ["inferno_kv_cache_usage_ratio"],
  waiting: ["inferno_requests_waiting"], running: ["inferno_requests_running"],
  ttft: ["inferno_ttft_seconds", 1000], itl: ["inferno_itl_seconds", 1000],
};
let recalled = false;
async function recall() {
  if (recalled || state.now === null || !state.variants.size || state.variants.size > SHOWN_MAX) return;
  recalled = true;
  const end = state.now / 1000;
  const points = new Map();
  for (const [field, [metric, factor = 1]] of Object.entries(RECALLED)) {
    const query = new URLSearchParams({ query: metric, start: end - SPAN_MS / 1000, end, step: 5 });
    let result;
    try {
      const answer = await fetch(`${BASE}api/v1/query_range?${query}`);
      if (!answer.ok) return;
      result = (await answer.json()).data.result;
    } catch { return; }
    for (const { metric: labels, values } of result) {
      const key = labels.namespace + "/" + labels.variant_name;
      if (!points.has(key)) points.set(key, new Map());
      const at = points.get(key);
      for (const [seconds, value] of values) {
        const t = seconds * 1000;
        if (!at.has(t)) at.set(t, { t });
        at.get(t)[field] = Number(value) * factor;
      }
    }
  }
  // A sidecar that does not record answers with its present values at every step: no history.
  const moves = [...points.values()].some((at) => new Set([...at.values()].map(({ rate, kv }) => `${rate} ${kv}`)).size > 1);
  if (!moves) return;
  for (const [key, at] of points) {
    const live = state.history.get(key);
    if (!live) continue;
    const first = live.length ? live[0].t : Infinity;
    live.unshift(...[...at.values()].filter(({ t }) => t < first).sort((a, b) => a.t - b.t));
  }
  renderSoon();
}

// ---- judgement ----------------------------------------------------------------------------------

const CALM_FAULTS = new Set(["warming_up", "inventory_unknown"]);
const missed = (variant) => {
  const { slo, load } = variant;
  const over = (value, target) => value !== null && target != null && value > target;
  return slo ? [over(load.ttftMs, slo.ttftMs) && "TTFT", over(load.itlMs, slo.itlMs) && "ITL"].filter(Boolean) : [];
};

/** The one thing to know about a variant: a class, a word, and whether it needs a look. */
function verdict(variant) {
  const { decision: d, input } = variant;
  const stale = input.faults.some(({ reason }) => reason === "stale");
  if (stale) return ["bad", "input stopped", true];
  // A replica that is starting does not report yet.
  const calm = (reason) => CALM_FAULTS.has(reason) || (reason === "replicas_silent" && d?.pending > 0);
  const faults = input.faults.filter(({ reason }) => !calm(reason));
  if (!d) return faults.length ? ["bad", "no input", true] : ["", "no decision yet", true];
  if (faults.length) return ["warn", "input incomplete", true];
  if (d.limit) return ["warn", "short of cards", true];
  if (d.reason === "unreachable") return ["warn", "target unreachable", true];
  if (["at_maximum", "max_replicas"].includes(d.reason)) return ["warn", "at maximum", true];
  const over = missed(variant);
  if (over.length) return ["warn", over.join(", ") + " over SLO", true];
  if (d.desired > d.current) return ["work", "scaling up", false];
  if (d.desired < d.current) return ["work", "scaling down", false];
  if (d.pending > 0) return ["work", d.pending + " starting", false];
  return ["good", "fine", false];
}

// ---- views --------------------------------------------------------------------------------------

function meter(label) {
  const [value, fill] = [make("b"), make("i")];
  const bar = make("div", "bar", fill);
  const element = make("div", "meter", make("span", "", label), value, bar);
  return {
    element,
    /** `share` of what is good; `limits` from which it warns and is bad. */
    set(text, share, limits = [0.8, 1]) {
      say(value, text);
      bar.hidden = share === null || Number.isNaN(share);
      fill.style.width = Math.min(100, Math.max(0, (share ?? 0) * 100)) + "%";
      fill.className = share >= limits[1] ? "is-bad" : share >= limits[0] ? "is-warn" : "";
    },
  };
}

class View {
  constructor(key) {
    this.key = key;
    this.name = make("b");
    this.kind = make("span");
    this.chip = make("span", "chip");
    this.numbers = make("b");
    this.spark = make("div", "spark");
    this.svg = this.spark.appendChild(document.createElementNS(SVG, "svg"));
    this.svg.setAttribute("aria-hidden", "true");
    this.meters = ["load / capacity", "KV cache", "waiting", "TTFT", "ITL"].map(meter);
    this.why = make("p", "why");
    this.faults = make("ul", "faults");
    this.inside = make("div", "inside");
    const row = make("div", "row", make("div", "who", this.name, this.kind),
      make("div", "counts", this.numbers, this.chip), this.spark,
      make("div", "meters", ...this.meters.map((one) => one.element)));
    this.element = make("details", "variant", make("summary", "", row, this.why, this.faults), this.inside);
    this.element.open = decodeURIComponent(location.hash.slice(1)) === key;
    this.element.addEventListener("toggle", () => {
      if (this.element.open) history.replaceState(null, "", "#" + encodeURIComponent(key));
      this.renderInside();
    });
  }

  render() {
    const variant = state.variants.get(this.key);
    const { decision: d, load, slo, input } = variant;
    say(this.name, variant.name);
    const role = variant.role === "both" ? "" : " · " + variant.role;
    say(this.kind, `${variant.accelerator}${role} · ${short(variant.cost)}/h`);
    const [style, word] = verdict(variant);
    this.chip.className = "chip " + style;
    say(this.chip, word);
    const numbers = !d ? "–" : d.current === d.desired ? String(d.desired) : `${d.current} → ${d.desired}`;
    say(this.numbers, numbers);
    this.numbers.title = d ? `${d.current} replicas (${d.pending} not ready), ${d.desired} wanted` : "";
    this.renderMeters(variant, d, load, slo);
    this.why.replaceChildren(...(d ? [make("b", "", d.reason.replaceAll("_", " ")), ": " + d.message] : []));
    this.why.hidden = !d;
    this.faults.replaceChildren(...input.faults.map((fault) => make("li", "", "⚠ " + fault.message)));
    this.renderSpark();
    if (this.element.open) this.renderInside();
  }

  renderMeters(variant, d, load, slo) {
    const ready = d ? Math.max(0, d.current - d.pending) : 0;
    const perReplica = load.capacityPerReplicaPerSecond;
    const capacity = perReplica === null || !d ? null : perReplica * ready;
    const rate = load.arrivalRatePerSecond;
    this.meters[0].set(`${short(rate)} / ${short(capacity)}`, capacity && rate !== null ? rate / capacity : null, [0.9, 1.05]);
    const kv = load.kvCacheUsage;
    const kvLimit = d?.thresholds.kvCacheThreshold ?? 0.8;
    this.meters[1].set(kv === null ? "–" : Math.round(kv * 100) + " %", kv, [kvLimit * 0.9, kvLimit]);
    const queue = (d?.thresholds.queueLengthThreshold ?? 5) * Math.max(1, ready);
    this.meters[2].set(short(load.waiting), load.waiting === null ? null : load.waiting / queue, [0.5, 1]);
    for (const [index, value, target] of [[3, load.ttftMs, slo?.ttftMs], [4, load.itlMs, slo?.itlMs]]) {
      const share = value === null || target == null ? null : value / target;
      this.meters[index].set(target == null ? latency(value) : against(value, target), share, [0.85, 1]);
    }
  }

  lines(...fields) {
    const points = state.history.get(this.key) || [];
    return fields.map(([field, name, more]) => ({ name, points: points.map((p) => [p.t, p[field] ?? null]), ...more }));
  }

  span() {
    const points = state.history.get(this.key) || [];
    const until = state.now ?? Date.now();
    const first = points.length ? points[0].t : until - 60_000;
    return [Math.max(until - SPAN_MS, Math.min(first, until - 60_000)), until];
  }

  renderSpark() {
    const [from, until] = this.span();
    const list = this.lines(["current", "current", { step: true, area: true }], ["desired", "desired", { step: true }]);
    draw(this.svg, list, from, until, Math.max(1, topOf(list, from)) * 1.1);
  }

  renderInside() {
    if (!this.element.open) return;
    const variant = state.variants.get(this.key);
    if (!variant) return;
    if (!this.charts) this.build();
    const [from, until] = this.span();
    const target = (value) => ({ points: value == null ? [] : [[from, value], [until, value]], name: "slo" });
    const { slo } = variant;
    const [replicas, rate, kv, queue, ttft, itl] = this.charts;
    replicas.show(this.lines(["desired", "desired", { step: true }], ["current", "current", { step: true, area: true }]), from, until);
    rate.show(this.lines(["rate", "desired"], ["capacity", "capacity", { step: true }]), from, until);
    kv.show([...this.lines(["kv", "desired"]), target(variant.decision?.thresholds.kvCacheThreshold)], from, until);
    queue.show(this.lines(["waiting", "desired"], ["running", "current", { area: true, step: true }]), from, until);
    ttft.show([...this.lines(["ttft", "desired"]), target(slo?.ttftMs)], from, until);
    itl.show([...this.lines(["itl", "desired"]), target(slo?.itlMs)], from, until);
    this.renderFacts(variant);
    this.renderPast();
  }

  build() {
    const number = (value) => short(value);
    const percent = (value) => (value === null ? "–" : Math.round(value * 100) + " %");
    this.charts = [
      new Chart("Replicas", number, [["desired", "desired"], ["current", "current"]]),
      new Chart("Requests per second", number, [["desired", "arriving"], ["capacity", "capacity"]]),
      new Chart("KV cache", percent, [["desired", "average"], ["slo", "saturated from"]], 1),
      new Chart("Requests", number, [["desired", "waiting"], ["current", "running"]]),
      new Chart("Time to first token", latency, [["desired", "average"], ["slo", "SLO"]]),
      new Chart("Inter-token latency", latency, [["desired", "average"], ["slo", "SLO"]]),
    ];
    this.facts = make("dl", "facts");
    this.past = make("ol");
    this.pastBox = make("div", "past", make("b", "", "Changes"), this.past);
    const link = make("a", "", "as JSON");
    link.href = `${BASE}api/v1/variants/${this.key}`;
    this.inside.append(make("div", "charts", ...this.charts.map((chart) => chart.element)), this.facts, this.pastBox, link);
  }

  renderFacts(variant) {
    const { decision: d, load, slo, input } = variant;
    const bound = (value) => value ?? "–";
    const rows = [
      ["scale target", `${variant.scaleTarget.kind} ${variant.scaleTarget.name}`],
      ["bounds", `${bound(variant.minReplicas)} to ${bound(variant.maxReplicas)}`],
      ["mode", d ? d.mode : "–"],
      ["service class", slo ? `${slo.class}, priority ${slo.priority}` : "–"],
      ["request shape", `${short(load.avgPromptTokens)} prompt + ${short(load.avgGenerationTokens)} generated tokens`],
      ["utilization", load.utilization === null ? "–" : Math.round(load.utilization * 100) + " %"],
      ["replica count from", d ? d.currentFrom : "–"],
      ["pods matched by", Object.entries(input.joinedBy).map(([way, count]) => `${way} (${count})`).join(", ") || "–"],
    ];
    if (d?.fallback) rows.push(["fallback", d.fallback]);
    const { advice, learned } = variant;
    if (advice) rows.push([`advice of ${advice.mode}`, `${advice.replicas} (${advice.reason.replaceAll("_", " ")})`]);
    if (learned) {
      const carries = learned.capacityPerReplicaPerSecond;
      const from = `from ${Math.round(learned.observations)} observations, began with ${learned.start}`;
      const measured = learned.startupIsMeasured ? "" : ", not measured yet";
      rows.push(["a replica carries", carries === null ? "not known yet" : `${short(carries)} requests/s (${from})`]);
      rows.push(["a replica starts in", `${Math.round(learned.startupSeconds)} s${measured}`]);
    }
    const bridge = d?.model.bridge;
    if (bridge) rows.push(["bridge", `${bridge.replicas} of ${bridge.variant}`]);
    if (d?.nextReplica) rows.push(["next replica of the model", d.nextReplica.variant]);
    if (d && d.wanted !== d.desired) rows.push(["wanted if there were cards", d.wanted]);
    this.facts.replaceChildren(...rows.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", String(value)))));
  }

  renderPast() {
    const mine = state.recent.filter((change) => keyOf(change) === this.key).slice(-CHANGES_SHOWN).reverse();
    this.pastBox.hidden = !mine.length;
    this.past.replaceChildren(...mine.map((change) => changeLine(change, false)));
  }
}

function changeLine(change, named) {
  const cells = [make("time", "", change.atMs === null ? "" : clock(change.atMs))];
  if (named) cells.push(make("span", "", change.name));
  cells.push(make("span", change.to > change.from ? "up" : "down", `${change.from} → ${change.to}`), make("span", "", change.message));
  return make("li", "", ...cells);
}

// ---- rendering ----------------------------------------------------------------------------------

function tile(value, label, note = "", style = "") {
  return make("div", "tile", make("span", "", label), make("b", "", value), make("em", style, note));
}

function renderTiles() {
  const all = [...state.variants.values()];
  const look = all.filter((variant) => verdict(variant)[2]).length;
  const sum = (of) => all.reduce((total, variant) => total + (of(variant) ?? 0), 0);
  const [current, desired] = [sum((v) => v.decision?.current), sum((v) => v.decision?.desired)];
  const known = all.some((variant) => variant.decision);
  const status = state.status;
  const writes = Object.entries(status?.writes ?? {});
  const refused = writes.filter(([code]) => !code.startsWith("2")).reduce((total, [, count]) => total + count, 0);
  const age = status?.newestSampleAgeSeconds;
  const fresh = age === null || age === undefined ? ["–", "no samples yet", "is-bad"] :
    [short(age) + " s", state.rate?.perSecond == null ? "" : short(state.rate.perSecond) + " samples/s", age > 90 ? "is-bad" : ""];
  const unmatched = Object.values(state.unmatched?.replicas ?? {}).reduce((total, count) => total + count, 0);
  byId("tiles").replaceChildren(
    tile(String(all.length), "Variants", !all.length ? "" : look ? `${look} ${look === 1 ? "needs" : "need"} a look` : "all fine", look ? "is-warn" : "is-good"),
    tile(!known ? "–" : current === desired ? String(desired) : `${current} → ${desired}`, "Replicas",
      !known ? "no decision yet" : current === desired ? "as wanted" : "changing"),
    tile(!known ? "–" : short(sum((v) => (v.decision?.desired ?? 0) * v.cost)), "Cost per hour", "of the replicas wanted"),
    tile(!known ? "–" : short(sum((v) => v.load.arrivalRatePerSecond)), "Requests per second",
      known ? `${short(sum((v) => v.load.waiting))} waiting` : ""),
    tile(fresh[0], "Age of input", refused ? `${refused} writes refused` : fresh[1], refused ? "is-warn" : fresh[2]),
    tile(String(state.problems.length), "Configuration problems",
      unmatched ? `${unmatched} pods match no variant` : state.problems.length ? "listed below" : "none", state.problems.length || unmatched ? "is-warn" : "is-good"),
  );
}

function renderProblems() {
  const lines = state.problems.map((problem) => {
    const kept = { last_good: "the last good value stays in force", default: "the default is in force", nothing: "ignored" }[problem.kept];
    return make("li", "", make("b", "", problem.object || problem.origin), " ", make("code", "", problem.field), " ",
      problem.reason, make("span", "fix", `${problem.fix} (${kept}; ${problem.origin})`));
  });
  for (const example of state.unmatched?.examples ?? []) {
    lines.push(make("li", "", make("b", "", "Pod without a variant"), " ", example));
  }
  const section = byId("problems");
  section.hidden = !lines.length;
  const wanted = JSON.stringify([state.problems, state.unmatched]);
  if (section.dataset.shown === wanted) return;
  section.dataset.shown = wanted;
  section.replaceChildren(make("h2", "", "Problems"), make("ul", "", ...lines));
}

function renderFleet() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const only = byId("attention").checked;
  const found = [...state.variants.values()].filter((variant) => {
    const text = [variant.namespace, variant.name, variant.modelId, variant.accelerator].join(" ").toLowerCase();
    return words.every((word) => text.includes(word)) && (!only || verdict(variant)[2]);
  });
  const order = (v) => [v.namespace, v.modelId, v.role, v.name].join("\u0000");
  found.sort((a, b) => (found.length > SHOWN_MAX ? verdict(b)[2] - verdict(a)[2] : 0) || compare(order(a), order(b)));
  const shown = found.slice(0, SHOWN_MAX).sort((a, b) => compare(order(a), order(b)));
  byId("tools").hidden = state.variants.size < 2;
  say(byId("more"), `${found.length - shown.length} more; filter to see them`);
  byId("more").hidden = found.length === shown.length;
  const nodes = [];
  let last = null;
  for (const variant of shown) {
    const group = [variant.namespace, variant.modelId, variant.role].join("\u0000");
    if (group !== last) nodes.push(heading(group, found.filter((v) => [v.namespace, v.modelId, v.role].join("\u0000") === group)));
    last = group;
    const key = keyOf(variant);
    if (!views.has(key)) views.set(key, new View(key));
    nodes.push(views.get(key).element);
  }
  const parent = byId("models");
  if (nodes.length !== parent.childNodes.length || nodes.some((node, index) => parent.childNodes[index] !== node)) {
    parent.replaceChildren(...nodes);
  }
  for (const variant of shown) views.get(keyOf(variant)).render();
  for (const key of views.keys()) if (!state.variants.has(key)) views.delete(key);
  const empty = byId("empty");
  empty.hidden = shown.length > 0 || !state.has;
  say(empty, state.variants.size ? "Nothing matches the filter." :
    "No variants are configured.\nPut VariantAutoscaling objects, or annotated HPAs or ScaledObjects, where the sidecar reads its configuration.");
}

function heading(group, variants) {
  if (!models.has(group)) models.set(group, make("h2", "", make("span"), make("small")));
  const element = models.get(group);
  const [one] = variants;
  say(element.children[0], one.modelId);
  const cost = variants.reduce((total, v) => total + (v.decision?.desired ?? 0) * v.cost, 0);
  const demand = variants.map((v) => v.decision?.model.demandPerSecond).find((rate) => rate != null);
  const facts = [one.namespace];
  if (one.role !== "both") facts.push(one.role);
  if (demand !== undefined) facts.push(`${short(demand)} requests/s`);
  facts.push(`${short(cost)} per hour`);
  const queue = variants.map((v) => v.decision?.model.schedulerQueue).find((held) => held);
  if (queue) facts.push(`${short(queue)} held by the scheduler`);
  say(element.children[1], facts.join(" · "));
  return element;
}

function renderLink() {
  const silent = performance.now() - state.heard > LOST_MS;
  const [style, word] = !state.has ? ["", "connecting"] : silent ? ["bad", "connection lost"] : ["good", "live"];
  const pill = byId("link");
  pill.className = "pill " + style;
  say(pill, word);
  document.body.classList.toggle("is-lost", state.has && silent);
  const notice = byId("notice");
  notice.classList.toggle("lost", silent && state.has);
  const text = state.has && silent ? "The connection to the sidecar is lost. What is shown is from before; trying again." :
    state.notReady ? "Not ready: " + state.notReady : "";
  notice.hidden = !text;
  say(notice, text);
  say(byId("version"), state.status ? state.status.version : "");
}

function render() {
  renderLink();
  if (!state.has) return;
  renderTiles();
  renderProblems();
  renderFleet();
  byId("recent").hidden = !state.recent.length;
  const latest = state.recent.slice(-CHANGES_SHOWN).reverse();
  const wanted = JSON.stringify(latest.map((change) => [change.atMs, change.name, change.to]));
  if (byId("changes").dataset.shown !== wanted) {
    byId("changes").dataset.shown = wanted;
    byId("changes").replaceChildren(...latest.map((change) => changeLine(change, true)));
  }
}

let due = false;
function renderSoon() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; render(); });
}

// ---- the stream ---------------------------------------------------------------------------------

let source = null;
function connect() {
  source?.close();
  source = new EventSource(BASE + "api/v1/stream");
  const on = (name, take) => source.addEventListener(name, (event) => {
    state.heard = performance.now();
    take(JSON.parse(event.data));
    renderSoon();
  });
  on("board", takeBoard);
  on("update", takeUpdate);
  on("status", takeStatus);
  on("scaling", (scaling) => { state.recent = [...state.recent.slice(-199), scaling]; });
  // The browser tries again by itself, except after an answer that is no stream.
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
    state.heard = Math.min(state.heard, performance.now() - LOST_MS + 1500);
  };
}

byId("tools").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", renderSoon);
byId("attention").addEventListener("change", renderSoon);
for (const link of document.querySelectorAll("footer a, noscript a")) link.href = BASE + link.getAttribute("href");
setInterval(() => {
  renderLink();
  // A connection that is open but silent, as after a proxy lost its server.
  if (state.has && performance.now() - state.heard > 3 * LOST_MS && source.readyState === EventSource.OPEN) connect();
}, 1000);
connect();
