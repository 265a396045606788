// Shows what the daemon sends, and nothing else. All text from the daemon is set as text, never as HTML: names, culprits and
// reasons come from other software. Elements are made once, and changed only where a value has changed.

const SVG = "http://www.w3.org/2000/svg";
const SECOND = 1000;
/** Events come every 2 s. After this time without one the page is out of date. */
const LATE = 7 * SECOND;
/** Points of a live chart: two minutes. */
const POINTS = 60;
/** The height of a live chart. */
const HEIGHT = 36;
/** From this number of tunnels on, one can be searched. */
const MANY = 8;

const $ = (selector) => document.querySelector(selector);

/** Makes an element. Children are elements or text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

/** Makes an element of SVG, with a title for pointers. */
function draw(tag, attributes, title) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (title) {
    const text = document.createElementNS(SVG, "title");
    text.textContent = title;
    element.append(text);
  }
  return element;
}

/** Sets a text where it differs, so that assistive technology hears no repetitions. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function icon(tone) {
  const svg = draw("svg", { class: "icon", "aria-hidden": "true" });
  svg.append(draw("use", { href: `#icon-${tone}` }));
  return svg;
}

// Texts

const words = (name) => name.replaceAll("_", " ");
const plural = (count, one, many) => (count === 1 ? `1 ${one}` : `${count} ${many}`);
const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const dateAndTime = (rfc3339) => rfc3339.slice(0, 16).replace("T", " ");

/** Hundredths of a per cent, which are rounded down: all only if it is all. */
const percent = (hundredths) => (hundredths === 10000 ? "100%" : `${(hundredths / 100).toFixed(2)}%`);
const share = (value) => percent(Math.round(value * 100));

function amount(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return [unit > 0 && bytes < 100 ? bytes.toFixed(1) : String(Math.floor(bytes)), units[unit]];
}

function span(seconds) {
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

/** The state of a tunnel in a word, and its tone. */
function condition({ state, health, until }) {
  if (state === "down") return ["stopped", "off"];
  if (state !== "up") return [until ? `${words(state)} until ${dateAndTime(until)}` : words(state), "bad"];
  const tones = { healthy: "good", degraded: "warn", failing: "bad" };
  return [health, tones[health] ?? "off"];
}

/** Everything in a sentence, and its tone. */
function overall({ tunnels, healthy }) {
  const tones = tunnels.map((tunnel) => condition(tunnel)[1]);
  const count = (tone) => tones.filter((one) => one === tone).length;
  const all = tunnels.length;
  const parts = [["bad", "failing"], ["warn", "degraded"], ["off", "stopped"]]
    .map(([tone, word]) => [count(tone), word])
    .filter(([number]) => number > 0);
  const tone = count("bad") ? "bad" : healthy ? "good" : "warn";
  if (all === 0) return ["No tunnel is configured", "off"];
  if (parts.length === 0) {
    if (!healthy) return ["The tunnels are healthy, but an exit is not guarded", tone];
    const which = ["The tunnel is", "Both tunnels are"][all - 1] ?? `All ${all} tunnels are`;
    return [`${which} healthy`, tone];
  }
  const [[number, word], ...others] = parts;
  const is = (number) => (number === 1 ? "is" : "are");
  const more = others.map(([number, word]) => `, ${number} ${is(number)} ${word}`).join("");
  if (all === 1) return [`The tunnel is ${word}`, tone];
  return [`${number} of ${all} tunnels ${is(number)} ${word}${more}`, tone];
}

function sources({ first, more }) {
  return [...first, ...(more ? [`and ${more} more`] : [])].join(", ");
}

function reasonItem({ sentence, cure }) {
  const item = make("li", {}, make("p", { textContent: sentence }));
  if (cure) item.append(make("p", { className: "cure", textContent: upper(cure) }));
  return item;
}

// Charts

/** A line through values; a gap where one is unknown. */
function line(values, x, y) {
  let path = "";
  let pen = "M";
  values.forEach((value, index) => {
    if (value === null) {
      pen = "M";
      return;
    }
    path += `${pen}${x(index)} ${y(value).toFixed(1)}`;
    pen = "L";
  });
  return path;
}

/** What minutes were. The height tells the same as the colour. */
function minutesChart(svg, { states }) {
  const heights = { healthy: 24, degraded: 17, failing: 24, stopped: 6, unknown: 2 };
  const totals = {};
  let at = 0;
  svg.replaceChildren(...states.map(([count, state]) => {
    const height = heights[state];
    // An outage of a minute is still seen.
    const width = state === "failing" ? Math.max(count, 4) : count;
    const rectangle = draw("rect", { class: state, x: at, y: 24 - height, width, height }, `${state}, ${span(count * 60)}`);
    at += count;
    totals[state] = (totals[state] ?? 0) + count;
    return rectangle;
  }));
  for (const rectangle of svg.querySelectorAll(".failing")) svg.append(rectangle);
  const parts = Object.entries(totals).map(([state, count]) => `${state} ${span(count * 60)}`);
  svg.setAttribute("aria-label", `State in the last 24 hours: ${parts.join(", ")}`);
}

function pingsChart(svg, { answered }) {
  const known = answered.filter((value) => value !== null);
  svg.toggleAttribute("hidden", known.length === 0);
  if (known.length === 0) return;
  const path = line(answered, (index) => index + 0.5, (value) => 29 - (value / 10000) * 28);
  svg.replaceChildren(draw("path", { d: path }, "pings from outside that were answered"));
  svg.setAttribute("aria-label", `Pings from outside that were answered: at least ${percent(Math.min(...known))}`);
}

/** A bar for each day. Only a day without a failure has the full height. */
function daysChart(svg, days) {
  const DAYS = 60;
  const shown = days.slice(-DAYS);
  const bars = [];
  for (let index = 0; index < DAYS; index += 1) {
    const day = shown[index - DAYS + shown.length];
    const value = day?.available_percent ?? null;
    let kind = "unknown";
    let height = 4;
    if (value !== null) {
      kind = value === 100 ? "healthy" : value >= 99 ? "degraded" : "failing";
      height = value === 100 ? 36 : 6 + value * 0.24;
    }
    const title = day && `${day.day}: ${value === null ? "nothing recorded" : `${share(value)} available`}`;
    bars.push(draw("rect", { class: kind, x: index * 10 + 1, y: 36 - height, width: 8, height, rx: 1.5 }, title));
  }
  svg.replaceChildren(...bars);
  const known = shown.filter((day) => day.available_percent !== null);
  const worst = known.reduce((one, other) => (other.available_percent < one.available_percent ? other : one), known[0]);
  svg.setAttribute("aria-label", worst
    ? `Availability by day, ${plural(known.length, "day", "days")}; the worst was ${worst.day} with ${share(worst.available_percent)}`
    : "Availability by day: nothing is recorded");
}

function table(caption, columns, rows) {
  const heads = columns.map(([name, kind]) => make("th", { scope: "col", className: kind ?? "", textContent: name }));
  const body = rows.map((row) => make("tr", {}, ...row.map((text, index) =>
    index === 0
      ? make("th", { scope: "row", textContent: text })
      : make("td", { className: columns[index][1] ?? "", textContent: text }))));
  return make("table", {}, make("caption", { textContent: caption }),
    make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body));
}

// Tunnels

class Card {
  constructor(name) {
    this.name = name;
    this.element = $("#tunnel").content.cloneNode(true).firstElementChild;
    this.parts = {};
    for (const part of this.element.querySelectorAll("[data-is]")) this.parts[part.dataset.is] = part;
    this.points = [];
    this.isVisible = false;
    this.loadedAt = 0;
    for (const part of ["name", "name-again"]) this.parts[part].textContent = name;
  }

  /** Shows the state, if it has changed. */
  show(tunnel) {
    const text = JSON.stringify(tunnel);
    if (text === this.text) return;
    this.text = text;
    const { parts } = this;
    const [word, tone] = condition(tunnel);
    this.words = `${this.name} ${word} ${sources(tunnel.sources)}`.toLowerCase();
    this.element.dataset.tone = tone;
    parts.icon.setAttribute("href", `#icon-${tone}`);
    setText(parts.state, upper(word));
    setText(parts.sources, sources(tunnel.sources) || "It has no address");
    parts.reasons.replaceChildren(...tunnel.reasons.map(reasonItem));
    parts.reasons.hidden = tunnel.reasons.length === 0;
    const facts = [
      ["Kind", tunnel.carrier ? `${tunnel.kind}, carried by ${tunnel.carrier}` : tunnel.kind],
      ["Interface", tunnel.interface],
      ["Far end", tunnel.endpoint],
      ["MTU", tunnel.mtu && `${tunnel.mtu} bytes`],
      ["Deprecated addresses", tunnel.deprecated.join(", ")],
      ["Rules and routes", `${words(tunnel.routing)}, table ${tunnel.table}`],
      ["Programs", words(tunnel.program)],
    ];
    parts.facts.replaceChildren(...facts.filter(([, value]) => value).map(([name, value]) =>
      make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
    this.setDayShare(tunnel.available_percent_24h, tunnel.outages_24h);
  }

  setDayShare(available, outages) {
    const text = available === null ? "" : `${share(available)} available${outages ? `, ${plural(outages, "outage", "outages")}` : ""}`;
    setText(this.parts["day-share"], text);
  }

  /** Takes the rates of a moment. They are drawn only where somebody sees them. */
  add(rate) {
    this.points.push(rate ? [rate.in, rate.out] : [null, null]);
    if (this.points.length > POINTS) this.points.shift();
    this.rate = rate;
    if (this.isVisible) this.drawRates();
  }

  drawRates() {
    const { parts, points, rate } = this;
    const quantity = (part, [value, unit]) => {
      if (parts[part].textContent !== `${value} ${unit}`) parts[part].replaceChildren(`${value} `, make("small", { textContent: unit }));
    };
    for (const part of ["in", "out"]) {
      const [value, unit] = rate?.[part] == null ? ["–", ""] : amount(rate[part]);
      quantity(part, [value, unit && `${unit}/s`]);
    }
    quantity("answered", rate?.pings ? [percent(rate.answered), `of ${rate.pings}`] : ["–", "no pings"]);
    setText(parts.leaks, rate ? String(rate.leaks) : "–");
    const highest = Math.max(1000, ...points.flat());
    setText(parts.highest, `up to ${amount(highest).join(" ")}/s`);
    const x = (index) => (index + POINTS - points.length) * 2;
    const y = (value) => HEIGHT - 1 - (value / highest) * (HEIGHT - 4);
    const incoming = line(points.map(([value]) => value), x, y);
    parts["line-in"].setAttribute("d", incoming);
    parts["line-out"].setAttribute("d", line(points.map(([, value]) => value), x, y));
    const known = points.findIndex(([value]) => value !== null);
    const isWhole = known >= 0 && points.slice(known).every(([value]) => value !== null);
    parts.area.setAttribute("d", isWhole ? `${incoming}V${HEIGHT}H${x(known)}Z` : "");
  }

  /** Loads the history, if that of this minute is not there yet. */
  async load() {
    const minute = Math.floor(Date.now() / 60 / SECOND);
    if (minute === this.loadedAt) return;
    this.loadedAt = minute;
    let answer, content;
    try {
      answer = await fetch(`history?tunnel=${encodeURIComponent(this.name)}`);
      content = await (answer.ok ? answer.json() : answer.text());
    } catch {
      // The connection is lost, which the page shows; it is tried again.
      this.loadedAt = 0;
      return;
    }
    if (answer.ok) return this.showHistory(content);
    this.parts["no-past"].hidden = false;
    setText(this.parts["no-past"], answer.status === 404 ? "Nothing is recorded yet." : `There is no history: ${content}`);
  }

  showHistory(history) {
    const { parts } = this;
    parts.past.hidden = false;
    parts["no-past"].hidden = true;
    minutesChart(parts.minutes, history.day);
    pingsChart(parts.pings, history.day);
    daysChart(parts.days, history.days);
    const end = Date.parse(history.day.until);
    [24, 18, 12, 6].forEach((hours, index) => {
      setText(parts[`axis-${index}`], new Date(end - hours * 3600 * SECOND).toISOString().slice(11, 16));
    });
    setText(parts["first-day"], new Date(end - 59 * 86400 * SECOND).toISOString().slice(0, 10));
    const available = history.available_percent;
    setText(parts["days-share"], available === null ? "" : `${share(available)} available`);
    const outages = history.outages.toReversed().map((outage) => [dateAndTime(outage.begin),
      outage.ongoing ? "until now" : span((Date.parse(outage.end) - Date.parse(outage.begin)) / SECOND), outage.reason]);
    const more = history.earlier_outages ? `; ${history.earlier_outages} earlier ones are left out` : "";
    const orNone = (value) => (value === null ? "–" : share(value));
    const days = history.days.slice(-14).reverse().map((day) => [day.day, orNone(day.available_percent),
      orNone(day.answered_percent), String(day.leaks), String(day.corrections)]);
    const tables = [];
    if (outages.length > 0) tables.push(table(`Outages in 60 days${more}`, [["Begin"], ["Length"], ["Reason"]], outages));
    tables.push(table("By day, the last two weeks", [["Day"], ["Available", "number"], ["Pings", "number"], ["Leaks", "number"], ["Repairs", "number"]], days));
    parts.tables.replaceChildren(...tables);
  }
}

const cards = new Map();
const byElement = new WeakMap();
/** One history is loaded after the other. */
let loading = Promise.resolve();

const loadSoon = (card) => {
  loading = loading.then(() => card.isVisible && card.load());
};

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = byElement.get(target);
    card.isVisible = isIntersecting;
    if (isIntersecting) {
      card.drawRates();
      loadSoon(card);
    }
  }
}, { rootMargin: "200px" });

/** Makes the cards of these tunnels, in their order. */
function showTunnels(tunnels) {
  const list = $("#tunnels .cards");
  const names = new Set(tunnels.map((tunnel) => tunnel.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      watcher.unobserve(card.element);
      card.element.remove();
      cards.delete(name);
    }
  }
  tunnels.forEach((tunnel, index) => {
    let card = cards.get(tunnel.name);
    if (!card) {
      card = new Card(tunnel.name);
      cards.set(tunnel.name, card);
      byElement.set(card.element, card);
      watcher.observe(card.element);
    }
    card.element.id = `tunnel-${index}`;
    card.show(tunnel);
    if (list.children[index] !== card.element) list.insertBefore(card.element, list.children[index] ?? null);
  });
  $("#find").hidden = tunnels.length < MANY;
  filter();
}

function filter() {
  const wanted = $("#find").hidden ? "" : $("#find input").value.trim().toLowerCase();
  let shown = 0;
  for (const card of cards.values()) {
    card.element.hidden = !card.words.includes(wanted);
    shown += card.element.hidden ? 0 : 1;
  }
  const none = $("#tunnels .none");
  none.hidden = shown > 0;
  setText(none, cards.size > 0 ? "No tunnel has that in its name, state or addresses." : "");
}

// The other parts

function showAttention(tunnels) {
  const MOST = 10;
  const items = tunnels
    .map((tunnel, index) => ({ tunnel, index, tone: condition(tunnel)[1] }))
    .filter(({ tone }) => tone === "bad" || tone === "warn");
  const links = items.slice(0, MOST).map(({ tunnel, index, tone }) => {
    const item = make("li", {}, icon(tone), make("span", {}, make("a", { href: `#tunnel-${index}` }, make("bdi", { textContent: tunnel.name })),
      `: ${tunnel.reasons[0]?.sentence ?? condition(tunnel)[0]}`));
    item.dataset.tone = tone;
    return item;
  });
  if (items.length > MOST) links.push(make("li", { textContent: `and ${items.length - MOST} more` }));
  $("#attention ul").replaceChildren(...links);
  // With few tunnels, the cards show it anyway.
  $("#attention").hidden = links.length === 0 || tunnels.length < 4;
}

function showGroups(groups) {
  $("#groups").hidden = groups.length === 0;
  $("#groups tbody").replaceChildren(...groups.map((group) => make("tr", {},
    make("th", { scope: "row" }, make("bdi", { textContent: group.name })),
    make("td", {}, make("bdi", { textContent: group.active })),
    make("td", { textContent: group.links.map((link) => `${link.name} ${link.state}`).join(", ") }),
    make("td", { textContent: sources(group.prefixes) }),
    make("td", { className: "number", textContent: String(group.switches) }))));
}

function showExits(uplinks) {
  $("#exits .none").hidden = uplinks.length > 0;
  $("#exits .scroll").hidden = uplinks.length === 0;
  $("#exits tbody").replaceChildren(...uplinks.map((uplink) => {
    const isGuarded = uplink.program === "attached";
    const how = [uplink.hook, uplink.xdp && `XDP ${uplink.xdp}`].filter(Boolean).join(", ");
    const guarded = make("td", {}, icon(isGuarded ? "good" : "bad"), isGuarded ? `yes, by ${how}` : "no: its program is not attached");
    guarded.dataset.tone = isGuarded ? "good" : "bad";
    return make("tr", {}, make("th", { scope: "row" }, make("bdi", { textContent: uplink.name })), guarded,
      make("td", { className: "number" }), make("td", { className: "number" }));
  }));
}

function showIncidents(incidents) {
  $("#incidents .none").hidden = incidents.length > 0;
  $("#incidents ol").replaceChildren(...incidents.map((incident) => {
    const kind = incident.kind === "leak" ? "Leak" : "Repair";
    const item = make("li", {}, make("p", { className: "head" },
      make("strong", {}, incident.tunnel ? `${kind}: ` : kind, make("bdi", { textContent: incident.tunnel ?? "" })),
      make("time", { dateTime: incident.time, textContent: incident.time.slice(0, 19).replace("T", " ") })),
    make("p", { className: "what", textContent: incident.what }));
    if (incident.culprit) item.append(make("p", { className: "culprit" }, incident.kind === "leak" ? "Sender: " : "Removed by ", make("bdi", { textContent: incident.culprit })));
    if (incident.why) item.append(make("p", { className: "why", textContent: upper(incident.why) }));
    if (incident.cure) item.append(make("p", { className: "why", textContent: `→ ${upper(incident.cure)}` }));
    return item;
  }));
}

/** Calls a function with a part of the state, if that has changed. */
const last = {};
function ifChanged(name, value, show) {
  const text = JSON.stringify(value);
  if (last[name] === text) return;
  last[name] = text;
  show(value);
}

function showState(state) {
  const [sentence, tone] = overall(state);
  $(".overall").dataset.tone = tone;
  $("#overall-icon").setAttribute("href", `#icon-${tone}`);
  setText($("#overall"), sentence);
  setText($("#announcement"), sentence);
  const guarded = state.uplinks.filter((uplink) => uplink.program === "attached").length;
  const repairs = state.corrections ? plural(state.corrections, "repair", "repairs") : "no repair";
  setText($("#summary"), `${plural(guarded, "exit is guarded", "exits are guarded")}; ${repairs} since the daemon started`);
  document.title = `${sentence} – sixxs ${state.host}`;
  setText($("#host"), state.host);
  setText($("#version"), `Version ${state.version}.`);
  ifChanged("tunnels", state.tunnels, (tunnels) => {
    showTunnels(tunnels);
    showAttention(tunnels);
  });
  ifChanged("groups", state.groups, showGroups);
  ifChanged("uplinks", state.uplinks, showExits);
  ifChanged("incidents", state.incidents, showIncidents);
  ifChanged("problems", state.problems, (problems) => {
    $("#problems").hidden = problems.length === 0;
    $("#problems ul").replaceChildren(...problems.map(reasonItem));
  });
  order = state.tunnels.map((tunnel) => tunnel.name);
}

/** The tunnels of an event with rates. */
let order = [];

function showRates({ tunnels, uplinks }) {
  tunnels.forEach((rate, index) => cards.get(order[index])?.add(rate));
  uplinks.forEach((rate, index) => {
    const row = $("#exits tbody").rows[index];
    if (!row) return;
    setText(row.cells[2], rate.out === null ? "–" : `${amount(rate.out).join(" ")}/s`);
    setText(row.cells[3], String(rate.leaks));
  });
}

// The connection

const startedAt = Date.now();
let source;
let triedAt = 0;
let heardAt = 0;
let isFull = false;

function connect() {
  triedAt = Date.now();
  source = new EventSource("events");
  const heard = (show) => ({ data }) => {
    heardAt = Date.now();
    isFull = false;
    show(JSON.parse(data));
    showConnection();
  };
  source.addEventListener("state", heard(showState));
  source.addEventListener("rates", heard(showRates));
  source.addEventListener("error", async ({ target }) => {
    // After a refusal it is closed, and does not have the status.
    if (target.readyState !== EventSource.CLOSED) return;
    const answer = await fetch("events", { method: "HEAD" }).catch(() => null);
    isFull = answer?.status === 503;
    showConnection();
  });
}

function showConnection() {
  const isLate = Date.now() - (heardAt || startedAt) > LATE;
  const isOpen = source.readyState === EventSource.OPEN;
  const at = heardAt ? ` since ${new Date(heardAt).toISOString().slice(11, 19)}` : "";
  let [text, tone] = ["Live", "good"];
  if (isFull) [text, tone] = ["Too many pages are open: close one", "warn"];
  else if (!heardAt && !isLate) [text, tone] = ["Connecting", "off"];
  else if (isLate && isOpen) [text, tone] = [`Out of date: the daemon has sent nothing${at}`, "warn"];
  else if (isLate) [text, tone] = [`No connection to the daemon${at}; trying again`, "bad"];
  $("#connection").dataset.tone = tone;
  setText($("#connection-text"), text);
  document.body.classList.toggle("is-late", isLate && heardAt > 0);
}

connect();
setInterval(() => {
  showConnection();
  // The browser connects again by itself, but not after a refusal.
  if (source.readyState === EventSource.CLOSED && Date.now() - triedAt > 5 * SECOND) connect();
  for (const card of cards.values()) if (card.isVisible && card.loadedAt !== Math.floor(Date.now() / 60 / SECOND)) loadSoon(card);
}, SECOND);
$("#find input").addEventListener("input", filter);
