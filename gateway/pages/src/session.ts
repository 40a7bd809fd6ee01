// Who is logged in, what they may do, and which site they look at.

import { get, post, refreshed } from "./api";
import { navigate } from "./router";
import { Store } from "./store";
import { hasPreference, speak } from "./texts";
import type { Me, Membership, Role } from "./types";

export const me = new Store<Me | null>(null);
export const chosenSite = new Store<string | null>(localStorage.getItem("site"));

/** As the services enforce it; here it only decides what is offered. */
const MAY = {
  "dead_letters:read": ["owner", "manager", "auditor", "technician"],
  "dead_letters:replay": ["owner", "manager", "technician"],
  "devices:write": ["owner", "manager", "technician"],
  "people:read": ["owner", "manager", "auditor"],
  "people:write": ["owner", "manager"],
  "sites:write": ["owner"],
  "keys:write": ["owner", "manager"],
  "audit:read": ["owner", "auditor"],
  "system:read": ["owner", "manager", "technician", "auditor"],
} satisfies Record<string, Role[]>;

export type Permission = keyof typeof MAY;

export function may(permission: Permission, site: Membership | undefined = currentSite()): boolean {
  return site !== undefined && (MAY[permission] as Role[]).includes(site.role);
}

export function mayAnywhere(permission: Permission): boolean {
  return (me.value?.memberships ?? []).some((site) => may(permission, site));
}

export function currentSite(): Membership | undefined {
  const sites = me.value?.memberships ?? [];
  return sites.find(({ site }) => site === chosenSite.value) ?? sites[0];
}

export function chooseSite(site: string): void {
  localStorage.setItem("site", site);
  chosenSite.value = site;
}

export function siteName(site: Membership): string {
  return site.site_name ?? site.site;
}

/** Ask who we are; without a session, lead to the log-in page and come back afterwards. */
export async function recognise(): Promise<void> {
  me.value = await get<Me>("me");
  if (!hasPreference()) speak(me.value.language);
}

/** After one's own rights changed: the token that the session has still tells the old ones. */
export async function recogniseAnew(): Promise<void> {
  await refreshed();
  await recognise();
}

export async function leave(): Promise<void> {
  await post("auth/logout");
  me.value = null;
  navigate("/login");
}

/** What follows the # is kept there: the token of a mailed link is for no server's log. */
export function logInAgain(): void {
  me.value = null;
  const here = location.pathname + location.search;
  navigate(here === "/" ? "/login" : `/login?next=${encodeURIComponent(here)}${location.hash}`, "replace");
}
