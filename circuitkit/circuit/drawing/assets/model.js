"use strict";
// What the viewer knows of a circuit: the edges in the order of their ranking, and which of them to show.
const circuitkitViewer = {};
(function (viewer) {
  const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

  function unpack(packed) {
    const text = atob(packed.base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new ARRAYS[packed.type](bytes.buffer);
  }

  class Model {
    constructor(data) {
      this.name = data.name || data.selection;
      this.selection = data.selection;
      this.rankedBy = data.ranked_by;
      this.graph = data.graph;
      this.total = data.edges.total;
      this.kept = data.edges.kept; // null for a ranking, of which no edges are chosen
      this.writer = unpack(data.edges.writer);
      this.reader = unpack(data.edges.reader);
      this.score = unpack(data.edges.score);
      this.source = unpack(data.edges.source);
      this.sources = data.sources;
      this.sizes = data.sizes;
      this.known = this.writer.length; // the edges that the data describe; there may be more
      this.writersPerLayer = this.graph.heads + (this.graph.mlps ? 1 : 0);
      this.byReader = Uint32Array.from(this.writer.keys()).sort((a, b) => this.reader[a] - this.reader[b]);
    }

    kind(edge) {
      return this.graph.readers.kind[this.reader[edge]];
    }

    edgeName(edge) {
      return this.graph.writers.name[this.writer[edge]] + "->" + this.graph.readers.name[this.reader[edge]];
    }

    sourceName(edge) {
      return this.sources[this.source[edge]];
    }

    // The node that a reader is drawn as: its head or MLP, or a port of its own for keys and values
    readerNode(reader) {
      const kind = this.graph.readers.kind[reader];
      if (kind === "logits") return "logits";
      if (kind === "k" || kind === "v") return "r" + reader;
      return "w" + this.graph.readers.feeds[reader][0];
    }

    writerKind(writer) {
      const { inputs, heads } = this.graph;
      if (writer < inputs) return writer === 0 ? "input" : "positions";
      return (writer - inputs) % this.writersPerLayer === heads ? "mlp" : "head";
    }

    writerLayer(writer) {
      return Math.max(0, Math.floor((writer - this.graph.inputs) / this.writersPerLayer));
    }

    sameGraph(other) {
      const sizes = (model) => [model.total, model.graph.readers.name.length, model.graph.writers.name.length].join();
      return sizes(this) === sizes(other);
    }

    // Which of the first `size` edges are on a path from `input` to the logits. A path reaches a head by its query, its
    // key or its value, or by those of a coupled head. Readers are numbered in the order of the forward pass, so that one
    // pass each way is enough.
    onPath(size) {
      const { feeds, changes = feeds } = this.graph.readers;
      const logits = feeds.length - 1;
      const reached = new Uint8Array(this.graph.writers.name.length);
      const live = new Uint8Array(reached.length);
      reached.fill(1, 0, this.graph.inputs);
      const order = this.byReader.filter((edge) => edge < size);
      for (const edge of order) {
        if (reached[this.writer[edge]]) {
          const [start, stop] = changes[this.reader[edge]];
          reached.fill(1, start, stop);
        }
      }
      const result = new Uint8Array(size);
      for (let i = order.length - 1; i >= 0; i--) {
        const edge = order[i];
        const [start, stop] = changes[this.reader[edge]];
        let isLive = this.reader[edge] === logits;
        for (let writer = start; writer < stop && !isLive; writer++) isLive = live[writer] === 1;
        if (isLive) {
          live[this.writer[edge]] = 1;
          result[edge] = reached[this.writer[edge]];
        }
      }
      return result;
    }

    // The edges to show, the best first, and how many were left out and why
    select(size, filter) {
      const onPath = this.onPath(size);
      const edges = [];
      let paths = 0;
      let filtered = 0;
      for (let edge = 0; edge < size; edge++) {
        if (onPath[edge]) paths++;
        if (filter.pathsOnly && !onPath[edge]) continue;
        if (!filter.kinds.has(this.kind(edge)) || Math.abs(this.score[edge]) < filter.weakest) filtered++;
        else edges.push(edge);
      }
      return { size, edges, paths, filtered, onPath };
    }

    // The circuit's own size if one can read it; of a larger circuit or a ranking, the measured size nearest to 200 edges
    initialSize() {
      if (this.kept !== null && this.kept <= 600) return this.kept;
      const wanted = Math.min(200, this.known);
      const measured = this.sizes.map((size) => size.edges).filter((edges) => edges > 0 && edges <= this.known);
      if (!measured.length) return wanted;
      return measured.reduce((best, edges) =>
        Math.abs(Math.log(edges / wanted)) < Math.abs(Math.log(best / wanted)) ? edges : best
      );
    }

    // What is known of the faithfulness at a size: measured there, or at the nearest sizes
    faithfulness(size) {
      const measured = this.sizes.filter((point) => point.faithfulness !== null);
      const here = measured.filter((point) => point.edges === size);
      if (here.length) return { exact: true, points: here };
      const below = measured.filter((point) => point.edges < size);
      const above = measured.filter((point) => point.edges > size);
      const near = [
        ...below.filter((point) => point.edges === below[below.length - 1].edges),
        ...above.filter((point) => point.edges === above[0].edges),
      ];
      return { exact: false, points: near };
    }
  }

  viewer.Model = Model;
})(circuitkitViewer);
