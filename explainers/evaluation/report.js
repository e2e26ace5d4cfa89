"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const now = head.getAttribute("aria-sort"), best = head.textContent.includes("↓") ? "ascending" : "descending";
    const down = (now === null ? best : now === "descending" ? "ascending" : "descending") === "descending";
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[column].dataset.value;
    const compare = (a, b) => {
      if (value(a) === undefined) return a.cells[column].textContent.localeCompare(b.cells[column].textContent) * (down ? 1 : -1);
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
      return (Number(value(b)) - Number(value(a))) * (down ? 1 : -1);
    };
    body.append(...[...body.rows].sort(compare));
  }));
}
for (const input of document.querySelectorAll("input.filter")) {
  const own = [...input.closest("p").nextElementSibling.querySelectorAll("tbody tr")];
  input.addEventListener("input", () => own.forEach(row => {
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(input.value.toLowerCase());
  }));
}

// The image of a WebP file that is part of the page.
async function picture(content) {
  const image = new Image();
  image.src = `data:image/webp;base64,${content}`;
  await image.decode();
  return image;
}
function surface(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
async function ranksOf(content) {
  const image = await picture(content), { width, height } = image;
  const context = surface(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return { width, height, values: context.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 0) };
}
// Value of a list at a share of its length.
function between(list, share) {
  const place = share * (list.length - 1), low = Math.floor(place), high = Math.min(low + 1, list.length - 1);
  return list[low] + (place - low) * (list[high] - list[low]);
}
// Value in [0, 1] of each of the 256 ranks of a map.
function heights(map) {
  const levels = map.levels.match(/../g).map(each => parseInt(each, 16) / 255);
  return Array.from({ length: 256 }, (_, rank) => between(levels, rank / 255));
}
// A small picture with the color [red, green, blue, opacity] of each pixel's rank.
function tint(ranks, color) {
  const colors = Array.from({ length: 256 }, (_, rank) => color(rank)).flat();
  const table = new Uint32Array(new Uint8ClampedArray(colors).buffer);
  const canvas = surface(ranks.width, ranks.height), out = new ImageData(ranks.width, ranks.height);
  new Uint32Array(out.data.buffer).set(Uint32Array.from(ranks.values, rank => table[rank]));
  canvas.getContext("2d").putImageData(out, 0, 0);
  return canvas;
}
// Draws the photo, in gray or not, with tints over it, and boxes.
function compose(canvas, photo, gray, tints, boxes = []) {
  const context = canvas.getContext("2d"), { width, height } = canvas;
  context.drawImage(photo, 0, 0, width, height);
  if (gray) {
    context.globalCompositeOperation = "saturation";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
  }
  context.imageSmoothingEnabled = false;
  for (const each of tints) context.drawImage(each, 0, 0, width, height);
  context.imageSmoothingEnabled = true;
  for (const { box: [x, y, right, bottom], color, dash } of boxes) {
    Object.assign(context, { strokeStyle: color, lineWidth: width / 80 });
    context.setLineDash(dash ? [width / 30] : []);
    context.strokeRect(x * width, y * height, (right - x) * width, (bottom - y) * height);
  }
}

for (const root of document.querySelectorAll(".gallery")) {
  const data = JSON.parse(root.querySelector("script").textContent), list = root.querySelector(".images");
  const [sorting, bar] = [...root.querySelectorAll("form")].map(form => form.elements);
  const rows = [...list.children], visible = new Set(), itemOf = element => data.items[element.dataset.item];
  const photoOf = item => (item.image ||= picture(data.photos[item.photo]));

  function tinted(map, ranks, palette) {
    const view = bar.view.value, first = bar.share.value / 100 * 256;
    if (view !== "heat") return tint(ranks, rank => [...data.fill, (255 - rank < first) === (view === "remove") ? 255 : 0]);
    const values = (map.values ||= heights(map)), channels = [0, 1, 2].map(c => palette.map(color => color[c]));
    return (map.heat ||= tint(ranks, rank => [...channels.map(each => between(each, values[rank])), 166]));
  }
  async function draw(row) {
    const item = itemOf(row), photo = await photoOf(item);
    const boxes = item.boxes.map(box => ({ box, color: "#3fd46b", dash: false }));
    compose(row.querySelector(".photo"), photo, false, [], boxes);
    for (const canvas of row.querySelectorAll(".map")) {
      const { method } = canvas.dataset, map = item.maps[method], ranks = await (map.ranks ||= ranksOf(map.rank));
      const palette = data.signed[method] ? data.diverging : data.colors;
      const own = map.box ? [{ box: map.box, color: "#42d4f4", dash: true }] : [];
      compose(canvas, photo, bar.view.value === "heat", [tinted(map, ranks, palette)], [...boxes, ...own]);
      mark(canvas.parentNode);
    }
  }
  function mark(figure) {
    const line = figure.querySelector(`polyline.${bar.view.value}`), words = figure.querySelector(".at");
    const [ruler, dot] = figure.querySelectorAll("line, circle");
    for (const part of [ruler, dot]) part?.toggleAttribute("hidden", !line);
    words.textContent = "";
    if (!line) return;
    const x = Number(bar.share.value), y = between([...line.points].map(point => point.y), x / 100);
    for (const name of ["x1", "x2"]) ruler.setAttribute(name, x);
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", y);
    words.textContent = `p ${((39 - y) / 38).toFixed(2)}`;
  }
  let frame = 0;
  function redraw() {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => visible.forEach(draw));
  }
  const seen = new IntersectionObserver(changes => {
    for (const { target, isIntersecting } of changes) visible[isIntersecting ? "add" : "delete"](target);
    redraw();
  }, { rootMargin: "200px" });
  rows.forEach(row => seen.observe(row));
  bar.view.forEach(each => each.addEventListener("change", redraw));
  bar.share.addEventListener("input", () => {
    if (bar.view.value === "heat") bar.view.value = "remove";
    bar.percent.value = `${bar.share.value} %`;
    redraw();
  });

  // By how much an image's score is above that of the method or methods that it is compared with.
  function lead(row, figure) {
    const scores = itemOf(row).scores.map(each => each[figure]), method = Number(sorting.method.value);
    const others = scores.filter((score, i) => score !== null && i !== method), against = sorting.against.value;
    const mean = others.reduce((sum, score) => sum + score / others.length, others.length ? 0 : NaN);
    const base = against === "" ? 0 : against === "mean" ? mean : scores[against] ?? NaN;
    const sign = (data.higher[figure] ? 1 : -1) * (sorting.order.value === "best" ? 1 : -1);
    return scores[method] === null || Number.isNaN(base) ? -Infinity : sign * (scores[method] - base);
  }
  function arrange() {
    const checked = [...root.querySelectorAll("[name=figure]:checked")].map(box => Number(box.value));
    // With several figures: an image's worst place counts, so that those high in all lead.
    const places = new Map(rows.map(row => [row, 0]));
    for (const figure of sorting.order.value ? (checked.length ? checked : [0]) : [])
      [...rows].sort((a, b) => lead(b, figure) - lead(a, figure) || 0)
        .forEach((row, place) => places.set(row, Math.max(places.get(row), place)));
    list.append(...[...rows].sort((a, b) => places.get(a) - places.get(b)));
    const name = sorting.name.value.toLowerCase(), wanted = sorting.class.value;
    for (const row of rows)
      row.hidden = !itemOf(row).name.toLowerCase().includes(name) || (wanted !== "" && !itemOf(row).classes.includes(wanted));
    sorting.count.value = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
  }
  root.querySelector("form").addEventListener("input", arrange);

  const choice = root.querySelector("[name=layer]"), blocks = [...root.querySelectorAll(".layers section")];
  async function blend(block) {
    const tints = [], boxes = [...block.querySelectorAll("input")], photo = await photoOf(itemOf(boxes[0]));
    for (const box of boxes) {
      const map = itemOf(box).maps[choice.value], hue = box.dataset.hue.match(/[0-9a-f]{2}/g).map(each => parseInt(each, 16));
      box.parentNode.querySelector(".ama").textContent = map.rank ? map.mean.toFixed(2) : "-";
      if (!map.rank || !box.checked) continue;
      const ranks = await (map.ranks ||= ranksOf(map.rank)), values = (map.values ||= heights(map));
      tints.push(tint(ranks, rank => [...hue, 210 * values[rank]]));
    }
    compose(block.querySelector("canvas"), photo, true, tints);
  }
  const later = new IntersectionObserver(changes => changes.forEach(({ target, isIntersecting }) => isIntersecting && blend(target)));
  for (const block of blocks) {
    later.observe(block);
    block.addEventListener("input", () => blend(block));
  }
  choice?.addEventListener("input", () => blocks.forEach(block => blend(block)));
}
