import { Store, useStore } from "./store";

const where = new Store(new URL(location.href));

export function useLocation(): URL {
  return useStore(where);
}

export function navigate(href: string, how: "push" | "replace" = "push"): void {
  if (how === "push") history.pushState(null, "", href);
  else history.replaceState(null, "", href);
  const before = where.value.pathname;
  where.value = new URL(location.href);
  if (where.value.pathname !== before) scrollTo(0, 0);
}

/** Links are plain `<a href>`: those that lead to another of our pages do not load it anew. */
export function followLinks(): void {
  addEventListener("popstate", () => (where.value = new URL(location.href)));
  document.addEventListener("click", (event) => {
    const link = (event.target as Element).closest?.("a");
    if (!link || link.target || link.download || link.origin !== location.origin || event.defaultPrevented) return;
    if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    if (link.pathname.startsWith("/api/") || link.getAttribute("href")?.startsWith("#")) return;
    event.preventDefault();
    navigate(link.href);
  });
}
