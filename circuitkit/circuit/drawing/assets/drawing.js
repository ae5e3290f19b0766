"use strict";
// One picture: a Cytoscape graph whose nodes have fixed places. Only the edges that are shown are elements of it.
(function (viewer) {
  const COLUMN = 76;
  const ROW = 58;
  const HALF_HEIGHT = 0.17; // as in layout.py, like the route of an edge below
  const SPREAD = 0.12;
  const STRAIGHT = 2;

  // The curve of an edge, in columns and rows: start, two control points, end
  function route(model, writer, reader) {
    const { writers, readers, top } = model.graph;
    const kind = readers.kind[reader];
    const isMlp = model.writerKind(writer) === "mlp";
    let start = [writers.x[writer], writers.y[writer] + HALF_HEIGHT];
    let end = [readers.x[reader], readers.y[reader] - HALF_HEIGHT];
    if (kind === "k" || kind === "v") end = [end[0], readers.y[reader] - 0.06];
    if (writer === 0) {
      start = [end[0] + { q: -0.5, k: -0.2, v: 0.2, mlp: -0.65, logits: 0 }[kind], start[1]];
      const bend = 0.4 * Math.min(1, end[1] - start[1]);
      return [start, [start[0], end[1] - bend], [end[0], end[1] - bend], end];
    }
    if (kind === "logits") {
      end = [start[0] + (isMlp ? -0.45 : 0.5), top - HALF_HEIGHT];
      const bend = 0.4 * Math.min(1, end[1] - start[1]);
      return [start, [start[0], start[1] + bend], [end[0], start[1] + bend], end];
    }
    const height = end[1] - start[1];
    if (isMlp && kind === "mlp") {
      const far = start[0] + 0.5 + SPREAD * height;
      return [start, [far, start[1] + 0.25 * height], [far, end[1] - 0.25 * height], end];
    }
    if (Math.abs(end[0] - start[0]) < 0.5 && height > 1) {
      const beside = start[0] + (kind === "v" ? 0.7 : -0.7);
      return [start, [beside, start[1] + 0.3 * height], [beside, end[1] - 0.3 * height], end];
    }
    const bend = Math.min(0.4 * height, STRAIGHT);
    return [start, [start[0], start[1] + bend], [end[0], end[1] - bend], end];
  }

  // Cytoscape wants control points relative to the line between the ends, and the ends relative to their nodes
  function curve(model, writer, reader, places) {
    const points = route(model, writer, reader).map(([x, y]) => [x * COLUMN, -y * ROW]);
    const [start, , , end] = points;
    const along = [end[0] - start[0], end[1] - start[1]];
    const length = Math.hypot(along[0], along[1]) || 1;
    const weights = [];
    const distances = [];
    for (const [x, y] of points.slice(1, 3)) {
      const [dx, dy] = [x - start[0], y - start[1]];
      weights.push((dx * along[0] + dy * along[1]) / (length * length));
      distances.push((dy * along[0] - dx * along[1]) / length);
    }
    const offset = (point, place) => point[0] - place.x + "px " + (point[1] - place.y) + "px";
    return {
      weights: weights.join(" "),
      distances: distances.join(" "),
      from: offset(start, places[0]),
      to: offset(end, places[1]),
    };
  }

  function stylesheet(colors) {
    return [
      {
        selector: "node",
        style: {
          label: "data(label)", width: 54, height: 20, shape: "round-rectangle", "font-size": 11,
          "text-valign": "center", "text-halign": "center", color: colors.muted, "background-color": colors.surface,
          "border-width": 1, "border-color": colors.line, "font-family": "system-ui, sans-serif",
        },
      },
      { selector: "node.unused", style: { width: 7, height: 7, shape: "ellipse", label: "", "border-width": 0,
        "background-color": colors.line } },
      { selector: "node.head, node.mlp", style: { color: colors.text, "border-color": colors.text } },
      { selector: "node.mlp", style: { shape: "rectangle" } },
      { selector: "node.bar", style: { width: "data(width)", height: 20, color: colors.text, "font-size": 12 } },
      { selector: "node.port", style: { width: 11, height: 9, "font-size": 8, color: colors.text, "border-width": 0.5,
        shape: "round-rectangle" } },
      { selector: "node.layer", style: { width: 1, height: 1, "border-width": 0, "background-opacity": 0,
        color: colors.muted, "text-halign": "left", "font-size": 11, events: "no" } },
      { selector: "node.faint", style: { opacity: 0.25 } },
      { selector: "node.focus", style: { "border-width": 3, "border-color": colors.focus } },
      { selector: "edge.feed", style: { width: 1, "line-color": colors.line, "curve-style": "straight", events: "no" } },
      {
        selector: "edge.shown",
        style: {
          "curve-style": "unbundled-bezier", "edge-distances": "endpoints", "control-point-weights": "data(weights)",
          "control-point-distances": "data(distances)", "source-endpoint": "data(from)", "target-endpoint": "data(to)",
          width: "data(width)", "line-opacity": "data(opacity)", "line-color": colors.positive,
          "line-cap": "butt", "z-index": "data(level)",
        },
      },
      { selector: "edge.negative", style: { "line-color": colors.negative } },
      { selector: "edge.both", style: { "line-color": colors.both } },
      { selector: "edge.first", style: { "line-color": colors.first } },
      { selector: "edge.second", style: { "line-color": colors.second } },
      { selector: "edge.k", style: { "line-style": "dashed", "line-dash-pattern": [7, 3] } },
      { selector: "edge.v", style: { "line-style": "dashed", "line-dash-pattern": [2, 2] } },
      { selector: "edge.faint", style: { "line-opacity": 0.05 } },
      { selector: "edge.chosen", style: { "line-opacity": 1, width: 5, "z-index": 9999 } },
    ];
  }

  class Drawing {
    constructor(element, onHover, onFocus) {
      this.element = element;
      this.onHover = onHover;
      this.model = null;
      this.cy = cytoscape({
        container: element, style: [], layout: { name: "preset" }, minZoom: 0.1, maxZoom: 6, autoungrabify: true,
        boxSelectionEnabled: false, autounselectify: true, pixelRatio: "auto",
      });
      this.cy.on("mouseover", "edge.shown, node", (event) => onHover(this.describe(event.target)));
      this.cy.on("mouseout", "edge.shown, node", () => onHover(null));
      this.cy.on("tap", (event) => onFocus(event.target === this.cy ? null : this.describe(event.target)));
    }

    describe(element) {
      if (element.isEdge()) return { edge: element.data("edge"), from: element.data("of") };
      return element.hasClass("layer") ? null : { node: element.id() };
    }

    recolor(colors) {
      this.cy.style(stylesheet(colors));
    }

    // Nodes of a graph. Ports of keys and values are added with the first edge that needs them.
    setGraph(model) {
      if (this.model && this.model.sameGraph(model)) {
        this.model = model;
        return;
      }
      this.model = model;
      const { writers, readers, left, right, layers, top } = model.graph;
      const width = (right - left) * COLUMN;
      const nodes = writers.name.map((name, writer) => ({
        group: "nodes",
        classes: writer === 0 ? "bar" : model.writerKind(writer) + " unused",
        data: { id: "w" + writer, label: name, width },
        position: { x: writers.x[writer] * COLUMN, y: -writers.y[writer] * ROW },
      }));
      const logits = readers.name.length - 1;
      nodes.push({
        group: "nodes", classes: "bar", data: { id: "logits", label: "logits", width },
        position: { x: readers.x[logits] * COLUMN, y: -top * ROW },
      });
      for (let layer = 0; layer < layers; layer++) {
        nodes.push({
          group: "nodes", classes: "layer", data: { id: "layer" + layer, label: "layer " + layer },
          position: { x: (left - 0.1) * COLUMN, y: -(layer + 1) * ROW },
        });
      }
      this.shown = new Map();
      this.ports = new Map();
      this.cy.batch(() => {
        this.cy.elements().remove();
        this.cy.add(nodes);
      });
      this.fit();
    }

    fit() {
      this.cy.resize();
      this.cy.fit(this.cy.nodes(), 12);
    }

    // items: { key, of (a model), edge (its number there), classes, width, opacity, level }
    show(items) {
      const wanted = new Map(items.map((item) => [item.key, item]));
      const added = [];
      this.cy.batch(() => {
        for (const [key, element] of this.shown) {
          if (!wanted.has(key)) {
            element.remove();
            this.shown.delete(key);
          }
        }
        const ports = new Set();
        for (const item of items) {
          const kind = item.of.kind(item.edge);
          if (kind === "k" || kind === "v") ports.add(item.of.reader[item.edge]);
        }
        this.setPorts(ports);
        for (const item of items) {
          const data = { of: item.of, edge: item.edge, width: item.width, opacity: item.opacity, level: item.level };
          const element = this.shown.get(item.key);
          if (element) element.data(data).classes(item.classes);
          else added.push(this.newEdge(item, data));
        }
        for (const element of this.cy.add(added)) this.shown.set(element.id(), element);
        this.markUsed();
      });
    }

    newEdge(item, data) {
      const writer = item.of.writer[item.edge];
      const reader = item.of.reader[item.edge];
      const [source, target] = ["w" + writer, item.of.readerNode(reader)];
      const places = [source, target].map((id) => this.cy.getElementById(id).position());
      return {
        group: "edges", classes: item.classes,
        data: { id: item.key, source, target, ...data, ...curve(item.of, writer, reader, places) },
      };
    }

    setPorts(wanted) {
      const { readers } = this.model.graph;
      for (const [reader, elements] of this.ports) {
        if (!wanted.has(reader)) {
          elements.remove();
          this.ports.delete(reader);
        }
      }
      for (const reader of wanted) {
        if (this.ports.has(reader)) continue;
        const id = "r" + reader;
        const elements = [{
          group: "nodes", classes: "port", data: { id, label: readers.kind[reader] },
          position: { x: readers.x[reader] * COLUMN, y: -readers.y[reader] * ROW },
        }];
        const [start, stop] = readers.feeds[reader];
        for (let writer = start; writer < stop; writer++) {
          elements.push({ group: "edges", classes: "feed",
            data: { id: id + "w" + writer, source: id, target: "w" + writer } });
        }
        this.ports.set(reader, this.cy.add(elements));
      }
    }

    markUsed() {
      this.cy.nodes(".head, .mlp").forEach((node) => node.toggleClass("unused", node.degree(false) === 0));
    }

    // The nodes of the circuit by row and column, for the arrow keys
    usedNodes() {
      return this.cy.nodes(".bar, .port, .head, .mlp").filter((node) => !node.hasClass("unused")).toArray();
    }

    // Make everything faint that is neither upstream nor downstream of a node: one step, or along whole paths
    highlight(id, wholePaths) {
      this.cy.batch(() => {
        this.cy.elements().removeClass("faint focus chosen");
        const node = id === null ? this.cy.collection() : this.cy.getElementById(id);
        if (node.empty()) return;
        const own = node.union(id[0] === "w" ? node.incomers("node.port") : node.outgoers("node"));
        const near = wholePaths
          ? own.union(own.successors()).union(own.predecessors())
          : own.union(own.connectedEdges()).union(own.connectedEdges().connectedNodes());
        this.cy.elements().not(near).not(".layer").addClass("faint");
        node.addClass("focus");
      });
    }

    choose(key) {
      this.cy.edges(".chosen").removeClass("chosen");
      const edge = this.cy.getElementById(key);
      if (edge.nonempty()) edge.addClass("chosen");
    }

    destroy() {
      this.cy.destroy();
    }
  }

  viewer.route = route;
  viewer.Drawing = Drawing;
})(circuitkitViewer);
