"use strict";
const number = (text) => {
  const found = /^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?(?=$|[\s%])/i.exec(text.trim());
  return found ? Number(found[0].replaceAll(",", "")) : NaN;
};
const cell = (row, column) => (row.cells[column] ? row.cells[column].textContent : "");

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const texts = [...body.rows].map((row) => cell(row, column)).filter((text) => text);
    const numeric = texts.length > 0 && texts.every((text) => !Number.isNaN(number(text)));
    if (numeric) for (const row of table.rows) if (row.cells[column]) row.cells[column].classList.add("n");
    if (!head.textContent) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const order = (a, b) => {
        const [x, y] = [cell(a, column), cell(b, column)];
        if (!x || !y) return (!x) - (!y); // what is empty stays below, whichever way
        return way * (numeric ? number(x) - number(y) : x.localeCompare(y));
      };
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      body.append(...[...body.rows].sort(order));
    });
  }
}

const hint = (each) => each.classList.toggle("wide", each.scrollWidth > each.clientWidth);
const seen = new ResizeObserver((changes) => requestAnimationFrame(() => changes.forEach((one) => hint(one.target))));
for (const each of document.querySelectorAll(".scroll")) seen.observe(each);

const tip = document.getElementById("tip");
document.addEventListener("pointerover", (event) => {
  const said = event.target.closest("[data-tip]");
  tip.hidden = !said;
  if (!said) return;
  tip.textContent = said.dataset.tip;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, window.innerWidth - box.width - 4))}px`;
  tip.style.top = `${event.clientY > box.height + 24 ? event.clientY - box.height - 12 : event.clientY + 18}px`;
});

window.addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) {
    each.dataset.was = each.open ? "open" : "";
    each.open = true;
  }
});
window.addEventListener("afterprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = each.dataset.was === "open";
});
