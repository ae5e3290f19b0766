"use strict";
// Form elements and texts of the viewer. Every text goes into the page as text, never as HTML.
(function (viewer) {
  let ids = 0;

  // make("label", { class: "x" }, "text", element): an element with attributes, listeners (onX) and children
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null)); // strings become text nodes
    return element;
  }

  function newId(prefix) {
    ids += 1;
    return "circuitkit-" + prefix + "-" + ids;
  }

  const count = (number) => number.toLocaleString("en-US");

  function figure(number) {
    if (!Number.isFinite(number)) return number > 0 ? "∞" : "−∞";
    const size = Math.abs(number);
    const text = number !== 0 && (size < 1e-3 || size >= 1e5) ? number.toExponential(2) : String(+number.toPrecision(3));
    return text.replace("-", "−");
  }

  function interval(point) {
    const { value, low, high } = point.faithfulness;
    const range = low === null || high === null ? "" : " [" + figure(low) + ", " + figure(high) + "]";
    return figure(value) + range + (point.split ? " on " + point.split : "");
  }

  // A choice of circuits, or of other things by number
  function select(label, options, onchange) {
    const id = newId("select");
    const list = make("select", { id, onchange: () => onchange(Number(list.value)) });
    options.forEach((text, index) => list.append(make("option", { value: index }, text)));
    return { list, element: make("p", { class: "ck-field" }, make("label", { for: id }, label), list) };
  }

  function checkbox(label, checked, onchange, swatch) {
    const box = make("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
    return make("label", { class: "ck-check" }, box, swatch ? make("span", { class: "ck-swatch " + swatch }) : null, label);
  }

  // The size of a circuit: a slider on a logarithmic scale, the number itself, and a button per measured size
  class SizeControl {
    constructor(title, onchange) {
      this.onchange = onchange;
      const [slider, number] = [newId("slider"), newId("number")];
      this.slider = make("input", { type: "range", id: slider, min: 0, max: 1000, step: 1,
        oninput: () => this.set(this.sizeAt(Number(this.slider.value)), true) });
      this.number = make("input", { type: "number", id: number, min: 0, step: 1,
        onchange: () => this.set(Number(this.number.value), true) });
      this.measured = make("p", { class: "ck-measured" });
      this.faithfulness = make("p", { class: "ck-faithfulness" });
      this.title = make("legend", {}, title);
      this.element = make("fieldset", { class: "ck-size" }, this.title,
        make("p", { class: "ck-field" }, make("label", { for: slider }, "Size"), this.slider,
          make("label", { for: number, class: "ck-visually-hidden" }, "Number of edges"), this.number),
        this.measured, this.faithfulness);
    }

    setModel(model) {
      this.model = model;
      this.number.max = model.known;
      const sizes = [...new Set(model.sizes.map((point) => point.edges))].filter((size) => size <= model.known);
      if (model.kept !== null && !sizes.includes(model.kept)) sizes.push(model.kept);
      sizes.sort((a, b) => a - b);
      this.measured.replaceChildren(sizes.length ? "Go to " : "");
      for (const size of sizes) {
        const own = size === model.kept;
        const label = count(size) + (own ? " (its own)" : "");
        this.measured.append(make("button", { type: "button", onclick: () => this.set(size, true),
          "aria-label": label + " edges" }, label), " ");
      }
      this.set(model.initialSize(), false);
    }

    sizeAt(place) {
      return place === 0 ? 0 : Math.round(Math.exp((place / 1000) * Math.log(this.model.known)));
    }

    set(size, tell) {
      const whole = Math.max(0, Math.min(this.model.known, Math.round(size) || 0));
      this.size = whole;
      this.number.value = whole;
      const range = Math.log(this.model.known);
      this.slider.value = whole === 0 ? 0 : range ? Math.round((1000 * Math.log(whole)) / range) : 1000;
      this.slider.setAttribute("aria-valuetext", count(whole) + " edges");
      this.faithfulness.textContent = this.describeFaithfulness();
      if (tell) this.onchange();
    }

    describeFaithfulness() {
      const { exact, points } = this.model.faithfulness(this.size);
      if (!points.length) return "Faithfulness was not measured.";
      if (exact) return "Faithfulness of this size: " + points.map(interval).join("; ") + ".";
      const near = points.map((point) => "at " + count(point.edges) + " edges " + interval(point));
      return "Not measured at this size. Faithfulness " + near.join("; ") + ".";
    }
  }

  // A table whose rows are buttons
  function table(caption, heads, rows, onchoose) {
    const body = make("tbody", {});
    rows.forEach((row, index) => {
      const [first, ...rest] = row;
      const button = make("button", { type: "button", onclick: () => onchoose(index) }, first);
      body.append(make("tr", {}, make("th", { scope: "row" }, button), ...rest.map((text) => make("td", {}, text))));
    });
    return make("table", {}, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), body);
  }

  Object.assign(viewer, { make, newId, count, figure, select, checkbox, SizeControl, table });
})(circuitkitViewer);
