// The pages: all runs, one run, one task, tasks that ended. The path says which.
import { barChart, lineChart, stepChart } from "./charts.js";
import { clock, count, duration, el, keyedTable, link, moment, rate, say } from "./dom.js";

const parameters = new URLSearchParams(location.search);
const run = parameters.get("run") || "";
const main = document.getElementById("main");
let session = { may_see: false, may_change: false, has_token: false, secret: "" };

// -- talking to the server ------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The web server does not answer: has `broker web` ended?");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(typeof body.detail === "string" ? body.detail : `The server answered ${answer.status}.`);
  return body;
}

const post = (path, body) => ask(path, {
  method: "POST", body: JSON.stringify(body),
  headers: { "content-type": "application/json", "x-broker-secret": session.secret },
});

const problems = new Map();
/** Shows why something failed at the top; empty: the problem of that name is over. */
function problem(name, text) {
  if (text) problems.set(name, text); else problems.delete(name);
  const box = document.getElementById("problem");
  say(box, [...problems.values()].join(" "));
  box.hidden = problems.size === 0;
}

async function change(action, names = [], question = "") {
  if (question && !confirm(question)) return null;
  try {
    const answer = await post("/api/change", { run, action, names });
    problem("change", "");
    return answer;
  } catch (error) {
    problem("change", error.message);
    return null;
  }
}

function sessionBox() {
  const box = document.getElementById("session");
  if (session.may_change) {
    box.replaceChildren(el("button", { click: async () => { await post("/api/logout", {}); location.reload(); } }, "Log out"));
  } else if (session.has_token && session.may_see) {
    box.replaceChildren(el("button", { click: () => main.replaceChildren(logIn()) }, "Log in to change runs"));
  } else {
    box.replaceChildren(el("span", { class: "dim" }, session.has_token ? "" : "read-only"));
  }
}

function logIn() {
  const field = el("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const form = el("form", {
    class: "card", submit: async (event) => {
      event.preventDefault();
      try {
        await post("/api/login", { token: field.value });
        location.reload();
      } catch (error) {
        problem("login", error.message);
        field.select();
      }
    },
  }, el("h1", {}, "Token"), el("p", {}, "Give the token that `broker web` was started with."),
  el("div", { class: "bar" }, el("label", { for: "token" }, "Token"), field, el("button", {}, "Log in")));
  setTimeout(() => field.focus());
  return form;
}

// -- all runs -------------------------------------------------------------------------------------------------------

const STATE_KIND = { open: "good", paused: "warn", draining: "warn", recovering: "warn", halted: "bad", finished: "idle" };

async function showRuns() {
  document.title = "runs – rollout broker";
  const numbers = ["version", "capacity", "workers", "pending", "delayed", "running", "ready", "consumed", "dead", "rejected"];
  const table = keyedTable("Runs on this server", [
    { title: "run", name: true, cell: (row) => ({ text: row.run, href: link("run", { run: row.run }) }) },
    { title: "state", cell: (row) => ({ text: row.state, kind: STATE_KIND[row.state] || "idle" }) },
    ...numbers.map((name) => ({ title: name, number: true, cell: (row) => (row.admission && !["version", "capacity", "workers", "running"].includes(name) ? "–" : count(row[name])) })),
  ], (row) => row.run, "There is no run on this server.");
  const field = el("input", { type: "search", id: "filter", placeholder: "part of a name", input: () => show() });
  let found = { runs: [], more: 0 };
  const show = () => table.update(found.runs.filter((row) => row.run.includes(field.value)), found.more ? `, the first ${found.runs.length}; ${count(found.more)} more` : "");
  main.replaceChildren(el("h1", {}, "Runs"), el("div", { class: "card" },
    el("div", { class: "bar" }, el("label", { for: "filter" }, "Show"), field), table));
  await again(async () => { found = await ask("/api/runs"); show(); }, 2000);
}

/** Calls something now and again; its failures are shown. */
async function again(look, pauseMs) {
  for (;;) {
    try {
      if (!document.hidden) await look();
      problem("look", "");
    } catch (error) {
      problem("look", error.message);
      if (main.firstElementChild?.textContent === "Loading …") main.replaceChildren(el("p", {}, error.message));
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

// -- one run --------------------------------------------------------------------------------------------------------

const WORD_KIND = {
  working: "good", finished: "idle", idle: "warn", no_task: "idle", no_worker: "bad", halted: "bad", paused: "warn",
  draining: "warn", recovering: "warn", retries: "warn", weights_stale: "bad", quarantined: "bad", trainer: "warn",
};

function tile(name) {
  const value = el("div", { class: "value" }), more = el("div", { class: "more" });
  const box = el("div", { class: "card tile" }, el("div", { class: "name" }, name), value, more);
  box.update = (text, note = "") => { say(value, text); say(more, note); };
  return box;
}

const card = (title, ...children) => el("section", { class: "card", "aria-label": title }, el("h2", {}, title), ...children);
const wide = (box) => { box.classList.add("wide"); return box; };
const taskLink = (task) => ({ text: task, href: link("task", { run, id: task }) });
const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : 0);

function runPage() {
  const word = el("span", { class: "word" }), first = el("span"), claim = el("p"), remedies = el("ul", { class: "remedies", "aria-label": "What would change it" });
  const situation = el("section", { class: "card situation", "aria-label": "Situation" },
    el("div", { "aria-live": "polite" }, el("p", { class: "first" }, word, " ", first), claim, remedies));
  const buttons = el("div", { class: "bar" });
  situation.append(buttons);
  const tiles = {
    version: tile("version"), capacity: tile("capacity"), accepted: tile("accepted a second"), trained: tile("trained a second"),
    workers: tile("workers"), generation: tile("generation time, median"), queue: tile("waiting tasks"), ready: tile("ready rollouts"),
    consumed: tile("trained"), dead: tile("dead"), rejected: tile("rejected"), trainer: tile("trainer"),
  };
  const throughput = lineChart("results a second"), failures = lineChart("failures a second"), counters = lineChart("tasks");
  const staleness = barChart("staleness of trained rollouts"), times = barChart("generation times"), timeline = stepChart("steps");
  const formula = el("pre");
  const steps = keyedTable("For which rollout each batch waited", [
    { title: "step", number: true, cell: (row) => count(row.step) },
    { title: "rollouts", number: true, cell: (row) => count(row.size) },
    { title: "filled in", number: true, cell: (row) => (row.first_ms && row.sealed_ms ? duration((row.sealed_ms - row.first_ms) / 1000) : row.first_ms ? "filling" : "") },
    { title: "last rollout", name: true, cell: (row) => (row.last_task ? taskLink(row.last_task) : "") },
    { title: "made by", name: true, cell: (row) => row.last_worker },
    { title: "in", number: true, cell: (row) => (row.last_took_s ? duration(row.last_took_s) : "") },
    { title: "widest gap", number: true, cell: (row) => (row.widest_gap_s ? duration(row.widest_gap_s) : "") },
  ], (row) => row.step, "No step yet.");
  const workers = keyedTable("By the end of their lease, those that fell silent first", [
    { title: "worker", name: true, cell: (row) => ({ text: row.worker, title: row.session }) },
    { title: "", cell: (row) => (row.quarantine_s ? { text: `quarantined, ${duration(row.quarantine_s)}`, kind: "bad" } : row.silent ? { text: "silent", kind: "bad" } : row.held ? { text: "busy", kind: "good" } : { text: row.reason ? row.reason.replaceAll("_", " ") : "idle", kind: row.reason === "weights_stale" ? "bad" : "idle" }) },
    { title: "holds", number: true, cell: (row) => count(row.held) },
    { title: "the oldest for", number: true, cell: (row) => duration(row.oldest_held_s) },
    { title: "done", number: true, cell: (row) => count(row.done) },
    { title: "failed", number: true, cell: (row) => (row.failed ? `${count(row.failed)} (${Math.round((100 * row.failed) / (row.failed + row.done))}%)` : "0") },
    { title: "last sign", number: true, cell: (row) => `${duration(row.silent_s)} ago` },
    { title: "lease", number: true, cell: (row) => (row.lease_left_s > 0 ? duration(row.lease_left_s) : "passed") },
  ], (row) => row.session, "No worker is connected.");
  const stragglers = keyedTable("Attempts that are held for the longest time", [
    { title: "task", name: true, cell: (row) => taskLink(row.task) },
    { title: "worker", name: true, cell: (row) => row.worker },
    { title: "for", number: true, cell: (row) => duration(row.held_s) },
    { title: "next to others", cell: (row) => (row.slow ? { text: row.slow, kind: "warn" } : "") },
    { title: "version", number: true, cell: (row) => count(row.version) },
  ], (row) => row.attempt, "Nothing is held.");
  const log = keyedTable("The last transitions, the newest first", [
    { title: "at", cell: (row) => clock(row.at_ms) }, { title: "event", cell: (row) => row.kind },
    { title: "what", name: true, cell: (row) => row.text },
  ], (row) => row.key, "Nothing has happened yet, or the run keeps no events.");
  log.classList.add("log");
  const totals = keyedTable("Since the start", [
    { title: "", cell: (row) => row[0].replaceAll("_", " ") }, { title: "times", number: true, cell: (row) => count(row[1]) },
  ], (row) => row[0], "Nothing yet.");
  const ended = keyedTable("Attempts without a result, by reason (as far as the event log goes)", [
    { title: "why", cell: (row) => row[0] }, { title: "attempts", number: true, cell: (row) => count(row[1]) },
  ], (row) => row[0], "No attempt ended without a result.");
  const lost = keyedTable("Generated in vain, since the start", [
    { title: "why", cell: (row) => row[0] }, { title: "time", number: true, cell: (row) => duration(row[1]) },
  ], (row) => row[0], "Nothing was generated in vain.");
  const recoveries = keyedTable("Of the last recoveries", [
    { title: "at", cell: (row) => moment(row.began_ms) }, { title: "to version", number: true, cell: (row) => count(row.to) },
    { title: "took", number: true, cell: (row) => (row.ended_ms ? duration((row.ended_ms - row.began_ms) / 1000) : "not committed") },
    { title: "tasks put back", number: true, cell: (row) => count(row.put_back) },
    { title: "attempts ended", number: true, cell: (row) => count(row.attempts_ended) },
  ], (row) => row.began_ms, "No recovery yet.");
  const halt = keyedTable("Why the run is halted: the last errors", [
    { title: "task", name: true, cell: (row) => taskLink(row.task) }, { title: "worker", name: true, cell: (row) => row.worker },
    { title: "at", cell: (row) => clock(row.at_ms) }, { title: "error", name: true, cell: (row) => row.error },
  ], (row) => row.task + row.at_ms, "");
  const haltCard = wide(card("Halted", halt));
  const live = el("input", { type: "checkbox", id: "live", checked: true });
  const find = el("input", { type: "search", id: "task-id", placeholder: "id of a task" });
  const searching = el("form", { class: "bar", submit: (event) => { event.preventDefault(); if (find.value.trim()) location.href = link("task", { run, id: find.value.trim() }); } },
    el("label", { for: "task-id" }, "Task"), find, el("button", {}, "Show"));
  const notes = el("p", { class: "dim" });
  main.replaceChildren(
    el("div", { class: "bar", style: null }, el("h1", {}, run), searching,
      el("span", { class: "bar" }, live, el("label", { for: "live" }, "live"))),
    situation, el("div", { class: "tiles" }, Object.values(tiles)),
    el("div", { class: "grid" }, haltCard,
      card("Results a second, the last 5 minutes", throughput), card("Tasks, since this page was opened", counters),
      card("Staleness by step", staleness), card("Generation times", times),
      wide(card("Workers", workers)), card("Steps", timeline, steps), card("Stragglers", stragglers),
      card("Failures and late results a second", failures, ended, lost),
      card("Capacity", formula, totals), wide(card("Recoveries", recoveries)),
      wide(card("Log", log))),
    notes);

  const seen = { at: [], capacity: [], running: [], ready: [], pending: [] };
  const drawn = (values) => { // at most 60 points: five seconds each
    const points = [];
    for (let i = 0; i < values.length; i += 5) points.push(mean(values.slice(i, i + 5)));
    return points;
  };
  const changing = (look) => {
    const make = (text, action, question = "") => el("button", { click: () => change(action, [], question) }, text);
    const made = look.state === "halted" ? [make("Resume the halted run", "resume_halted", "End the halt? Look at the errors first.")]
      : look.state === "paused" || look.state === "draining" ? [make("Resume", "resume")]
        : look.state === "open" ? [make("Pause", "pause"), make("Drain", "drain")] : [];
    if (look.numbers.quarantined) made.push(make("Readmit quarantined workers", "readmit"));
    return made;
  };
  let buttonsFor = "";
  return (look) => {
    if (!live.checked) return;
    const { numbers, tasks, per_second: second } = look;
    document.title = `${run}: ${look.situation.word.replaceAll("_", " ")}`;
    const kind = WORD_KIND[look.situation.word] || "idle";
    situation.className = `card situation ${kind}`;
    word.className = `word ${kind}`;
    say(word, look.situation.word.replaceAll("_", " "));
    say(first, look.situation.sentence);
    say(claim, `Would a worker with the newest weights get a task now? ${look.claim.sentence}`);
    if (remedies.textContent !== look.claim.remedies.join("")) remedies.replaceChildren(...look.claim.remedies.map((text) => el("li", {}, text)));
    if (session.may_change && buttonsFor !== look.state + !!numbers.quarantined) {
      buttonsFor = look.state + !!numbers.quarantined;
      buttons.replaceChildren(...changing(look));
    }
    const lately = (values) => mean(values.slice(-31, -1)); // the second that goes on is left out
    tiles.version.update(count(numbers.version), `next step ${numbers.step_next}, recoverable from ${numbers.floor}`);
    tiles.capacity.update(count(numbers.capacity), `batch ${numbers.batch_size}, ${numbers.max_staleness === null ? "staleness not bounded" : `max_staleness ${numbers.max_staleness}`}`);
    tiles.accepted.update(rate(lately(second.accepted)), "mean of 30 s");
    tiles.trained.update(rate(lately(second.trained)), "mean of 30 s");
    tiles.workers.update(count(numbers.workers), `${numbers.busy} busy with ${count(numbers.held)} ${numbers.held === 1 ? "slot" : "slots"}${numbers.silent ? `, ${numbers.silent} silent` : ""}${numbers.quarantined ? `, ${numbers.quarantined} quarantined` : ""}`);
    const generation = look.generation_s;
    tiles.generation.update(generation.p50 === undefined ? "–" : duration(generation.p50), generation.p90 === undefined ? "" : `p90 ${duration(generation.p90)}, p99 ${duration(generation.p99)}`);
    tiles.queue.update(count(tasks.pending), tasks.delayed ? `and ${count(tasks.delayed)} in backoff` : `${count(tasks.running)} running`);
    tiles.ready.update(count(tasks.ready), `and ${count(tasks.batched)} in the batch`);
    tiles.consumed.update(count(tasks.consumed), "tasks, since the start");
    tiles.dead.update(count(tasks.dead), "");
    tiles.rejected.update(count(tasks.rejected), "");
    tiles.trainer.update(numbers.trainer_silent_s === null ? "–" : duration(numbers.trainer_silent_s), numbers.trainer_silent_s === null ? "gives no signs of life" : "since its last sign of life");
    for (const kind of ["dead", "rejected"]) {
      if (!tiles[kind].link) {
        tiles[kind].link = el("a", { href: link("ended", { run, kind }) }, "show them");
        tiles[kind].append(tiles[kind].link);
      }
      tiles[kind].link.hidden = !tasks[kind];
    }
    throughput.update(["accepted", "trained"].map((name) => ({ name, values: drawn(second[name]), shown: rate(lately(second[name])) })), "5 min ago", "now");
    failures.update(["failed", "late"].map((name) => ({ name, values: drawn(second[name]), shown: rate(lately(second[name])) })), "5 min ago", "now");
    const given = { capacity: numbers.capacity, running: tasks.running, ready: tasks.ready + tasks.batched, pending: tasks.pending };
    seen.at.push(look.now_ms);
    for (const [name, value] of Object.entries(given)) seen[name].push(value);
    if (seen.at.length > 600) for (const values of Object.values(seen)) values.shift();
    counters.update(["capacity", "running", "ready"].map((name) => ({ name, values: seen[name], shown: count(given[name]) })),
      seen.at.length > 1 ? `${duration((look.now_ms - seen.at[0]) / 1000)} ago` : "", "now");
    const behind = [...new Set(look.steps.flatMap((step) => Object.keys(step.staleness).map(Number)))].sort((a, b) => a - b);
    const most = Math.max(0, ...behind);
    const names = Array.from({ length: Math.min(5, most) + 1 }, (_, i) => (i === 5 ? "5 or more behind" : `${i} behind`));
    const bars = look.steps.map((step) => {
      const parts = names.map((_, i) => Object.entries(step.staleness).filter(([by]) => Math.min(5, Math.max(0, +by)) === i).reduce((sum, [, number]) => sum + number, 0));
      return { title: `step ${step.step}: ${Object.entries(step.staleness).map(([by, number]) => `${number} are ${by} behind`).join(", ")}`, parts };
    });
    const all = look.steps.reduce((sum, step) => sum + Object.values(step.staleness).reduce((a, b) => a + b, 0), 0);
    const weighted = look.steps.reduce((sum, step) => sum + Object.entries(step.staleness).reduce((a, [by, number]) => a + by * number, 0), 0);
    staleness.update(bars, names, look.steps.length ? `step ${look.steps[0].step}` : "", look.steps.length ? `step ${look.steps[look.steps.length - 1].step}` : "",
      all ? `mean ${(weighted / all).toFixed(2)}, most ${most}, over ${look.steps.length} steps` : "no step yet");
    times.update(look.times.map(([low, high, number]) => ({ title: `${duration(low)} to ${duration(high)}: ${number}`, parts: [number] })), ["attempts"],
      look.times.length ? duration(look.times[0][0]) : "", look.times.length ? duration(look.times[look.times.length - 1][1]) : "",
      generation.p50 === undefined ? "none yet" : `median ${duration(generation.p50)}, 99% within ${duration(generation.p99)}`);
    timeline.update(look.steps, look.now_ms);
    steps.update(look.steps.slice(-12).reverse());
    workers.update(look.workers.rows, look.workers.more ? `: the first ${look.workers.rows.length}, and ${count(look.workers.more)} more` : "");
    stragglers.update(look.stragglers.slice(0, 12));
    say(formula, look.formula.join("\n"));
    totals.update(Object.entries(look.totals));
    ended.update(Object.entries(look.ended));
    lost.update(Object.entries(look.lost_s));
    recoveries.update(look.recoveries);
    haltCard.hidden = !look.halt;
    if (look.halt) halt.update(look.halt.errors, `: ${look.halt.failures} failures without an accepted result, of ${look.halt.workers.join(", ")}`);
    log.update(look.transitions.map((row) => ({ ...row, key: `${row.id}/${row.place}` })));
    say(notes, (look.has_events ? "" : "The run keeps no events (events_maxlen is 0): rates, steps and the log stay empty. ")
      + (look.has_gap ? "Events were trimmed before they were read: counts from the log are too small. " : "")
      + `Last look: ${moment(look.now_ms)} (the server's clock).`);
  };
}

async function showRun() {
  document.getElementById("path").replaceChildren(" / ", el("a", { href: link("run", { run }), "aria-current": "page" }, run));
  let update = null;
  const take = (news) => {
    problem("look", news.problem ? `${news.problem} The page shows the last look.` : "");
    if (!news.look) { if (news.problem && !update) main.replaceChildren(el("h1", {}, run), el("p", {}, news.problem)); return; }
    update = update || runPage();
    update(news.look);
  };
  const stream = new EventSource(`/api/stream?${new URLSearchParams({ run })}`);
  stream.onmessage = (event) => take(JSON.parse(event.data));
  stream.onerror = () => problem("look", "The web server does not answer; the page tries again.");
  addEventListener("pagehide", () => stream.close());
}

// -- one task -------------------------------------------------------------------------------------------------------

async function showTask() {
  const id = parameters.get("id") || "";
  document.title = `${id} – ${run}`;
  document.getElementById("path").replaceChildren(" / ", el("a", { href: link("run", { run }) }, run), " / ", el("span", { "aria-current": "page" }, id));
  const look = async () => {
    const { task, history, is_whole: whole, payload } = await ask(`/api/task?${new URLSearchParams({ run, id })}`);
    const parts = [el("h1", {}, id)];
    if (session.may_change) {
      const make = (text, action, question) => el("button", {
        click: async () => {
          const answer = await change(action, [id], question);
          if (answer) { await look(); problem("change", Object.values(answer.answers)[0].match(/retried|cancelled/) ? "" : `Not done: the task is ${Object.values(answer.answers)[0]}.`); }
        },
      }, text);
      const state = task?.state;
      if (state === "dead" || state === "rejected") parts.push(make("Retry", "retry"));
      else if (state && !["sealed", "consumed"].includes(state)) parts.push(make("Cancel", "cancel", `Cancel ${id}? It will be rejected.`));
    }
    if (task) {
      const facts = [["state", task.state], ["reason", task.reason], ["priority", task.priority], ["errors", task.errors], ["times back to waiting", task.requeues],
        ["of these for staleness", task.stale_requeues], ["oldest version", task.oldest < 0 ? "" : task.oldest], ["step", task.step < 0 ? "" : task.step], ["payload", `${count(task.payload_bytes)} bytes`]];
      parts.push(el("div", { class: "card" }, el("h2", {}, "Now"), el("table", {}, el("tbody", {}, facts.filter(([, value]) => value !== "" && value !== null)
        .map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "name" }, String(value))))))));
      if (task.slots.length) {
        const slots = keyedTable("Slots", [
          { title: "slot", number: true, cell: (row) => row.slot }, { title: "now", cell: (row) => row.now || "" },
          { title: "tries", number: true, cell: (row) => row.tries }, { title: "last attempt", name: true, cell: (row) => row.attempt_id },
          { title: "worker", name: true, cell: (row) => row.worker }, { title: "version", number: true, cell: (row) => row.version },
          { title: "claimed", cell: (row) => (row.at_ms ? moment(row.at_ms) : "") }, { title: "it ended", cell: (row) => row.why },
        ], (row) => row.slot, "");
        slots.update(task.slots);
        parts.push(el("div", { class: "card" }, slots));
      }
      if (task.last_failure) {
        const failure = task.last_failure;
        parts.push(el("section", { class: "card", "aria-label": "Last error" },
          el("h2", {}, `Last error${failure.kind === "worker" ? ", a fault of its worker" : ""}: ${moment(failure.at_ms)}`),
          el("p", { class: "dim" }, failure.attempt_id), el("pre", { tabindex: "0" }, failure.trace.trim() || failure.message)));
      }
    } else parts.push(el("p", {}, "The run keeps no record of this task any more; this is what the event log still has."));
    if (payload !== null) parts.push(el("section", { class: "card", "aria-label": "Payload" }, el("h2", {}, "Payload"), el("pre", { tabindex: "0" }, payload)));
    const log = keyedTable(whole ? "History, by the event log" : `History, by the event log: the last ${history.length} transitions`, [
      { title: "at", cell: (row) => moment(row.at_ms) }, { title: "event", cell: (row) => row.kind }, { title: "what", name: true, cell: (row) => row.text },
    ], (row) => `${row.id}/${row.place}`, "The event log has nothing of this task: it is trimmed, or switched off.");
    log.update(history);
    parts.push(el("div", { class: "card" }, log));
    main.replaceChildren(...parts);
  };
  try { await look(); } catch (error) { problem("look", error.message); main.replaceChildren(el("h1", {}, id), el("p", {}, error.message)); }
}

// -- tasks that ended -----------------------------------------------------------------------------------------------

async function showEnded() {
  const kind = parameters.get("kind") === "rejected" ? "rejected" : "dead";
  document.title = `${kind} tasks – ${run}`;
  document.getElementById("path").replaceChildren(" / ", el("a", { href: link("run", { run }) }, run), " / ", el("span", { "aria-current": "page" }, `${kind} tasks`));
  const retried = async (ids) => {
    const answer = await change("retry", ids);
    if (answer) await look();
  };
  const columns = [
    { title: "task", name: true, cell: (row) => taskLink(row.id) },
    { title: "since", cell: (row) => moment(row.at_ms) },
    { title: "why", name: true, cell: (row) => row.reason },
  ];
  if (session.may_change) {
    const made = new Map();
    columns.push({ title: "", cell: (row) => { if (!made.has(row.id)) made.set(row.id, el("button", { click: () => retried([row.id]), "aria-label": `Retry ${row.id}` }, "Retry")); return made.get(row.id); } });
  }
  const table = keyedTable(`The newest ${kind} tasks`, columns, (row) => row.id, `No task is ${kind}.`);
  let rows = [];
  const all = session.may_change ? el("button", { click: () => rows.length && confirm(`Start ${rows.length} tasks over?`) && retried(rows.map((row) => row.id)) }, "Retry all that are shown") : "";
  main.replaceChildren(el("h1", {}, `${kind} tasks`), el("div", { class: "bar" },
    el("a", { href: link("ended", { run, kind: kind === "dead" ? "rejected" : "dead" }) }, kind === "dead" ? "rejected tasks" : "dead tasks"), all), el("div", { class: "card" }, table));
  const look = async () => {
    const found = await ask(`/api/ended?${new URLSearchParams({ run, kind })}`);
    rows = found.rows;
    table.update(rows, found.more ? `; ${count(found.more)} more` : "");
  };
  await again(look, 3000);
}

// -- start ----------------------------------------------------------------------------------------------------------

const PAGES = { "/runs": showRuns, "/run": showRun, "/task": showTask, "/ended": showEnded };

try {
  session = await ask("/api/session");
  sessionBox();
  if (!session.may_see) main.replaceChildren(logIn());
  else await PAGES[location.pathname]();
} catch (error) {
  problem("look", error.message);
  main.replaceChildren(el("p", {}, error.message));
}
