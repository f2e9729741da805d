// Tables of up to four columns read as rows on a phone: each cell learns the head of its column.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table.docutils")) {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    if (heads.length === 0 || heads.length > 4) continue;
    table.classList.add("rows");
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, i) => heads[i] && cell.setAttribute("data-label", heads[i]));
    }
  }
});
