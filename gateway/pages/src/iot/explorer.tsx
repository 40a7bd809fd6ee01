// A measurement over time: ranges, zoom, what the pointer is at, and the way out as CSV.

import type { JSX } from "preact";
import { useCallback, useId, useMemo, useState } from "preact/hooks";
import { get, now, url } from "../api";
import { useData, useRepeated } from "../data";
import { dateTime, inWords, metricName, precise } from "../format";
import { Icon } from "../icons";
import { isBoolean } from "../kinds";
import { Action, Choices, Loaded, Section } from "../parts";
import { navigate, useLocation } from "../router";
import { t, type Text } from "../texts";
import type { Metric, OneDevice, Readings } from "../types";
import { columns, extent, isRaw, moved, notBeyond, question, RANGES, zoomed, type Range, type Span } from "./history";
import { Plot } from "./plot";

const ZOOM = 0.5;
const PAN = 0.4;

export function Explorer({ device, metric }: { device: OneDevice; metric: Metric }): JSX.Element {
  const [range, chosen] = useChosen();
  const [tick, setTick] = useState(0);
  const span = useMemo(() => chosen ?? upToNow(range ?? "24h"), [range, chosen?.from, chosen?.to, tick]);
  const asked = useData(
    () => get<Readings>("readings", { device: device.name, metric: metric.name, ...question(span) }),
    [device.name, metric.name, span],
  );
  const follow = useCallback(async () => setTick((before) => before + (chosen ? 0 : 1)), [chosen === null]);
  useRepeated(follow, pace(span));

  return (
    <Section title={metricName(metric.name)}>
      <Choices<Range>
        label={t("plot.range")}
        options={(Object.keys(RANGES) as Range[]).map((each) => [each, t(`range.${each}` satisfies Text)])}
        value={chosen ? null : (range ?? "24h")}
        onChange={(each) => choose({ range: each })}
      />
      <Loaded from={asked}>
        {(readings) => <Drawn readings={readings} span={span} zone={device.time_zone} loading={asked.loading} />}
      </Loaded>
      <Csv device={device} metric={metric} span={span} />
    </Section>
  );
}

/** The range is in the address: it can be sent to somebody, and "back" leads back. */
function useChosen(): [Range | null, Span | null] {
  const query = useLocation().searchParams;
  const [from, to] = [Number(query.get("from")), Number(query.get("to"))];
  const range = query.get("range");
  return [range !== null && range in RANGES ? (range as Range) : null, from > 0 && to > from ? { from, to } : null];
}

function choose(asked: { range: Range } | Span): void {
  const next = new URL(location.href);
  for (const name of ["range", "from", "to"]) next.searchParams.delete(name);
  for (const [name, value] of Object.entries(asked)) {
    next.searchParams.set(name, typeof value === "number" ? String(Math.round(value)) : value);
  }
  navigate(next.href);
}

function upToNow(range: Range): Span {
  const to = Math.ceil(now() / 1000);
  return { from: to - RANGES[range], to };
}

/** How often the newest end is asked for again. */
function pace(span: Span): number {
  return Math.min(Math.max((span.to - span.from) / 600, 5), 120);
}

function Drawn(props: { readings: Readings; span: Span; zone: string; loading: boolean }): JSX.Element {
  const { readings, span, zone } = props;
  const series = readings.series[0]!;
  const data = useMemo(() => columns(series.points, readings.bucket), [readings]);
  const [index, point] = useState<number | null>(null);
  const summary = useId();
  const latest = now() / 1000;
  const keys: Record<string, () => Span> = {
    "+": () => zoomed(span, ZOOM, latest),
    "=": () => zoomed(span, ZOOM, latest),
    "-": () => zoomed(span, 1 / ZOOM, latest),
    ArrowLeft: () => moved(span, -PAN, latest),
    ArrowRight: () => moved(span, PAN, latest),
  };
  const press = (key: string): boolean => {
    if (key === "Escape" || key === "0") choose({ range: "24h" });
    else if (keys[key]) choose(keys[key]());
    else return false;
    return true;
  };
  const say = (value: number): string =>
    isBoolean(series.metric, series.unit) && readings.bucket !== "raw"
      ? `${Math.round(value * 100)} %`
      : inWords(series.metric, series.unit, value);

  return (
    <figure class={`chart ${props.loading ? "busy" : ""}`}>
      <p class="readout" aria-hidden="true">
        {index === null || data[1]?.[index] == null ? (
          <span class="muted">{`${dateTime(new Date(span.from * 1000), zone)} – ${dateTime(new Date(span.to * 1000), zone)}`}</span>
        ) : (
          <>
            <strong>{say(data[1][index])}</strong>
            {readings.bucket !== "raw" && ` (${say(data[2]![index]!)} – ${say(data[3]![index]!)})`}
            <span class="muted"> {precise(new Date(data[0][index]! * 1000).toISOString(), zone)}</span>
          </>
        )}
      </p>
      <Plot
        columns={data}
        span={span}
        bucket={readings.bucket}
        metric={series.metric}
        unit={series.unit}
        bounds={[series.lower_bound, series.upper_bound]}
        zone={zone}
        label={t("plot.label", { metric: metricName(series.metric) })}
        describedBy={summary}
        onSelect={(selected) => choose(notBeyond(selected, latest))}
        onPoint={point}
        onKey={press}
      />
      <div class="chart-keys" role="group" aria-label={t("plot.move")}>
        <button type="button" class="button square" aria-label={t("plot.earlier")} onClick={() => press("ArrowLeft")}>
          <Icon name="back" />
        </button>
        <button type="button" class="button square" aria-label={t("plot.closer")} onClick={() => press("+")}>
          <Icon name="plus" />
        </button>
        <button type="button" class="button square" aria-label={t("plot.wider")} onClick={() => press("-")}>
          <Icon name="minus" />
        </button>
        <button type="button" class="button square" aria-label={t("plot.later")} onClick={() => press("ArrowRight")}>
          <Icon name="more" />
        </button>
      </div>
      <figcaption id={summary}>
        <Summary data={data} readings={readings} say={say} />
      </figcaption>
    </figure>
  );
}

function Summary(props: {
  data: ReturnType<typeof columns>;
  readings: Readings;
  say: (value: number) => string;
}): JSX.Element {
  const found = extent(props.data);
  if (!found) return <>{t("plot.nothing")}</>;
  const { lowest, highest, last } = found;
  const { say, readings } = props;
  return (
    <>
      {t("plot.summary", { lowest: say(lowest), highest: say(highest), last: say(last) })}{" "}
      <span class="muted">
        {t(`plot.bucket.${readings.bucket}` satisfies Text)} {t("plot.help")}
      </span>
    </>
  );
}

/** The session is refreshed first: the browser itself fetches the file, which may be of any length. */
function Csv({ device, metric, span }: { device: OneDevice; metric: Metric; span: Span }): JSX.Element {
  const [from, to] = [span.from, span.to].map((time) => new Date(time * 1000).toISOString());
  const save = async (bucket: "raw" | "auto"): Promise<void> => {
    await get("me");
    const link = document.createElement("a");
    link.href = url("readings", { device: device.name, metric: metric.name, from, to, bucket, format: "csv" });
    link.download = `${device.name} ${metric.name} ${from!.slice(0, 10)}.csv`;
    link.click();
  };
  return (
    <div class="buttons after">
      {!isRaw(span) && (
        <Action run={() => save("auto")}>
          <Icon name="download" />
          {t("csv.drawn")}
        </Action>
      )}
      <Action run={() => save("raw")}>
        <Icon name="download" />
        {t("csv.raw")}
      </Action>
    </div>
  );
}
