// The admin dashboard: a page a section, as far as the person's role reaches.

import type { JSX } from "preact";
import { Empty } from "../parts";
import { may, mayAnywhere, type Permission } from "../session";
import { t } from "../texts";
import type { Membership } from "../types";
import { Audit } from "./audit";
import { Credentials } from "./credentials";
import { Keys } from "./keys";
import { People } from "./people";
import { Refused } from "./refused";
import { Sites } from "./sites";
import { SystemHealth } from "./system";

export const SECTIONS: { name: Name; permission: Permission; page: (props: { site: Membership }) => JSX.Element }[] = [
  { name: "people", permission: "people:read", page: People },
  { name: "devices", permission: "devices:write", page: Credentials },
  { name: "refused", permission: "dead_letters:read", page: Refused },
  { name: "keys", permission: "keys:write", page: Keys },
  { name: "sites", permission: "sites:write", page: Sites },
  { name: "system", permission: "system:read", page: SystemHealth },
  { name: "audit", permission: "audit:read", page: Audit },
];

type Name = "people" | "devices" | "refused" | "keys" | "sites" | "system" | "audit";

export function Admin({ section, site }: { section: string; site: Membership }): JSX.Element {
  const offered = SECTIONS.filter(({ permission }) => mayAnywhere(permission));
  const chosen = offered.find(({ name }) => name === section) ?? offered[0];
  if (!chosen) return <Empty>{t("admin.nothing")}</Empty>;
  return (
    <div class="admin">
      <nav class="sections" aria-label={t("nav.admin")}>
        {offered.map(({ name }) => (
          <a key={name} href={`/admin/${name}`} aria-current={name === chosen.name ? "page" : undefined}>
            {t(`admin.${name}`)}
          </a>
        ))}
      </nav>
      <div class="admin-page" key={`${chosen.name} ${site.site}`}>
        {may(chosen.permission, site) ? <chosen.page site={site} /> : <Empty>{t("admin.not-here")}</Empty>}
      </div>
    </div>
  );
}
