"use strict";
// Draws the curves and moves the maps. Everything shown is in the page: nothing is fetched.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  document.documentElement.classList.add("scripted");

  const SVG = "http://www.w3.org/2000/svg"; // the name of a namespace; browsers do not fetch it
  function svg(parent, name, attributes = {}, text = "") {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  }
  function html(parent, name, attributes = {}, text = "") {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  }

  // Numbers
  const raise = (power) => String(power).replace(/[-0-9]/g, (one) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(one)]);
  function say(value, digits = 4) {
    if (value === 0) return "0";
    const power = Math.floor(Math.log10(Math.abs(value)) + 1e-9);
    if (power < -3 || power >= 6) {
      const mantissa = Number((value / 10 ** power).toPrecision(digits));
      return ((mantissa === 1 ? "" : mantissa + "·") + "10" + raise(power)).replace("-", "−");
    }
    return String(Number(value.toPrecision(digits))).replace("-", "−");
  }
  // What a line says at one of its places; where it stands for several, from the lowest to the highest.
  function sayAll(line, i, digits) {
    if (!line.ys) return say(line.y[i], digits);
    const values = line.ys.map((y) => y[i]);
    return `${say(Math.min(...values), digits)} to ${say(Math.max(...values), digits)}`;
  }
  const days = (hours) => (hours < 48 ? say(hours) + " h" : say(hours / 24, 3) + " days");

  // Axes
  function linearTicks(low, high, wanted) {
    const rough = (high - low) / wanted || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= rough * 0.999) * power;
    const ticks = [];
    for (let index = Math.ceil(low / step - 1e-6); index * step <= high + step * 1e-6; index++) {
      ticks.push(Number((index * step).toPrecision(12)));
    }
    return ticks;
  }
  function logTicks(low, high) {
    const decades = Math.log10(high / low);
    const parts = decades < 1.1 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : decades < 2.6 ? [1, 2, 5] : [1];
    const every = Math.max(1, Math.ceil(decades / 7));
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      if (power % every) continue;
      for (const part of parts) {
        const tick = part * 10 ** power;
        if (tick >= low * 0.9999 && tick <= high * 1.0001) ticks.push(tick);
      }
    }
    return ticks;
  }
  function extent(values, axis) {
    const known = values.filter((one) => one !== null && (!axis.log || one > 0));
    let low = axis.min ?? Math.min(...known), high = axis.max ?? Math.max(...known);
    if (!known.length) return [axis.log ? 1 : 0, 2];
    if (axis.log) return high > low ? [low / 1.12, high * 1.12] : [low / 2, high * 2];
    if (axis.zero) { low = Math.min(0, low); high = Math.max(0, high); }
    const room = 0.05 * (high - low) || Math.abs(high) * 0.1 || 1;
    if (axis.min === undefined && low !== 0) low -= room;
    if (axis.max === undefined && high !== 0) high += room;
    return [low, high];
  }

  // A chart: {title, unit, x: {label, min, max, days, whole}, y: {log, zero, max}, lines: [{name, style, x, y, dots}],
  // limit, marks, steps, digits}. A line has "ys" instead of "y" where it stands for several, such as members.
  const series = (line) => line.ys ?? [line.y];
  function chart(host, spec) {
    const figure = html(host, "figure", { class: spec.wide ? "chart wide" : "chart" });
    const caption = html(figure, "figcaption", {}, spec.title);
    if (spec.unit) html(caption, "span", { class: "units" }, ", " + spec.unit);
    if (spec.lines.length > 1) {
      const keys = html(figure, "ul", { class: "keys" });
      for (const line of spec.lines) {
        const key = html(keys, "li");
        const sample = svg(key, "svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
        svg(sample, "path", { class: "line " + line.style, d: "M1 5h24" });
        if (line.dots) svg(sample, "circle", { class: "dot " + line.style, cx: 13, cy: 5, r: 4 });
        key.append(line.name);
      }
    }
    const plot = html(figure, "div", { class: "plot" });
    const tip = html(figure, "div", { class: "tip", role: "status", hidden: "" });
    let width = 0;
    const redraw = () => {
      const now = Math.round(plot.clientWidth);
      if (now && Math.abs(now - width) > 4) draw(plot, tip, spec, (width = now));
    };
    redraw();
    if (!width) draw(plot, tip, spec, 560);
    new ResizeObserver(redraw).observe(plot);
  }

  function draw(plot, tip, spec, width) {
    plot.replaceChildren();
    const height = Math.round(Math.max(210, Math.min(300, width * 0.52)));
    const { x: ax, y: ay, digits } = spec;
    const xs = spec.lines.flatMap((line) => line.x.filter((_, i) => series(line).some((y) => y[i] !== null)));
    const ys = spec.lines.flatMap((line) => series(line).flat()).concat(spec.limit ? [spec.limit] : []);
    const [left, right] = ax.log ? extent(xs, ax) : [ax.min ?? 0, ax.max ?? Math.max(...xs)];
    const [low, high] = extent(ys, ay);
    const yTicks = ay.log ? logTicks(low, high) : linearTicks(low, high, height / 48);
    const margin = { left: 14 + 7.2 * Math.max(...yTicks.map((one) => say(one, digits).length)), right: 22, top: 10, bottom: 40 };
    const place = (axis, from, to, start, stop) => (value) => {
      const part = axis.log ? Math.log(value / from) / Math.log(to / from) : (value - from) / (to - from || 1);
      return start + part * (stop - start);
    };
    const X = place(ax, left, right, margin.left, width - margin.right);
    const Y = place(ay, low, high, height - margin.bottom, margin.top);
    const ends = spec.lines.map((line) => {
      const last = series(line)[0].findLastIndex((one) => one !== null);
      return last < 0 ? "" : `${line.name} ${sayAll(line, last, digits)}`;
    }).filter(Boolean).join(", ");
    const label = `${spec.title}${spec.unit ? " in " + spec.unit : ""} against ${ax.label}; at the end: ${ends}. Left and right arrow keys read it out.`;
    const root = svg(plot, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, tabindex: 0 });

    for (const tick of yTicks) {
      svg(root, "path", { class: "grid", d: `M${margin.left} ${Y(tick)}H${width - margin.right}` });
      svg(root, "text", { x: margin.left - 7, y: Y(tick) + 4, "text-anchor": "end" }, say(tick, digits));
    }
    const unit = ax.days ? 24 : 1;
    const inDays = ax.days && right >= 72;
    const scale = inDays ? unit : 1;
    const xTicks = ax.log ? logTicks(left, right) : linearTicks(left / scale, right / scale, Math.min(width / 62, inDays ? right / 24 : 99));
    for (const tick of xTicks) {
      if (ax.whole && !Number.isInteger(tick)) continue;
      const at = X(tick * scale);
      svg(root, "path", { class: "axis", d: `M${at} ${height - margin.bottom}v4` });
      svg(root, "text", { x: at, y: height - margin.bottom + 18, "text-anchor": "middle" }, ax.log ? say(tick) : tick.toLocaleString("en").replaceAll(",", "\u2009"));
    }
    svg(root, "path", { class: "axis", d: `M${margin.left} ${height - margin.bottom}H${width - margin.right}` });
    const xLabel = ax.days ? `lead time, ${inDays ? "days" : "hours"}` : ax.label;
    svg(root, "text", { x: (margin.left + width - margin.right) / 2, y: height - 4, "text-anchor": "middle" }, xLabel);
    if (!ay.log && low < 0 && high > 0) svg(root, "path", { class: "axis", d: `M${margin.left} ${Y(0)}H${width - margin.right}` });
    if (spec.limit) svg(root, "path", { class: "limit", d: `M${margin.left} ${Y(spec.limit)}H${width - margin.right}` });
    for (const mark of spec.marks ?? []) {
      svg(root, "path", { class: "limit", d: `M${X(mark.x)} ${margin.top}V${height - margin.bottom}` });
      svg(root, "text", { x: X(mark.x) - 5, y: margin.top + 10, "text-anchor": "end" }, mark.text);
    }
    for (const line of [...spec.lines].reverse()) for (const ys of series(line)) { // the first on top
      let path = "", pen = "M";
      line.x.forEach((x, i) => {
        const y = ys[i];
        if (y === null || (ay.log && y <= 0) || (ax.log && x <= 0)) { pen = "M"; return; }
        path += `${pen}${X(spec.steps ? x - 0.5 : x).toFixed(1)} ${Y(y).toFixed(1)}`;
        if (spec.steps) path += `H${X(x + 0.5).toFixed(1)}`;
        pen = "L";
      });
      svg(root, "path", { class: "line " + line.style, d: path });
      if (line.dots || line.x.length === 1) {
        line.x.forEach((x, i) => {
          if (ys[i] !== null) svg(root, "circle", { class: "dot " + line.style, cx: X(x), cy: Y(ys[i]), r: 4 });
        });
      }
    }
    read(root, plot, tip, spec, X, Y, { width, height, margin, inDays });
  }

  // The values at one place of a chart, under the pointer or by the arrow keys.
  function read(root, plot, tip, spec, X, Y, frame) {
    const stops = [...new Set(spec.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    const cursor = svg(root, "g");
    let at = -1;
    const hide = () => { tip.hidden = true; cursor.replaceChildren(); };
    const show = (index) => {
      at = Math.max(0, Math.min(stops.length - 1, index));
      const x = stops[at];
      cursor.replaceChildren();
      svg(cursor, "path", { class: "cursor", d: `M${X(x)} ${frame.margin.top}V${frame.height - frame.margin.bottom}` });
      tip.replaceChildren();
      html(tip, "strong", {}, spec.x.days ? days(x) : `${spec.x.label} ${say(x, 6)}`);
      for (const line of spec.lines) {
        const i = line.x.indexOf(x);
        if (i < 0 || series(line)[0][i] === null) continue;
        for (const y of series(line)) svg(cursor, "circle", { class: "dot " + line.style, cx: X(x), cy: Y(y[i]), r: line.ys ? 2 : 4 });
        html(tip, "div", {}, `${line.name}: ${sayAll(line, i, spec.digits)}`);
      }
      tip.hidden = false;
      const scale = plot.clientWidth / frame.width;
      const aside = X(x) * scale + 12;
      const leftward = aside + tip.offsetWidth > plot.clientWidth;
      tip.style.left = Math.max(0, leftward ? X(x) * scale - 12 - tip.offsetWidth : aside) + "px";
      tip.style.top = plot.offsetTop + frame.margin.top + "px";
    };
    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect();
      const pixel = (event.clientX - box.left) / box.width * frame.width;
      let nearest = 0;
      stops.forEach((x, i) => { if (Math.abs(X(x) - pixel) < Math.abs(X(stops[nearest]) - pixel)) nearest = i; });
      show(nearest);
    });
    root.addEventListener("pointerleave", hide);
    root.addEventListener("blur", hide);
    root.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (event.key === "Escape") hide();
      else if (step || event.key === "Home" || event.key === "End") {
        event.preventDefault();
        show(event.key === "Home" ? 0 : event.key === "End" ? stops.length - 1 : at + step);
      }
    });
  }

  function options(select, labels) {
    labels.forEach((label, index) => html(select, "option", { value: index }, label));
  }

  // Scores
  if (data.scores) {
    const { hours, channels, headline, metrics, ranks, regions } = data.scores;
    const menu = find("channel"), host = find("score-charts");
    const group = (label, members) => {
      const into = html(menu, "optgroup", { label });
      for (const index of members) html(into, "option", { value: index }, channels[index].label);
    };
    group("Headline", headline);
    group("All others", channels.map((_, index) => index).filter((index) => !headline.includes(index)));
    const names = Object.keys(regions);
    const others = Object.keys(regions[names[0]]).filter((name) => !["model", "persistence", "climatology"].includes(name));
    const style = (name) => (others.includes(name) ? "beside-" + (others.indexOf(name) % 4) : name);
    options(find("region"), names);
    find("region-control").hidden = names.length < 2;
    const update = () => {
      const channel = Number(menu.value), sources = regions[names[Number(find("region").value) || 0]];
      host.replaceChildren();
      find("scores-shown").textContent = `${channels[channel].label}, ${names[Number(find("region").value) || 0]}`;
      for (const [metric, meaning] of Object.entries(metrics)) {
        const lines = Object.entries(sources)
          .map(([name, values]) => ({ name, style: style(name), x: hours, y: values[metric]?.[channel] ?? [] }))
          .filter((line) => line.y.length && !(metric === "acc" && line.name === "climatology"));
        if (!lines.length) continue;
        chart(host, {
          title: meaning.label,
          unit: meaning.hasUnits ? channels[channel].units : "",
          x: { label: "lead time", days: true, max: hours.at(-1) },
          y: metric === "acc" ? { zero: true, max: 1 } : { zero: true },
          lines,
          limit: meaning.limit ?? undefined,
        });
      }
      if (!ranks) return;
      const shares = ranks.shares[channel], bins = shares[0].map((_, rank) => rank);
      chart(host, {
        title: `Rank of the truth among ${bins.length - 1} members, ${ranks.over}`,
        unit: "share of the area",
        x: { label: "members below the truth", min: -0.5, max: bins.length - 0.5, whole: true },
        y: { zero: true },
        lines: ranks.leads.map((name, lead) => ({ name, style: `lead-${lead}`, x: bins, y: shares[lead] })),
        limit: 1 / bins.length,
        steps: true,
      });
    };
    menu.addEventListener("change", update);
    find("region").addEventListener("change", update);
    update();
  }

  // Spectra
  if (data.spectra.length) {
    const menu = find("spectrum"), host = find("spectrum-charts");
    options(menu, data.spectra.map((one) => one.label));
    const update = () => {
      const { label, charts } = data.spectra[Number(menu.value)];
      host.replaceChildren();
      find("spectra-shown").textContent = label;
      for (const spec of charts) chart(host, spec);
    };
    menu.addEventListener("change", update);
    update();
  }

  // Training
  if (data.training.length) {
    const box = find("log-scale"), host = find("training-charts");
    const update = () => {
      host.replaceChildren();
      for (const spec of data.training) chart(host, { ...spec, y: { ...spec.y, log: spec.y.mayBeLog && box.checked } });
    };
    box.addEventListener("change", update);
    update();
  }

  // A slider with buttons, whose ids begin with its own: calls show(index) now and whenever it is moved.
  function stepper(id, steps, show) {
    const slider = find(id);
    let at = 0, timer = 0;
    const update = () => {
      const said = show(at);
      if (find(id + "-label").textContent !== said) find(id + "-label").textContent = said;
      if (!slider) return;
      slider.value = at;
      slider.setAttribute("aria-valuetext", said);
      find(id + "-back").disabled = at === 0;
      find(id + "-on").disabled = at === steps - 1;
    };
    const go = (to) => { at = (to + steps) % steps; update(); };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      find(id + "-play").textContent = "Play";
      find(id + "-play").setAttribute("aria-pressed", "false");
    };
    if (slider) {
      slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
      find(id + "-back").addEventListener("click", () => { stop(); go(at - 1); });
      find(id + "-on").addEventListener("click", () => { stop(); go(at + 1); });
      find(id + "-play").addEventListener("click", () => {
        if (timer) return stop();
        timer = setInterval(() => go(at + 1), 900);
        find(id + "-play").textContent = "Pause";
        find(id + "-play").setAttribute("aria-pressed", "true");
      });
    }
    update();
    return update;
  }

  // Maps
  if (data.maps) {
    const { leads, channels, from } = data.maps;
    const section = find("maps"), menu = find("map-channel");
    const figures = [...section.querySelectorAll(".channel")];
    const update = stepper("lead", leads.length, (at) => {
      const lead = leads[at];
      section.style.setProperty("--lead", at);
      figures.forEach((figure, index) => {
        figure.hidden = index !== Number(menu.value);
        figure.querySelector(".error-now").textContent = channels[index].errors[at];
        if (channels[index].spreads.length) figure.querySelector(".spread-now").textContent = channels[index].spreads[at];
        for (const map of figure.querySelectorAll("svg[role=img]")) {
          map.setAttribute("aria-label", `${map.dataset.name}: ${channels[index].label}, ${lead.label} after ${from} UTC`);
        }
      });
      return `${lead.label}, valid ${lead.valid} UTC`;
    });
    menu.addEventListener("change", update);
  }

  // Plumes
  if (data.plumes) {
    const { hours, times, points, nearest, panels, members, plumes } = data.plumes;
    const menu = find("place"), host = find("plume-charts"), fromStart = [0, ...hours];
    options(menu, points);
    const update = stepper("start", times.length, (at) => {
      const place = Number(menu.value);
      host.replaceChildren();
      find("plumes-shown").textContent = `${points[place]}, from ${times[at]} UTC`;
      panels.forEach((panel, index) => {
        const plume = plumes[place][at][index];
        const lines = [{ name: members ? "mean" : "forecast", style: "model", x: hours, y: plume.mean }];
        lines.push({ name: "truth", style: "truth", x: fromStart, y: plume.truth });
        if (plume.climatology) lines.push({ name: "climatology", style: "climatology", x: fromStart, y: plume.climatology });
        if (members) lines.push({ name: `${members} members`, style: "member", x: hours, ys: plume.members });
        chart(host, {
          title: `${panel.label}, ${nearest[place]}`,
          unit: panel.units,
          x: { label: "lead time", days: true, max: hours.at(-1) },
          y: {},
          lines,
          digits: 6,
        });
      });
      return `From ${times[at]} UTC`;
    });
    menu.addEventListener("change", update);
  }

  // What is folded away on the screen is printed all the same.
  const folded = [];
  addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("details:not([open])")) { one.open = true; folded.push(one); }
  });
  addEventListener("afterprint", () => { while (folded.length) folded.pop().open = false; });
})();
