"use strict";
// A click on a column's heading sorts by it, a second one the other way round; what has
// no value stays last. Where the page is too narrow for headings, a list is offered.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const choice = document.createElement("select");

  const sort = (column, descending) => {
    const numeric = heads[column].dataset.kind === "number";
    const key = (row) => row.cells[column].dataset.sort;
    const order = (a, b) => {
      const [one, other] = [key(a), key(b)];
      if (one === "" || other === "") return (one === "") - (other === "");
      const sign = descending ? -1 : 1;
      return sign * (numeric ? Number(one) - Number(other) : one.localeCompare(other));
    };
    Array.from(body.rows).sort(order).forEach((row) => body.append(row));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
    choice.value = String(column);
  };

  const first = (head) => head.dataset.first === "descending";
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(column, now ? now === "ascending" : first(head));
    });
    choice.add(new Option(button.textContent, String(column)));
  });
  const label = document.createElement("label");
  label.className = "choice";
  label.append("Sort by ", choice);
  choice.selectedIndex = -1;
  choice.addEventListener("change", () => {
    const column = Number(choice.value);
    sort(column, first(heads[column]));
  });
  table.before(label);
}
