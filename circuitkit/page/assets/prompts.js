"use strict";
// The prompts of another circuit, and filters. What it builds is what the template `_prompts.html.j2` writes for the
// first circuit. Text from data is set as text, never as HTML.
const circuitkitPrompts = (function () {
  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) {
      element.className = className;
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  const hidden = (text) => make("span", "hidden", text);
  const percent = (thousandths) => (thousandths === null ? "–" : `${(thousandths / 10).toFixed(1)}%`);

  function mount(view, data) {
    const tools = view.querySelector(".tools");
    const [circuits, templates] = tools.querySelectorAll("select");
    const search = tools.querySelector("input[type=search]");
    const failures = tools.querySelector("input[type=checkbox]");
    const output = tools.querySelector("output");
    const ofTemplates = view.querySelector(".templates");
    const none = view.querySelector(".none");
    const body = view.querySelector(".prompts tbody");
    let current = null;

    const token = (number) => make("bdi", "", data.texts[number]);
    const piece = (number) => make("bdi", "piece", data.texts[number].replaceAll(" ", "·"));

    function addAnswers(element, numbers, more) {
      element.append(...numbers.map(piece));
      if (more) {
        element.append(` and ${more} more`);
      }
    }

    function makeAsked([, right, moreRight, wrong, moreWrong]) {
      const element = make("span", "asked", hidden(" answer: "), "→ ");
      if (right.length) {
        addAnswers(element, right, moreRight);
      } else {
        element.append("?");
      }
      if (wrong.length) {
        const not = make("span", "not", "not ");
        addAnswers(not, wrong, moreWrong);
        element.append(" ", not);
      }
      return element;
    }

    function makePrompt(prompt) {
      const cell = make("th");
      cell.scope = "row";
      if (prompt.skipped) {
        cell.append(make("span", "muted", `(${prompt.skipped} tokens) …`));
      }
      const changed = new Map(prompt.changed);
      prompt.tokens.forEach((number, place) => {
        if (changed.has(place)) {
          const below = make("rt", "", hidden(" (corrupted: "), token(changed.get(place)), hidden(") "));
          const text = data.texts[number];
          const word = text.replace(/^ +/, "") || text; // the space in front stays outside, where a line may end
          cell.append(text.slice(0, text.length - word.length), make("ruby", "", make("bdi", "", word), below));
        } else {
          cell.append(token(number));
        }
        cell.append(...prompt.asked.filter((one) => one[0] === place).map(makeAsked));
      });
      const small = make("small", "", `prompt ${prompt.number}`);
      if (data.texts[prompt.label]) {
        small.append(", template ", token(prompt.label));
      }
      cell.append(small);
      return cell;
    }

    function makeReply(reply, name) {
      const cell = make("td");
      cell.dataset.name = name;
      if (reply === null) {
        cell.append("–");
        return cell;
      }
      const [right, wrong, top] = reply;
      cell.append(make("ol", "", ...top.map(([text, share, kind]) => {
        const mark = make("span", "mark", ["", "✓", "✗"][kind]);
        if (kind) {
          mark.append(hidden(["", " answer", " wrong answer"][kind]));
        }
        const bar = make("span");
        bar.style.width = `${(share || 0) / 10}%`;
        const item = make("li", "", piece(text), mark, make("span", "bar", bar), make("span", "share", percent(share)));
        item.className = ["", "right", "wrong"][kind];
        return item;
      })));
      if (right !== null) {
        cell.append(make("p", "", `answer ${percent(right)}${wrong === null ? "" : `, wrong ${percent(wrong)}`}`));
      }
      return cell;
    }

    function makeRow(circuit, [place, state, value, faithfulness, reply]) {
      const { prompts, full, values, objective } = data.sets[circuit.set];
      const figures = make("td", "", faithfulness, make("small", "", `${objective} ${value}, model ${values[place]}`));
      figures.dataset.name = "Faithfulness";
      return make("tr", state < data.failures ? "failure" : "",
        make("td", "", make("span", "state", data.states[state])), makePrompt(prompts[place]),
        makeReply(full[place], "Model"), makeReply(reply, "Circuit"), figures);
    }

    function makeTemplate([label, ...values]) {
      const head = make("th", "", token(label));
      head.scope = "row";
      return make("tr", "", head, ...values.map((value) => make("td", "", String(value))));
    }

    function show() {
      current = data.circuits[Number(circuits.value)];
      view.querySelector("h3").textContent = current.name;
      view.querySelector(".says").replaceChildren(...current.says.map((sentence) => make("p", "", sentence)));
      ofTemplates.hidden = !current.templates.length;
      ofTemplates.querySelector("tbody").replaceChildren(...current.templates.map(makeTemplate));
      for (const header of ofTemplates.querySelectorAll("th[aria-sort]")) {
        header.setAttribute("aria-sort", "none");
      }
      body.replaceChildren(...current.rows.map((row) => makeRow(current, row)));
      listTemplates();
    }

    function listTemplates() {
      const before = templates.value;
      const labels = new Set(data.sets[current.set].prompts.map((prompt) => data.texts[prompt.label]));
      const sorted = Array.from(labels).filter(Boolean).sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
      templates.replaceChildren(new Option("all", ""), ...sorted.map((label) => new Option(label, label)));
      templates.value = labels.has(before) ? before : "";
      templates.parentElement.hidden = sorted.length < 2;
    }

    function filter() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const { prompts } = data.sets[current.set];
      let shown = 0;
      current.rows.forEach(([place, state], index) => {
        const row = body.rows[index];
        const text = row.textContent.toLowerCase();
        const label = data.texts[prompts[place].label];
        const fits = (!failures.checked || state < data.failures) && (!templates.value || label === templates.value) &&
          words.every((word) => text.includes(word));
        row.hidden = !fits;
        shown += fits;
      });
      none.hidden = shown > 0;
      output.textContent = `${shown} of ${current.rows.length} prompts`;
    }

    current = data.circuits[0];
    listTemplates();
    circuits.addEventListener("change", show);
    tools.addEventListener("input", filter);
    tools.addEventListener("change", filter);
    tools.hidden = false;
    filter();
  }

  return { mount };
})();
