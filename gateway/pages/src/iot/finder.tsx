// "Where is my reading?": everything the system has around one moment.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { get, now } from "../api";
import { inWords, metricName, precise } from "../format";
import { Empty, Field, Form, Section, Table } from "../parts";
import { named, t } from "../texts";
import type { DeadLetter, DeadLetterPage, OneDevice, Readings } from "../types";
import { localOf, momentOf } from "./zones";

const AROUND_MS = 2 * 60_000;

interface Found {
  readings: Readings;
  refused: DeadLetter[];
}

export function Finder({ device }: { device: OneDevice }): JSX.Element {
  const [found, setFound] = useState<Found | null>(null);
  const look = async ({ at }: Record<string, string>): Promise<void> => {
    const moment = momentOf(at!, device.time_zone).getTime();
    const range = {
      device: device.name,
      from: new Date(moment - AROUND_MS).toISOString(),
      to: new Date(moment + AROUND_MS).toISOString(),
    };
    const [readings, letters] = await Promise.all([
      get<Readings>("readings", { ...range, bucket: "raw", limit: 500 }),
      get<DeadLetterPage>("dead-letters", range),
    ]);
    setFound({ readings, refused: letters.dead_letters });
  };
  return (
    <Section title={t("finder.title")}>
      <Form class="row" submit={look} button={t("finder.look")}>
        <Field
          name="at"
          label={t("finder.at", { zone: device.time_zone })}
          type="datetime-local"
          required
          defaultValue={localOf(now() - 60_000, device.time_zone)}
        />
      </Form>
      <div role="status">{found && <Result {...found} zone={device.time_zone} />}</div>
    </Section>
  );
}

function Result({ readings, refused, zone }: Found & { zone: string }): JSX.Element {
  const points = readings.series
    .flatMap((series) => series.points.map((point) => ({ ...point, series })))
    .sort((a, b) => a.ts.localeCompare(b.ts) || a.series.metric.localeCompare(b.series.metric));
  if (!points.length && !refused.length) return <Empty>{t("finder.nothing")}</Empty>;
  return (
    <>
      <p>{t("finder.found", { stored: points.length, refused: refused.length })}</p>
      <Table
        caption={t("finder.title")}
        head={[t("finder.measured"), t("finder.received"), t("finder.what"), t("finder.number")]}
      >
        {refused.map((letter) => (
          <tr key={letter.id} class="bad">
            <td>–</td>
            <td>{precise(letter.received_at, zone)}</td>
            <td>
              {t("ledger.refused")}: {named("reason", letter.reason)}
            </td>
            <td />
          </tr>
        ))}
        {points.map(({ ts, received_at, value, seq, series }) => (
          <tr key={`${ts} ${series.metric}`}>
            <td>{precise(ts, zone)}</td>
            <td>{precise(received_at!, zone)}</td>
            <td>
              {metricName(series.metric)} <b>{inWords(series.metric, series.unit, value!)}</b>
            </td>
            <td class="n">{seq ?? ""}</td>
          </tr>
        ))}
      </Table>
    </>
  );
}
