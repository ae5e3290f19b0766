"use strict";
// The viewer: controls, one or two pictures, and what is said about them.
(function (viewer) {
  const { make, count, figure, Model, Drawing, SizeControl } = viewer;
  const MOST_DRAWN = 3000; // more are neither drawn in good time nor read
  const ROWS = 20;
  const KINDS = [["q", "query"], ["k", "key"], ["v", "value"], ["mlp", "MLP"], ["logits", "logits"]];
  const SOURCES = {
    given: "given, not measured here",
    tested: "the effect of removing this edge alone",
    estimated: "a first-order estimate, from a gradient",
    dead: "untested: no path led from it to the logits",
    joint: "the effect of removing it together with others",
  };
  const COLORS = ["text", "muted", "line", "surface", "shade", "focus", "positive", "negative", "both", "first", "second"];

  class Viewer {
    constructor(element, circuits) {
      this.models = circuits.map((data) => new Model(data));
      this.first = this.models[0];
      this.second = null;
      this.sideBySide = false;
      this.filter = { kinds: new Set(KINDS.map(([kind]) => kind)), weakest: 0, pathsOnly: true };
      this.focused = null;
      this.wholePaths = false;
      element.classList.add("circuitkit-viewer");
      element.replaceChildren(this.makeControls(), this.makeFigure(), this.makeDetails());
      this.drawings = this.canvases.map((canvas, index) => new Drawing(
        canvas, (what) => this.hover(what, index), (what) => this.tap(what, index)));
      this.dark = window.matchMedia("(prefers-color-scheme: dark)");
      this.recolor = () => this.drawings.forEach((drawing) => drawing.recolor(readColors(element)));
      this.dark.addEventListener("change", this.recolor);
      this.recolor();
      this.sizer = new ResizeObserver(() => this.resize());
      this.setCircuits(this.first, null);
      this.canvases.forEach((canvas) => this.sizer.observe(canvas));
    }

    // Building the page

    makeControls() {
      const names = this.models.map((model) => model.name);
      this.sizeA = new SizeControl("Circuit", () => this.update());
      this.sizeB = new SizeControl("Compared with", () => this.update());
      const parts = [];
      if (this.models.length > 1) {
        this.chooser = viewer.select("Circuit", names, (index) => this.setCircuits(this.models[index], this.second));
        this.comparer = viewer.select("Compare with", ["nothing", ...names], (index) =>
          this.setCircuits(this.first, index ? this.models[index - 1] : null));
        this.placing = viewer.select("Show both", ["in one picture", "side by side"], (index) => {
          this.sideBySide = index === 1;
          this.layOut();
        });
        parts.push(this.chooser.element, this.comparer.element, this.placing.element);
      }
      parts.push(this.sizeA.element, this.sizeB.element, this.makeFilters(), this.makeSearch());
      return make("form", { class: "ck-controls", "aria-label": "What to show", onsubmit: (event) => event.preventDefault() },
        ...parts);
    }

    makeFilters() {
      const filters = make("fieldset", { class: "ck-filters" }, make("legend", {}, "Edges into"));
      for (const [kind, label] of KINDS) {
        if (kind === "mlp" && !this.models.some((model) => model.graph.mlps)) continue;
        filters.append(viewer.checkbox(label, true, (on) => {
          this.filter.kinds[on ? "add" : "delete"](kind);
          this.update();
        }, "ck-kind-" + kind));
      }
      const id = viewer.newId("weakest");
      const weakest = make("input", { id, type: "number", min: 0, step: "any", value: 0, onchange: () => {
        this.filter.weakest = Math.max(0, Number(weakest.value) || 0);
        this.update();
      } });
      filters.append(
        make("p", { class: "ck-field" }, make("label", { for: id }, "Hide |score| below"), weakest),
        viewer.checkbox("Only edges on a path from input to logits, as evaluated", true, (on) => {
          this.filter.pathsOnly = on;
          this.update();
        }));
      return filters;
    }

    makeSearch() {
      const [id, listId, wayId] = ["search", "nodes", "way"].map(viewer.newId);
      this.names = make("datalist", { id: listId });
      this.search = make("input", { id, type: "search", list: listId, autocomplete: "off", placeholder: "a3.h5",
        onchange: () => this.find(this.search.value.trim()) });
      const way = make("input", { id: wayId, type: "checkbox", onchange: () => {
        this.wholePaths = way.checked;
        this.highlight();
      } });
      return make("fieldset", {}, make("legend", {}, "Node or edge"),
        make("p", { class: "ck-field" }, make("label", { for: id }, "Find"), this.search, this.names,
          make("button", { type: "button", onclick: () => this.focus(null) }, "Show all")),
        make("label", { class: "ck-check" }, way, "Follow whole paths, upstream and downstream"));
    }

    makeFigure() {
      this.canvases = [0, 1].map((index) => make("div", { class: "ck-canvas", tabindex: 0, role: "application",
        "aria-label": "Picture of the circuit. Arrow keys go from node to node, plus and minus zoom, Escape shows all.",
        onkeydown: (event) => this.press(event, index) }));
      this.captions = [0, 1].map(() => make("figcaption", {}));
      this.figures = [0, 1].map((index) => make("figure", {}, this.captions[index], this.canvases[index]));
      this.legend = make("p", { class: "ck-legend" });
      this.status = make("p", { class: "ck-status", role: "status", "aria-live": "polite" });
      const button = (label, text, act) => make("button", { type: "button", "aria-label": label, onclick: act }, text);
      const zoom = (factor) => () => this.active.forEach((drawing) => drawing.zoom(factor));
      const tools = make("p", { class: "ck-tools" }, button("Zoom in", "+", zoom(1.25)), " ",
        button("Zoom out", "−", zoom(0.8)), " ", button("Show the whole picture", "fit", () => this.fit()),
        make("span", {}, " or Ctrl and the wheel"));
      this.details = make("div", { class: "ck-about", role: "status", "aria-live": "polite" });
      return make("div", { class: "ck-picture" }, this.status, this.legend, tools,
        make("div", { class: "ck-figures" }, ...this.figures), this.details);
    }

    makeDetails() {
      this.strongest = make("div", { class: "ck-strongest" });
      this.nodes = make("div", { class: "ck-nodes" });
      return make("div", { class: "ck-details" }, this.nodes, this.strongest);
    }

    // Choosing circuits

    setCircuits(first, second) {
      const possible = second && second !== first && second.sameGraph(first) ? second : null;
      if (second && !possible) {
        this.comparer.list.value = 0;
        this.problem = second === first ? "" : "Those two circuits are of different models, so they are not compared. ";
      } else this.problem = "";
      if (first !== this.sizeA.model) this.sizeA.setModel(first);
      if (possible && possible !== this.sizeB.model) this.sizeB.setModel(possible);
      if (!first.sameGraph(this.first)) this.focused = null;
      [this.first, this.second] = [first, possible];
      this.sizeA.title.textContent = first.name;
      this.sizeB.title.textContent = possible ? possible.name : "";
      this.sizeB.element.hidden = !possible;
      if (this.placing) this.placing.element.hidden = !possible;
      const { writers, readers } = first.graph;
      this.names.replaceChildren(...[...new Set([...writers.name, ...readers.name])].map((name) =>
        make("option", { value: name })));
      this.layOut();
    }

    layOut() {
      this.both = this.sideBySide && this.second !== null;
      this.figures[1].hidden = !this.both;
      const narrow = window.matchMedia("(max-width: 48rem)").matches;
      const { graph } = this.first;
      const room = this.canvases[0].clientWidth || Infinity;
      const most = Math.min(narrow ? 0.75 * window.innerHeight : 1250, Drawing.tallest(graph, room));
      const height = Math.max(300, Math.min((graph.top + 1) * 36, most));
      this.canvases.forEach((canvas) => { canvas.style.height = height + "px"; });
      this.active = this.both ? this.drawings : this.drawings.slice(0, 1);
      this.active.forEach((drawing) => drawing.setGraph(this.first));
      this.update();
      this.fit();
    }

    fit() {
      this.active.forEach((drawing) => drawing.fit());
    }

    // The room has changed: columns may have to be wider
    resize() {
      if (this.active.some((drawing) => drawing.isMisplaced())) this.layOut();
      else this.fit();
    }

    // Showing

    update() {
      const a = this.first.select(this.sizeA.size, this.filter);
      const b = this.second ? this.second.select(this.sizeB.size, this.filter) : null;
      this.items = this.makeItems(this.first, a);
      this.itemsB = b ? this.makeItems(this.second, b) : [];
      const inB = new Set(this.itemsB.map((item) => item.key));
      const inA = new Set(this.items.map((item) => item.key));
      if (b) {
        this.items.forEach((item) => { item.classes += inB.has(item.key) ? " both" : " first"; });
        this.itemsB.forEach((item) => { item.classes += inA.has(item.key) ? " both" : " second"; });
      }
      const onlyB = this.itemsB.filter((item) => !inA.has(item.key));
      const pictures = this.both ? [this.items, this.itemsB] : [[...this.items, ...onlyB]];
      this.drawn = pictures.map((items) =>
        items.length > MOST_DRAWN ? [...items].sort((x, y) => y.level - x.level).slice(0, MOST_DRAWN) : items);
      this.sums = this.sumScores(this.items);
      const weights = pictures.map((items, index) => scale(index ? this.sumScores(items) : this.sums));
      this.drawn.forEach((items, index) => this.drawings[index].show(items, weights[index]));
      this.tell(a, b, this.items.length - (this.items.length + this.itemsB.length - inA.size - onlyB.length), onlyB.length);
      this.list();
      this.highlight();
    }

    makeItems(model, selected) {
      const { edges } = selected;
      let largest = 0;
      for (const edge of edges) {
        const score = Math.abs(model.score[edge]);
        if (score > largest && Number.isFinite(score)) largest = score;
      }
      const crowd = Math.max(0, Math.min(1, Math.log10((edges.length + 1) / 30) / 2)); // 0 at 30 edges, 1 at 3,000
      return edges.map((edge) => {
        const strength = largest ? Math.min(1, Math.sqrt(Math.abs(model.score[edge]) / largest)) : 1;
        return {
          key: model.writer[edge] + "-" + model.reader[edge], of: model, edge,
          classes: "shown " + model.kind(edge) + (model.score[edge] < 0 ? " negative" : ""),
          width: (1 + 4 * strength) * (1 - 0.5 * crowd), level: strength,
          opacity: Math.max(0.12, Math.min(1, 1 - crowd * (0.85 - strength))),
        };
      });
    }

    tell(a, b, shared, onlyB) {
      const drawn = this.drawn.reduce((sum, items) => sum + items.length, 0);
      let text = this.problem + describe(this.first, a);
      if (b) {
        const either = a.edges.length + onlyB;
        const both = a.edges.length + b.edges.length - either;
        text += " " + this.second.name + ": " + describe(this.second, b) + " Shared: " + count(both) + "; only in " +
          this.first.name + ": " + count(a.edges.length - both) + "; only in " + this.second.name + ": " + count(onlyB) + ".";
      }
      const wanted = this.both ? a.edges.length + b.edges.length : a.edges.length + onlyB;
      if (drawn < wanted) text += " The " + count(drawn) + " strongest are drawn.";
      this.status.textContent = text;
      this.captions.forEach((caption, index) => {
        caption.textContent = this.both ? [this.first, this.second][index].name : "";
      });
      const entries = b
        ? [["ck-both", "in both"], ["ck-first", "only in " + this.first.name], ["ck-second", "only in " + this.second.name]]
        : [["ck-positive", "helps (positive score)"], ["ck-negative", "hurts (negative score)"]];
      this.legend.replaceChildren(...entries.map(([swatch, label]) =>
        make("span", {}, make("span", { class: "ck-swatch " + swatch }), label)));
    }

    list() {
      const rows = this.items.slice(0, ROWS);
      const where = this.second ? " of " + this.first.name : "";
      this.strongest.replaceChildren(viewer.table("Strongest edges shown" + where, ["edge", "score", "rank"],
        rows.map((item) => [this.first.edgeName(item.edge), figure(this.first.score[item.edge]), count(item.edge + 1)]),
        (index) => this.chooseEdge(this.first, rows[index].edge)));
      const best = [...this.sums].sort((x, y) => y[1] - x[1]).slice(0, ROWS);
      this.nodes.replaceChildren(viewer.table("Heads and MLPs with the strongest edges" + where, ["node", "sum of |score|, in and out"],
        best.map(([writer, sum]) => [this.first.graph.writers.name[writer], figure(sum)]),
        (index) => this.focus("w" + best[index][0])));
    }

    // The sum of |score| per head and MLP, over the edges out of it and into it; heads share those into their group's
    // key or value
    sumScores(items) {
      const sums = new Map();
      const add = (writer, score) => writer && sums.set(writer, (sums.get(writer) || 0) + score);
      for (const { of, edge } of items) {
        const score = Math.abs(of.score[edge]);
        const [start, stop] = of.graph.readers.feeds[of.reader[edge]];
        add(of.writer[edge], score);
        for (let writer = start; writer < stop; writer++) add(writer, score / (stop - start));
      }
      return sums;
    }

    // Nodes and edges under the pointer or the keyboard

    describeEdge(model, edge) {
      const kind = KINDS.find(([known]) => known === model.kind(edge))[1];
      const source = model.sourceName(edge);
      return model.edgeName(edge) + " (" + kind + "): score " + figure(model.score[edge]) + ", rank " + count(edge + 1) +
        " of " + count(model.total) + " by " + model.rankedBy + ". Score: " + (SOURCES[source] || source) + ".";
    }

    describeNode(id) {
      const { writers, readers, inputs } = this.first.graph;
      const own = (item) => "w" + this.first.writer[item.edge] === id;
      const read = (item) => this.nodesOf(this.first.reader[item.edge]).includes(id);
      const out = this.items.filter(own);
      const into = this.items.filter(read);
      const name = id === "logits" ? id : (id[0] === "w" ? writers : readers).name[Number(id.slice(1))];
      const isInput = id[0] === "w" && Number(id.slice(1)) < inputs;
      const layer = id === "logits" || isInput ? "" : ", layer " +
        (id[0] === "w" ? this.first.writerLayer(Number(id.slice(1))) : readers.layer[Number(id.slice(1))]);
      const strongest = (items, end) => items.slice(0, 4).map((item) => end(item.edge) + " " + figure(this.first.score[item.edge]));
      const say = (word, items, end) => " " + count(items.length) + " " + (items.length === 1 ? "edge " : "edges ") + word +
        (items.length ? ": " + strongest(items, end).join(", ") + (items.length > 4 ? ", …" : "") : "") + ".";
      return name + layer + "." + say("in", into, (edge) => writers.name[this.first.writer[edge]]) +
        say("out", out, (edge) => readers.name[this.first.reader[edge]]);
    }

    nodesOf(reader) {
      const [start, stop] = this.first.graph.readers.feeds[reader];
      const nodes = [this.first.readerNode(reader)];
      for (let writer = start; writer < stop; writer++) nodes.push("w" + writer);
      return nodes;
    }

    hover(what) {
      if (what) this.details.textContent = "edge" in what ? this.describeEdge(what.from, what.edge) : this.describeNode(what.node);
      else this.details.textContent = this.focused ? this.describeNode(this.focused) : "";
    }

    tap(what) {
      if (what && "edge" in what) this.chooseEdge(what.from, what.edge);
      else this.focus(what ? what.node : null);
    }

    chooseEdge(model, edge) {
      this.active.forEach((drawing) => drawing.choose(model.writer[edge] + "-" + model.reader[edge]));
      this.details.textContent = this.describeEdge(model, edge);
    }

    focus(id) {
      this.focused = id;
      this.details.textContent = id ? this.describeNode(id) : "";
      this.highlight();
    }

    highlight() {
      this.active.forEach((drawing) => drawing.highlight(this.focused, this.wholePaths));
    }

    find(name) {
      const { writers, readers } = this.first.graph;
      const edge = name.includes("->") ? this.items.find((item) => this.first.edgeName(item.edge) === name) : undefined;
      const [writer, reader] = [writers.name.indexOf(name), readers.name.indexOf(name)];
      if (!name) this.focus(null);
      else if (edge) this.chooseEdge(this.first, edge.edge);
      else if (writer >= 0) this.focus("w" + writer);
      else if (reader >= 0) this.focus(this.first.readerNode(reader));
      else this.details.textContent = "Nothing here is called " + name + ".";
    }

    press(event, index) {
      const steps = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
      if (event.key in steps) this.step(this.drawings[index], ...steps[event.key]);
      else if (event.key === "Escape") this.focus(null);
      else if (event.key === "+" || event.key === "-") this.drawings[index].zoom(event.key === "+" ? 1.25 : 0.8);
      else return;
      event.preventDefault();
    }

    // Go to the next node of the circuit in the row, or to the nearest one of the next row
    step(drawing, right, down) {
      const nodes = drawing.usedNodes();
      const here = nodes.find((node) => node.id() === this.focused);
      if (!here) {
        if (nodes.length) this.focus(nodes[0].id());
        return;
      }
      const from = here.position();
      let best = null;
      for (const node of nodes) {
        const place = node.position();
        const [dx, dy] = [place.x - from.x, place.y - from.y];
        const ahead = dx * right + dy * down;
        const cost = right ? ahead + (Math.abs(dy) < 4 ? 0 : Infinity) : 1000 * ahead + Math.abs(dx);
        if (ahead > 4 && cost < (best ? best.cost : Infinity)) best = { id: node.id(), cost };
      }
      if (best) this.focus(best.id);
    }

    destroy() {
      this.dark.removeEventListener("change", this.recolor);
      this.sizer.disconnect();
      this.drawings.forEach((drawing) => drawing.destroy());
    }
  }

  function describe(model, selected) {
    const { size, edges, paths, filtered } = selected;
    let text = count(size) + " of " + count(model.total) + " edges chosen";
    text += size === model.kept ? " (" + model.selection + ")" : ", the best by " + model.rankedBy;
    text += "; " + count(paths) + " on a path from input to logits; " + count(edges.length) + " shown";
    if (filtered) text += ", " + count(filtered) + " hidden by kind or score";
    text += ".";
    if (model.known < model.total) text += " This page knows the best " + count(model.known) + ".";
    return text;
  }

  function scale(sums) {
    const largest = Math.max(...sums.values());
    return new Map([...sums].map(([writer, sum]) => [writer, largest > 0 ? Math.min(1, Math.sqrt(sum / largest)) : 0]));
  }

  function readColors(element) {
    const style = getComputedStyle(element);
    return Object.fromEntries(COLORS.map((name) => [name, style.getPropertyValue("--ck-" + name).trim()]));
  }

  // Show circuits (what `viewer_data` returns) in an element, which is emptied first
  viewer.mount = function (element, circuits) {
    if (!circuits.length) {
      element.replaceChildren(make("p", {}, "There is no circuit to show."));
      return null;
    }
    return new Viewer(element, circuits);
  };
})(circuitkitViewer);
