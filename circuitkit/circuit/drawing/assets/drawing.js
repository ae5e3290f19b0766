"use strict";
// One picture: a Cytoscape graph whose nodes have fixed places. Only the edges that are shown are elements of it.
(function (viewer) {
  const ROW = 44; // in Cytoscape's units; how wide a column is depends on the room there is
  const [NARROWEST, WIDEST] = [62, 130];
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
  function curve(model, writer, reader, places, column) {
    const points = route(model, writer, reader).map(([x, y]) => [x * column, -y * ROW]);
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
          label: "data(label)", width: 54, height: 16, shape: "round-rectangle", "font-size": 11,
          "text-valign": "center", "text-halign": "center", color: colors.muted, "background-color": colors.surface,
          "border-width": 1, "border-color": colors.line, "font-family": "system-ui, sans-serif",
        },
      },
      { selector: "node.unused", style: { width: 7, height: 7, shape: "ellipse", label: "", "border-width": 0,
        "background-color": colors.line } },
      { selector: "edge.idle", style: { visibility: "hidden" } },
      { selector: "node.used", style: { color: colors.text, "border-color": colors.text,
        "background-color": "mapData(weight, 0, 1, " + colors.surface + ", " + colors.shade + ")" } },
      { selector: "node.bar", style: { width: "data(width)", height: 16, color: colors.text, "font-size": 12 } },
      { selector: "node.port", style: { width: 12, height: 10, "font-size": 9, color: colors.text, "border-width": 0.7,
        "border-color": colors.muted, shape: "round-rectangle" } },
      { selector: "node.layer", style: { width: 1, height: 1, "border-width": 0, "background-opacity": 0,
        color: colors.muted, "text-halign": "left", "font-size": 11, events: "no" } },
      { selector: "node.faint", style: { opacity: 0.25 } },
      { selector: "node.focus", style: { "border-width": 3, "border-color": colors.focus } },
      { selector: "edge.feed", style: { width: 1, "line-color": colors.muted, "curve-style": "straight", events: "no" } },
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
      // The wheel alone scrolls the page
      element.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.metaKey) event.stopImmediatePropagation();
      }, { capture: true });
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

    // The height at which the picture is as wide as the room, its columns as narrow as they can be
    static tallest({ left, edge_of_arcs: right, top }, width) {
      return ((top + 1) * ROW * width) / ((right - left) * NARROWEST + 90);
    }

    // The width of a column that fills the room
    bestColumn({ left, edge_of_arcs: right, top }) {
      const { clientWidth, clientHeight } = this.element;
      const wanted = (((top + 1) * ROW * clientWidth) / (clientHeight || 1) - 90) / (right - left);
      return Math.max(NARROWEST, Math.min(WIDEST, wanted));
    }

    isMisplaced() {
      return Math.abs(this.bestColumn(this.model.graph) / this.column - 1) > 0.1;
    }

    // Nodes of a graph. Ports of keys and values are added with the first edge that needs them.
    setGraph(model) {
      this.model = model;
      const column = (this.column = this.bestColumn(model.graph));
      const { writers, readers, left, right, layers, top } = model.graph;
      const width = (right - left) * column;
      const nodes = writers.name.map((name, writer) => ({
        group: "nodes",
        classes: writer === 0 ? "bar" : model.writerKind(writer) + " unused",
        data: { id: "w" + writer, label: name, width, weight: 0 },
        position: { x: writers.x[writer] * column, y: -writers.y[writer] * ROW },
      }));
      const logits = readers.name.length - 1;
      nodes.push({
        group: "nodes", classes: "bar", data: { id: "logits", label: "logits", width },
        position: { x: readers.x[logits] * column, y: -top * ROW },
      });
      for (let layer = 0; layer < layers; layer++) {
        nodes.push({
          group: "nodes", classes: "layer", data: { id: "layer" + layer, label: "layer " + layer },
          position: { x: (left - 0.1) * column, y: -(layer + 1) * ROW },
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
      const { left, edge_of_arcs: arcs, top } = this.model.graph;
      const [x1, x2] = [left * this.column - 60, (arcs + 0.2) * this.column];
      const [y1, y2] = [-(top + 0.4) * ROW, 0.4 * ROW];
      const zoom = Math.min(this.cy.width() / (x2 - x1), this.cy.height() / (y2 - y1));
      if (!(zoom > 0)) return; // not visible yet
      this.cy.viewport({ zoom, pan: {
        x: this.cy.width() / 2 - (zoom * (x1 + x2)) / 2, y: this.cy.height() / 2 - (zoom * (y1 + y2)) / 2 } });
    }

    zoom(factor) {
      const { cy } = this;
      cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
    }

    // items: { key, of (a model), edge (its number there), classes, width, opacity, level }
    // weights: per writer, from 0 to 1
    show(items, weights) {
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
        this.markUsed(weights);
      });
    }

    newEdge(item, data) {
      const writer = item.of.writer[item.edge];
      const reader = item.of.reader[item.edge];
      const [source, target] = ["w" + writer, item.of.readerNode(reader)];
      const places = [source, target].map((id) => this.cy.getElementById(id).position());
      return {
        group: "edges", classes: item.classes,
        data: { id: item.key, source, target, ...data, ...curve(item.of, writer, reader, places, this.column) },
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
          position: { x: readers.x[reader] * this.column, y: -readers.y[reader] * ROW },
        }];
        const [start, stop] = readers.feeds[reader];
        for (let writer = start; writer < stop; writer++) {
          elements.push({ group: "edges", classes: "feed",
            data: { id: id + "w" + writer, source: id, target: "w" + writer } });
        }
        this.ports.set(reader, this.cy.add(elements));
      }
    }

    markUsed(weights) {
      const used = this.cy.edges(".shown").connectedNodes();
      this.cy.nodes(".head, .mlp").forEach((node) => {
        const inUse = used.has(node);
        node.toggleClass("used", inUse).toggleClass("unused", !inUse);
        node.data("weight", weights.get(Number(node.id().slice(1))) || 0);
      });
      this.cy.edges(".feed").forEach((edge) => edge.toggleClass("idle", edge.target().hasClass("unused")));
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
          ? own.union(node.successors()).union(own.predecessors())
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
