// Draws every figure that the page describes as data. No figure needs it: each has its table.
"use strict";

(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const drawn = [], library = new URL("vendor/echarts.common.min.js", document.currentScript.src).href;
  let coming;

  // As web.words.shown writes them.
  function shown(value, kind) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const plain = (number, digits) => number.toLocaleString("en-US", { maximumFractionDigits: digits });
    switch (kind) {
      case "money": return plain(value / 100, Math.abs(value) < 1e6 ? 2 : 0);
      case "share": return `${plain(100 * value, 1)} %`;
      case "count": return plain(value, 0);
      case "epsilon": return plain(Math.ceil(value * 1000 - 1e-9) / 1000 || 0, 3);  // a promise is not made smaller
      default: return Math.abs(value) >= 1000 ? plain(value, 0) : String(Number(value.toPrecision(3)));
    }
  }

  function bandSeries(series, at, data, colour) {
    if (!series.band.length) return [];
    if ((series.shape || data.kind) !== "bar" && data.kind !== "scatter") {
      const low = series.band.map(([l]) => l), wide = series.band.map(([l, h]) => (l === null || h === null ? null : h - l));
      const common = { type: "line", symbol: "none", silent: true, lineStyle: { opacity: 0 }, stack: `band${at}`, tooltip: { show: false } };
      return [{ ...common, data: low }, { ...common, data: wide, areaStyle: { color: colour, opacity: 0.18 } }];
    }
    return [];
  }

  // A whisker of a bar or a point, by a pair of marks, which the small build of the library has.
  function whiskers(series, data) {
    const shape = series.shape || data.kind;
    if (!series.band.length || !["bar", "scatter"].includes(shape)) return undefined;
    const place = (value, at) => (data.horizontal ? [value, at] : [shape === "scatter" ? series.x[at] : at, value]);
    const lines = series.band.flatMap(([low, high], at) => (low === null || high === null ? [] : [[{ coord: place(low, at) }, { coord: place(high, at) }]]));
    return { silent: true, symbol: ["rect", "rect"], symbolSize: [8, 1.5], label: { show: false },
      lineStyle: { color: css("--ink"), type: "solid", width: 1.5 }, data: lines };
  }

  // What tells the colours of bars apart for who sees no colours: nothing, stripes, dots, stripes the other way.
  function decals() {
    const color = `${css("--card")}66`, stripes = { color, dashArrayX: [1, 0], dashArrayY: [1, 7], symbolSize: 1 };
    return [{ ...stripes, color: "transparent" }, { ...stripes, rotation: Math.PI / 5 }, { color, symbol: "circle", dashArrayX: [[6, 6], [0, 6, 6, 0]], dashArrayY: [5, 0], symbolSize: 0.7 }, { ...stripes, rotation: -Math.PI / 5 }];
  }

  function options(data, width) {
    const ink = css("--ink"), muted = css("--muted"), line = css("--line");
    const colours = [1, 2, 3, 4, 5, 6].map((at) => css(`--c${at}`));
    const scatter = data.kind === "scatter";
    const names = { name: data.x, nameLocation: "middle", nameGap: 30, nameTextStyle: { color: muted } };
    const category = { type: "category", data: data.categories, axisLabel: { color: muted, hideOverlap: true, interval: data.horizontal ? 0 : "auto",
      width: data.horizontal ? Math.min(150, width / 3) : undefined, overflow: data.horizontal ? "truncate" : undefined }, axisLine: { lineStyle: { color: line } },
      axisTick: { show: false }, boundaryGap: data.kind !== "line" || data.series.some((s) => s.shape === "bar"), inverse: data.horizontal };
    const value = { type: "value", axisLabel: { color: muted, hideOverlap: true, formatter: (v) => shown(v, data.kind_of_value) },
      minInterval: data.kind_of_value === "count" ? 1 : 0, splitLine: { lineStyle: { color: line } }, scale: data.kind !== "bar" };
    const series = data.series.flatMap((each, at) => {
      const colour = colours[at % colours.length], type = each.shape === "dashed" ? "line" : each.shape || data.kind;
      return [...bandSeries(each, at, data, colour), {
        name: each.label, type, color: colour, stack: data.stacked && type === "bar" ? "all" : undefined,
        data: scatter ? each.values.map((y, i) => [each.x[i], y]) : each.values, connectNulls: false, barMaxWidth: 42,
        symbol: type === "line" && (each.values.length > 40 || (each.shape === "dashed" && each.values.length > 1)) ? "none" : ["circle", "rect", "triangle", "diamond"][at % 4], symbolSize: scatter ? 8 : 6,
        lineStyle: { width: 2, type: each.shape === "dashed" ? "dashed" : "solid" }, markLine: whiskers(each, data),
      }];
    });
    if (data.diagonal) {
      const all = data.series.flatMap((s) => [...s.values, ...s.x]).filter((v) => v !== null), low = Math.min(...all), high = Math.max(...all);
      series.push({ type: "line", data: scatter ? [[low, low], [high, high]] : [], symbol: "none", silent: true, color: muted, lineStyle: { type: "dashed", width: 1 }, tooltip: { show: false } });
    }
    const labels = data.series.map((each) => each.label), bars = data.series.filter((each) => (each.shape || data.kind) === "bar");
    const ends = data.categories.map((_, at) => Math.max(...bars.filter((each) => each.band.length).map((each) => each.band[at][1] ?? -Infinity)));
    if (ends.some(Number.isFinite)) {  // so that the axis has room for the whiskers
      series.push({ type: "line", data: ends.map((end) => (Number.isFinite(end) ? end : null)), symbol: "none", silent: true, lineStyle: { opacity: 0 }, tooltip: { show: false } });
    }
    return {
      animation: !calm.matches, animationDuration: 250, textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: ink }, color: colours,
      aria: { enabled: true, decal: { show: bars.length > 1, decals: decals() } },
      grid: { left: 8, right: 18, top: labels.length > 1 ? 44 : 18, bottom: 26, containLabel: true },
      legend: labels.length > 1 ? { data: labels, top: 0, left: 0, type: "scroll", textStyle: { color: ink }, icon: "roundRect" } : undefined,
      // As text on the drawing: the page allows no style that is written by a script.
      tooltip: { trigger: scatter ? "item" : "axis", renderMode: "richText", backgroundColor: css("--card"), borderColor: line, textStyle: { color: ink }, confine: true,
        valueFormatter: (v) => shown(v, data.kind_of_value),
        ...(scatter ? { formatter: (p) => `${p.seriesName}\n${data.x}: ${shown(p.value[0], data.kind_of_x)}\n${data.y}: ${shown(p.value[1], data.kind_of_value)}` } : {}) },
      xAxis: scatter ? { ...value, ...names, axisLabel: { color: muted, hideOverlap: true, formatter: (v) => shown(v, data.kind_of_x) } } : data.horizontal ? { ...value, ...names, name: data.y } : { ...category, ...names },
      yAxis: data.horizontal ? category : { ...value, name: data.y, nameLocation: "end", nameTextStyle: { color: muted, align: "left" }, nameGap: 12 },
      series,
    };
  }

  function draw(figure) {
    const canvas = figure.querySelector(".canvas"), source = figure.querySelector("script[type='application/json']");
    if (!canvas || !source) return;
    const data = JSON.parse(source.textContent);
    if (data.horizontal && data.categories.length > 8) canvas.style.height = `${6 + 1.6 * data.categories.length}rem`;
    const chart = echarts.init(canvas, null, { renderer: "svg" });
    const show = () => chart.setOption(options(data, canvas.clientWidth), true);
    show();
    drawn.push({ chart, show });
    canvas.dataset.drawn = "yes";
  }

  // The library is larger than all the rest: it comes where there is a figure, and after the page was shown.
  function fetched() {
    coming ??= new Promise((done) => {
      requestAnimationFrame(() => setTimeout(() => {
        const script = document.createElement("script");
        script.src = library;
        script.onload = done;
        document.head.append(script);
      }, 0));
    });
    return coming;
  }

  async function drawAll() {
    if (!document.querySelector("figure.chart")) return;
    await fetched();
    for (let at = drawn.length - 1; at >= 0; at -= 1) {  // charts of a part of the page that was replaced
      if (!drawn[at].chart.getDom().isConnected) drawn.splice(at, 1)[0].chart.dispose();
    }
    document.querySelectorAll("figure.chart").forEach((figure) => { if (!figure.querySelector("[data-drawn]")) draw(figure); });
  }
  window.ppCharts = { drawAll };
  addEventListener("DOMContentLoaded", drawAll);
  addEventListener("resize", () => drawn.forEach(({ chart, show }) => { chart.resize(); show(); }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(({ show }) => show()));
})();
