// Runs before the first paint: light or dark, as chosen here or else as the system has it.
const asked = matchMedia("(prefers-color-scheme: dark)");

function apply(): void {
  const chosen = localStorage.getItem("theme");
  document.documentElement.dataset["theme"] = chosen ?? (asked.matches ? "dark" : "light");
  dispatchEvent(new Event("themed"));
}

apply();
asked.addEventListener("change", apply);
addEventListener("storage", apply); // another tab, or our own switch
