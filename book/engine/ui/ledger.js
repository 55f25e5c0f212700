// Shows the rows whose data have what the menus say. A link to a row that is hidden shows all rows again.
function ledger(root) {
  const form = root.querySelector("form"), said = form.querySelector("output");
  const rows = [...root.querySelectorAll("tbody tr")];
  function filter() {
    const chosen = [...new FormData(form)].filter(([, value]) => value);
    for (const row of rows) row.hidden = !chosen.every(([name, value]) => row.dataset[name] === value);
    said.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} claims`;
  }
  function follow() {
    const row = document.getElementById(location.hash.slice(1));
    if (!row?.hidden) return;
    form.reset();
    filter();
    row.scrollIntoView({ block: "center" });
  }
  form.addEventListener("change", filter);
  form.addEventListener("reset", () => setTimeout(filter)); // menus are emptied after this event
  addEventListener("hashchange", follow);
  form.hidden = false;
  filter();
}
