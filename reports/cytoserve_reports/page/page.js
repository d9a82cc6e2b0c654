"use strict";
// The review page: view, filters, zoom, and the reader's verdicts. What it may show is in the page already; this script
// asks no network. Verdicts are kept in the browser under the analysis' hash, where the browser allows that.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const byId = (id) => document.getElementById(id);
  const list = byId("list");
  const cards = [...list.children];
  const cardOf = new Map(cards.map((card) => [card.dataset.key, card]));
  const REVIEWER = /^[\p{L}\p{Nd}._-]{1,32}$/u;
  const text = (key, values = {}) =>
    data.texts[key].replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));

  // --- what is kept in the browser ------------------------------------------------------------------------------
  const KEY = `${data.schema}:${data.analysis_sha256}:${data.blinded ? "blinded" : "open"}`;
  const REVIEWER_KEY = `${KEY}:reviewer`; // of this page alone: another reader's page begins without a code
  let kept = true;
  function load(key) {
    try { return JSON.parse(localStorage.getItem(key)); } catch { return null; }
  }
  function save(key, value) {
    try { localStorage.setItem(key, JSON.stringify(value)); return true; } catch { return false; }
  }
  const usable = (given) => given !== null && typeof given === "object" && REVIEWER.test(given.reviewer) &&
    !Number.isNaN(Date.parse(given.time)) && ["agree", "reclassify", "classify", "cannot_tell"].includes(given.verdict) &&
    (given.class === null || data.classes.includes(given.class));

  const verdicts = new Map();
  for (const [key, given] of Object.entries(load(KEY) || {})) if (cardOf.has(key) && usable(given)) verdicts.set(key, given);
  const history = [];
  let unexported = false;

  // --- the list: filters, order, grid ---------------------------------------------------------------------------
  const value = (id) => (byId(id) ? byId(id).value : "");
  function passes(card) {
    const d = card.dataset, given = verdicts.get(d.key), state = value("state");
    if (byId("class") && value("class") !== "*" && d.class !== value("class")) return false;
    if (value("decision") && d.decision !== value("decision")) return false;
    if (value("reason") && !d.reasons.split(" ").includes(value("reason"))) return false;
    if (value("uncertainty") && Number(d.uncertainty) < Number(value("uncertainty"))) return false;
    if (state === "open" && given) return false;
    if (state === "done" && !given) return false;
    return state !== "changed" || (given !== undefined && given.verdict === "reclassify");
  }
  const ORDERS = {
    urgency: () => 0,
    uncertainty: (a, b) => b.dataset.uncertainty - a.dataset.uncertainty,
    class: (a, b) => a.dataset.class.localeCompare(b.dataset.class),
    field: (a, b) => a.dataset.field - b.dataset.field || a.dataset.cell - b.dataset.cell,
  };
  let shown = cards;
  function arrange() {
    const order = ORDERS[value("sort")] || ORDERS.urgency;
    const grid = value("view") === "grid";
    cards.forEach((card) => { card.hidden = !passes(card); });
    const sorted = [...cards].sort((a, b) => order(a, b) || a.dataset.rank - b.dataset.rank);
    list.classList.toggle("grid", grid);
    if (grid) list.replaceChildren(...groups(sorted));
    else list.replaceChildren(...sorted);
    shown = [...list.querySelectorAll(".card")].filter((card) => !card.hidden);
    const counted = text("shown", { shown: shown.length, all: cards.length });
    byId("shown").textContent = shown.length ? counted : text("nothing_shown");
    if (!shown.includes(current)) choose(shown[0] || null, false);
  }
  function groups(sorted) {
    const names = [...data.classes, ""];
    return names.map((name) => {
      const own = sorted.filter((card) => card.dataset.class === name);
      const item = document.createElement("li"), title = document.createElement("h3"), inner = document.createElement("ul");
      item.className = "group";
      inner.className = "cells";
      const visible = own.filter((card) => !card.hidden).length;
      title.textContent = text("group", { class: name ? data.class_names[name] : data.not_scored, n: visible });
      item.hidden = visible === 0;
      inner.replaceChildren(...own);
      item.append(title, inner);
      return item;
    });
  }

  // --- the current cell -----------------------------------------------------------------------------------------
  let current = null;
  function choose(card, focus = true) {
    if (current) { current.classList.remove("current"); current.tabIndex = -1; }
    document.querySelectorAll(".marked").forEach((box) => box.classList.remove("marked"));
    current = card;
    if (!card) { byId("now").textContent = ""; return; }
    card.classList.add("current");
    card.tabIndex = 0;
    document.querySelectorAll(`[data-of="${card.dataset.key}"]`).forEach((box) => box.classList.add("marked"));
    if (focus) { card.focus({ preventScroll: true }); card.scrollIntoView({ block: "nearest" }); }
    showCurrent();
  }
  function step(by) {
    const at = shown.indexOf(current) + by;
    if (at < 0 || at >= shown.length) { say(text(by > 0 ? "last" : "first")); return; }
    choose(shown[at]);
  }

  // --- verdicts -------------------------------------------------------------------------------------------------
  function say(words, urgent = true) {
    byId("message").textContent = words;
    byId("message").classList.toggle("urgent", urgent);
  }
  function inWords(given) {
    if (!given) return text("none");
    const verdict = text(given.verdict, { class: data.class_names[given.class] || "" });
    const time = new Date(given.time).toLocaleString("sv-SE"); // local time as 2026-11-26 18:05:00, which no reader mistakes
    return text("by", { verdict, reviewer: given.reviewer, time });
  }
  function showCurrent() {
    const given = verdicts.get(current.dataset.key);
    const title = current.querySelector("h3").textContent;
    byId("now").textContent = `${title}: ${inWords(given)}`;
    document.querySelectorAll(".to-class").forEach((button) => {
      button.setAttribute("aria-pressed", String(Boolean(given) && given.class === data.classes[button.dataset.index]));
    });
  }
  function showVerdict(key) {
    cardOf.get(key).querySelector(".verdict").textContent = verdicts.has(key) ? inWords(verdicts.get(key)) : "";
    byId("progress").textContent = text("progress", { done: verdicts.size, all: cards.length });
    if (current) showCurrent();
  }
  function put(key, given) {
    if (given) verdicts.set(key, given);
    else verdicts.delete(key);
    kept = save(KEY, Object.fromEntries(verdicts));
    unexported = verdicts.size > 0;
    showVerdict(key);
    say(kept ? "" : text("not_saved"));
  }
  function judge(verdict, name) {
    if (!current) return;
    const reviewer = byId("reviewer").value.trim(), key = current.dataset.key;
    if (!REVIEWER.test(reviewer)) { say(text("need_reviewer")); byId("reviewer").focus(); return; }
    history.push({ key, before: verdicts.get(key) || null });
    put(key, { verdict, class: name, reviewer, time: new Date().toISOString() });
    const at = shown.indexOf(current);
    if (at + 1 < shown.length) choose(shown[at + 1]);
  }
  function agree() {
    if (!current || data.blinded) return;
    const label = data.cells[current.dataset.key].label;
    if (label === null) say(text("no_label"));
    else judge("agree", label);
  }
  function toClass(index) {
    const name = data.classes[index];
    if (!current || name === undefined) return;
    if (data.blinded) judge("classify", name);
    else judge(data.cells[current.dataset.key].label === name ? "agree" : "reclassify", name);
  }
  function undo() {
    const last = history.pop();
    if (!last) { say(text("nothing_to_undo")); return; }
    put(last.key, last.before);
    if (shown.includes(cardOf.get(last.key))) choose(cardOf.get(last.key));
  }

  function anew() {
    if (verdicts.size > 0 && !window.confirm(text("anew", { n: verdicts.size }))) return;
    const given = [...verdicts.keys()];
    verdicts.clear();
    history.length = 0;
    byId("reviewer").value = "";
    save(REVIEWER_KEY, "");
    kept = save(KEY, {});
    unexported = false;
    given.forEach(showVerdict);
    arrange();
    choose(shown[0] || null);
    say("");
  }

  // --- export: `cytoserve verdicts check` computes the same hash over the same list --------------------------------
  function exported() {
    const rows = [...verdicts].map(([key, given]) => {
      const { field, field_sha256, cell, box } = data.cells[key];
      return { field, field_sha256, cell, box, ...given };
    }).sort((a, b) => a.field - b.field || a.cell - b.cell);
    const made = {
      schema: data.schema, notice: data.notice, analysis_sha256: data.analysis_sha256, sample: data.sample, site: data.site,
      model: data.model, classes: data.classes, blinded: data.blinded, synthetic: data.synthetic,
      exported: new Date().toISOString(), cells_shown: cards.length, verdicts: rows,
    };
    const signed = [made.schema, made.analysis_sha256, made.blinded, made.classes, made.exported, made.cells_shown,
      rows.map((row) => [row.field, row.field_sha256, row.cell, row.verdict, row.class, row.reviewer, row.time])];
    return { ...made, content_sha256: sha256(JSON.stringify(signed)) };
  }
  function download() {
    if (verdicts.size === 0) { say(text("nothing_to_export")); return; }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify(exported(), null, 2)}\n`], { type: "application/json" }));
    link.download = `verdicts-${data.analysis_sha256.slice(0, 12)}${data.blinded ? "-blinded" : ""}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unexported = false;
    say(text("exported", { n: verdicts.size, file: link.download }), false);
  }

  // --- fields: boxes, zoom --------------------------------------------------------------------------------------
  const zooms = new WeakMap();
  function zoom(button) {
    const picture = button.closest(".field").querySelector(".scroll svg"), by = Number(button.dataset.zoom);
    const now = by === 0 ? 1 : Math.min(12, Math.max(1, (zooms.get(picture) || 1) * by));
    zooms.set(picture, now);
    picture.style.width = `${100 * now}%`;
    picture.style.maxHeight = now > 1 ? "none" : "";
  }
  function boxes(box) {
    document.querySelectorAll(`.boxes.${box.dataset.boxes}`).forEach((group) => { group.toggleAttribute("hidden", !box.checked); });
  }

  // --- keys: letters work only while no field is being filled in, and can be switched off --------------------------
  const KEYS = {
    n: () => step(1), ArrowRight: () => step(1), p: () => step(-1), ArrowLeft: () => step(-1),
    a: agree, u: undo, 0: () => judge("cannot_tell", null),
  };
  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !byId("keys").checked) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
    if (event.key.startsWith("Arrow") && event.target.closest(".scroll, .wide")) return;
    const digit = /^[1-9]$/.test(event.key) && Number(event.key) <= data.digits;
    const action = digit ? () => toClass(Number(event.key) - 1) : KEYS[event.key];
    if (action) { event.preventDefault(); action(); }
  }

  function theme() {
    const chosen = byId("theme").value;
    if (chosen) document.documentElement.dataset.theme = chosen;
    else delete document.documentElement.dataset.theme;
    save("cytoserve.theme", chosen);
  }

  function start() {
    document.documentElement.classList.add("js");
    document.body.classList.toggle("blind", data.blinded);
    byId("theme").value = load("cytoserve.theme") || "";
    byId("reviewer").value = load(REVIEWER_KEY) || "";
    theme();
    kept = save(KEY, Object.fromEntries(verdicts));
    // The list may grow or shrink by screens: what the reader just used stays in view.
    byId("tools").addEventListener("change", () => { arrange(); byId("tools").scrollIntoView({ block: "nearest" }); });
    byId("tools").addEventListener("submit", (event) => event.preventDefault());
    byId("show-all").addEventListener("click", () => { const view = value("view"); byId("tools").reset(); if (view) byId("view").value = view; arrange(); });
    byId("theme").addEventListener("change", theme);
    byId("reviewer").addEventListener("change", () => save(REVIEWER_KEY, byId("reviewer").value.trim()));
    const clicks = { previous: () => step(-1), next: () => step(1), undo, agree, "cannot-tell": () => judge("cannot_tell", null), export: download, anew };
    for (const [id, action] of Object.entries(clicks)) if (byId(id)) byId(id).addEventListener("click", action);
    document.querySelectorAll(".to-class").forEach((button) => button.addEventListener("click", () => toClass(Number(button.dataset.index))));
    document.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => zoom(button)));
    document.querySelectorAll("[data-boxes]").forEach((box) => { box.addEventListener("change", () => boxes(box)); boxes(box); });
    cards.forEach((card) => card.addEventListener("click", () => choose(card)));
    document.querySelectorAll("[data-of]").forEach((box) => box.addEventListener("click", () => choose(cardOf.get(box.dataset.of))));
    document.addEventListener("keydown", pressed);
    window.addEventListener("beforeunload", (event) => { if (unexported && !kept) event.preventDefault(); });
    arrange();
    verdicts.forEach((_, key) => showVerdict(key));
    byId("progress").textContent = text("progress", { done: verdicts.size, all: cards.length });
    say(text(kept ? "saved" : "not_saved"), !kept);
  }
  start();
})();
