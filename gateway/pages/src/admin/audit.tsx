import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { get } from "../api";
import { useData } from "../data";
import { precise } from "../format";
import { Action, Empty, Loaded, Table, Title } from "../parts";
import { named, t } from "../texts";
import type { AuditEvent, AuditPage, Membership } from "../types";

export function Audit({ site }: { site: Membership }): JSX.Element {
  const [older, setOlder] = useState<AuditPage[]>([]);
  const newest = useData(() => get<AuditPage>("audit", { site: site.site }), [site.site]);
  const next = (older.at(-1) ?? newest.data)?.next;
  const more = async (): Promise<void> => {
    const page = await get<AuditPage>("audit", { site: site.site, cursor: next });
    setOlder((before) => [...before, page]);
  };
  return (
    <>
      <Title text={t("admin.audit")} />
      <Loaded from={newest}>
        {(first) => (
          <>
            {first.events.length === 0 && <Empty>{t("audit.none")}</Empty>}
            <Events events={[first, ...older].flatMap((page) => page.events)} zone={site.time_zone} />
            {next && <Action run={more}>{t("more")}</Action>}
          </>
        )}
      </Loaded>
    </>
  );
}

function Events({ events, zone }: { events: AuditEvent[]; zone: string }): JSX.Element {
  return (
    <Table caption={t("admin.audit")} head={[t("audit.when"), t("audit.what"), t("audit.who"), t("audit.from")]}>
      {events.map((event) => (
        <tr key={event.id}>
          <td>{precise(event.at, zone)}</td>
          <td>
            {named("event", event.what)}
            {Object.keys(event.detail).length > 0 && <span class="muted detail">{details(event.detail)}</span>}
          </td>
          <td>{event.who.email ?? t(event.ip ? "audit.nobody" : "audit.operator")}</td>
          <td>{event.ip}</td>
        </tr>
      ))}
    </Table>
  );
}

function details(detail: Record<string, unknown>): string {
  return Object.entries(detail)
    .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
}
