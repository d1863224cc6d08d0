// What the page of a study does: charts, filters of the chart and the table, search and sorting.
"use strict";

const content = (id) => JSON.parse(document.getElementById(id).textContent);
// As SVG, which prints well; by interpretation, because the page's policy forbids code made of text.
// Only errors (1) are told: a layer without marks, such as that of certified files, is none.
const OPTIONS = { renderer: "svg", ast: true, actions: false, logLevel: 1 };

const filters = document.getElementById("filters");
const search = document.getElementById("search");
const table = document.getElementById("all");
const rows = [...table.tBodies[0].rows];
const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

// A promise for each chart, of its view.
const views = [...document.querySelectorAll(".chart")].map(async (element) => {
  const chart = content(element.dataset.spec);
  if (element.id === "chart-trade_off") chart.datasets = { ...chart.datasets, files: content("marks") };
  return (await vegaEmbed(element, chart, OPTIONS)).view;
});

// Show the rows that have all words of the search and the chosen value of each filter; dense files have no scope.
function showRows() {
  const words = search.value.toLowerCase().split(/\s+/);
  const chosen = [...filters.querySelectorAll("[data-column]")].filter((select) => select.value);
  let shown = 0;
  for (const row of rows) {
    const fits = chosen.every(({ dataset, value }) => ["", value].includes(row.getAttribute(`data-${dataset.column}`)));
    row.hidden = !(fits && words.every((word) => texts.get(row).includes(word)));
    shown += !row.hidden;
  }
  document.getElementById("count").value = `${shown} of ${rows.length} files`;
}

filters.addEventListener("change", async ({ target }) => {
  showRows();
  const view = await views[0];
  await view.signal(target.name, target.value).runAsync();
});
filters.addEventListener("submit", (event) => event.preventDefault());
search.addEventListener("input", showRows);

function key(row, column) {
  const cell = row.cells[column];
  const number = cell.classList.contains("number") && cell.querySelector("data");
  return number ? Number(number.value) : cell.textContent.trim();
}

// Sort by a column: upwards, and downwards the second time. Equal rows keep their order.
function sortRows(heading) {
  const column = heading.cellIndex;
  const sign = heading.ariaSort === "ascending" ? -1 : 1;
  for (const other of heading.parentElement.cells) other.ariaSort = "none";
  heading.ariaSort = sign > 0 ? "ascending" : "descending";
  const keys = new Map(rows.map((row) => [row, key(row, column)]));
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  rows.sort((a, b) => sign * order(keys.get(a), keys.get(b)));
  table.tBodies[0].append(...rows);
}

for (const heading of table.tHead.rows[0].cells) {
  heading.querySelector("button").addEventListener("click", () => sortRows(heading));
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));

// A browser that goes back to the page keeps what was chosen.
filters.reset();
showRows();
