"use strict";
// What the page does beyond showing text: tables sort and filter, commands are copied, charts and circuits are drawn
// when they come into view. Text from data is set as text, never as HTML.
(function () {
  async function readText(id) {
    const element = document.getElementById(id);
    if (element.type === "application/json") {
      return element.textContent;
    }
    const packed = atob(element.textContent.trim());
    const bytes = new Uint8Array(packed.length);
    for (let place = 0; place < bytes.length; place++) {
      bytes[place] = packed.charCodeAt(place);
    }
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  const readData = async (id) => JSON.parse(await readText(id));

  // The libraries are most of the page; they run only once they are needed
  const libraries = new Map();

  function loadLibrary(id) {
    if (!libraries.has(id)) {
      libraries.set(id, readText(id).then((text) => {
        const script = document.createElement("script");
        script.textContent = text;
        document.head.append(script);
      }));
    }
    return libraries.get(id);
  }

  function whenVisible(element, act) {
    const observer = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) {
        observer.disconnect();
        act();
      }
    }, { rootMargin: "400px" });
    observer.observe(element);
  }

  // Tables

  function sortValue(cell, isNumber) {
    if (!isNumber) {
      return cell.textContent.trim().toLowerCase();
    }
    const value = parseFloat((cell.dataset.sort || cell.textContent).replace(/[,=]/g, ""));
    return Number.isNaN(value) ? null : value;
  }

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  function sort(table, header) {
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) {
      other.setAttribute("aria-sort", "none");
    }
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const column = Number(header.dataset.column);
    const isNumber = header.classList.contains("number");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row, index) => {
      row.dataset.place ??= index; // equal values stay in the order in which the page came
      return { row, index: Number(row.dataset.place), value: sortValue(row.cells[column], isNumber) };
    });
    rows.sort((a, b) => {
      if (a.value === null || b.value === null) { // without a value: last, either way
        return (a.value === null) - (b.value === null) || a.index - b.index;
      }
      return (descending ? -1 : 1) * compare(a.value, b.value) || a.index - b.index;
    });
    body.append(...rows.map((entry) => entry.row));
  }

  function makeSortable(table) {
    for (const header of table.querySelectorAll("th[data-column]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      header.setAttribute("aria-sort", header.dataset.sorted || "none");
      button.addEventListener("click", () => sort(table, header));
    }
  }

  function makeFilter(form) {
    const table = document.getElementById(form.dataset.table);
    const rows = Array.from(table.tBodies[0].rows);
    const output = form.querySelector("output");
    const apply = () => {
      const words = form.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = Array.from(form.querySelectorAll("select"), (select) => [select.name, select.value]);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const fits = words.every((word) => text.includes(word)) &&
          chosen.every(([name, value]) => !value || row.dataset[name] === value);
        row.hidden = !fits;
        shown += fits;
      }
      output.textContent = `${shown} of ${rows.length} rows`;
    };
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    apply();
  }

  // Commands

  async function copy(button) {
    const text = button.previousElementSibling.textContent;
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = before; }, 2000);
  }

  // Charts

  async function drawChart(element) {
    const [{ configs, [element.dataset.chart]: spec }] = await Promise.all([charts(), loadLibrary("chart-script")]);
    const theme = dark.matches ? "dark" : "light";
    element.replaceChildren();
    const options = {
      ast: true, renderer: "svg", config: configs[theme], tooltip: { theme },
      actions: { export: true, source: false, compiled: false, editor: false },
    };
    await vegaEmbed(element, spec, options);
    describeChart(element);
    element.dataset.drawn = "yes";
  }

  // Vega describes every mark; one sentence for the whole picture says more
  function describeChart(element) {
    for (const part of element.querySelectorAll(".chart-wrapper, .chart-wrapper [role]")) {
      ["role", "aria-roledescription", "aria-label"].forEach((name) => part.removeAttribute(name));
    }
    const picture = element.querySelector("svg.marks");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", element.getAttribute("aria-label"));
    element.querySelector("summary").setAttribute("aria-label", "Save this chart");
  }

  // Circuits

  async function showCircuits(element) {
    const [{ graphs, circuits }] = await Promise.all([readData("circuit-data"), loadLibrary("circuit-script")]);
    const whole = circuits.map((circuit) => ({ ...circuit, graph: graphs[circuit.graph] }));
    circuitkitViewer.mount(element, whole);
    element.dataset.drawn = "yes";
  }

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll("form.tools").forEach(makeFilter);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) {
      copy(button);
    }
  });
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chartData = null;
  const charts = () => (chartData ??= readData("chart-data"));
  const places = Array.from(document.querySelectorAll(".chart"));
  places.forEach((element) => whenVisible(element, () => drawChart(element)));
  dark.addEventListener("change", () => places.filter((element) => element.dataset.drawn).forEach(drawChart));
  const prompts = document.getElementById("prompt-view");
  if (prompts) {
    readData("prompt-data").then((data) => circuitkitPrompts.mount(prompts, data));
  }
  const viewer = document.getElementById("circuit-viewer");
  if (viewer) {
    whenVisible(viewer, () => showCircuits(viewer));
  }
})();
