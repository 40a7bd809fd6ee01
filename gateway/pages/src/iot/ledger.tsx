// received = stored + duplicate + refused, in all and hour by hour.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { get } from "../api";
import { useData } from "../data";
import { clock, date, number } from "../format";
import { Choices, Empty, Loaded, Section, Table } from "../parts";
import { named, t } from "../texts";
import type { Counts, Ledger, OneDevice } from "../types";

const RANGES = { "24h": "-24h", "7d": "-7d", "30d": "-30d" } as const;
type Range = keyof typeof RANGES;

export function LedgerOf({ device }: { device: OneDevice }): JSX.Element {
  const [range, setRange] = useState<Range>("24h");
  const path = `devices/${encodeURIComponent(device.name)}/ledger`;
  const asked = useData(() => get<Ledger>(path, { from: RANGES[range] }), [device.name, range]);
  return (
    <Section title={t("ledger.title")}>
      <p class="lead">{t("ledger.lead")}</p>
      <Choices
        label={t("plot.range")}
        options={(Object.keys(RANGES) as Range[]).map((each) => [each, t(`range.${each}`)])}
        value={range}
        onChange={setRange}
      />
      <Loaded from={asked}>
        {(ledger) =>
          ledger.hours.length ? (
            <>
              <Sum totals={ledger.totals} />
              <details>
                <summary>{range === "24h" ? t("ledger.hours") : t("ledger.days")}</summary>
                <Rows ledger={ledger} zone={device.time_zone} byDay={range !== "24h"} />
              </details>
            </>
          ) : (
            <Empty>{t("ledger.empty")}</Empty>
          )
        }
      </Loaded>
    </Section>
  );
}

function Sum({ totals }: { totals: Counts }): JSX.Element {
  const reasons = Object.entries(totals.refused_by_reason);
  return (
    <>
      <dl class="sum">
        <Part name={t("ledger.received")} n={totals.received} />
        <Sign text="=" />
        <Part
          name={t("ledger.stored")}
          n={totals.stored}
          note={totals.late ? t("ledger.late", { n: number(totals.late) }) : ""}
        />
        <Sign text="+" />
        <Part name={t("ledger.duplicate")} n={totals.duplicate} />
        <Sign text="+" />
        <Part name={t("ledger.refused")} n={totals.refused} bad={totals.refused > 0} />
      </dl>
      {reasons.length > 0 && (
        <ul class="reasons">
          {reasons.map(([reason, n]) => (
            <li key={reason}>
              {named("reason", reason)} <b>{number(n)}</b>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function Part({ name, n, note, bad }: { name: string; n: number; note?: string; bad?: boolean }): JSX.Element {
  return (
    <div class={bad ? "bad" : ""}>
      <dt>{name}</dt>
      <dd>
        {number(n)} {note && <small>{note}</small>}
      </dd>
    </div>
  );
}

function Sign({ text }: { text: string }): JSX.Element {
  return (
    <div class="sign" aria-hidden="true">
      <dt />
      <dd>{text}</dd>
    </div>
  );
}

function Rows({ ledger, zone, byDay }: { ledger: Ledger; zone: string; byDay: boolean }): JSX.Element {
  const rows = byDay ? days(ledger, zone) : ledger.hours.map((hour) => ({ ...hour, name: clock(hour.hour, zone) }));
  const head = ["ledger.when", "ledger.received", "ledger.stored", "ledger.duplicate", "ledger.refused"] as const;
  return (
    <Table caption={t("ledger.title")} head={head.map((text) => t(text))}>
      {rows.reverse().map((row) => (
        <tr key={row.name}>
          <th scope="row">{row.name}</th>
          <td class="n">{number(row.received)}</td>
          <td class="n">{number(row.stored)}</td>
          <td class="n">{number(row.duplicate)}</td>
          <td class={`n ${row.refused ? "bad" : ""}`}>{number(row.refused)}</td>
        </tr>
      ))}
    </Table>
  );
}

type Row = Pick<Counts, "received" | "stored" | "duplicate" | "refused"> & { name: string };

function days(ledger: Ledger, zone: string): Row[] {
  const found = new Map<string, Row>();
  for (const hour of ledger.hours) {
    const name = date(hour.hour, zone);
    const row = found.get(name) ?? { name, received: 0, stored: 0, duplicate: 0, refused: 0 };
    row.received += hour.received;
    row.stored += hour.stored;
    row.duplicate += hour.duplicate;
    row.refused += hour.refused;
    found.set(name, row);
  }
  return [...found.values()];
}
