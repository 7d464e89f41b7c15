// Tooltips, highlighting of one trial in all charts, and sorting of tables. The page works without this script.
(() => {
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip" }));
  for (const title of document.querySelectorAll("svg title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  let lit = [];
  const unlight = () => {
    lit.forEach((shape) => shape.classList.remove("on"));
    lit = [];
    document.body.classList.remove("lit");
  };
  const show = (event) => {
    const shape = event.target.closest("[data-tip], [data-trial]");
    tip.style.visibility = "hidden";
    unlight();
    if (!shape) return;
    const trial = shape.dataset.trial;
    if (trial) {
      lit = [...document.querySelectorAll("[data-trial]")].filter((other) => other.dataset.trial === trial);
      lit.forEach((other) => other.classList.add("on"));
      document.body.classList.add("lit");
    }
    if (!shape.dataset.tip) return;
    tip.textContent = shape.dataset.tip;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(Math.max(event.clientX + 14, 6), innerWidth - width - 6);
    const below = event.clientY + 16 + height < innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? event.clientY + 16 : Math.max(event.clientY - height - 12, 6)}px`;
    tip.style.visibility = "visible";
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.style.visibility = "hidden"; unlight(); }, { passive: true });

  for (const head of document.querySelectorAll("th.sortable")) {
    const sort = () => {
      const table = head.closest("table");
      const rising = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return (numbers ? x - y : x.localeCompare(y)) * (rising ? 1 : -1);
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  }
})();
