// The restaurant at a glance: what needs attention first, then a card for each thing in it.

import type { JSX } from "preact";
import { useEffect } from "preact/hooks";
import { all, get } from "../api";
import { useData, useRepeated } from "../data";
import { age, inWords, metricName, secondsSince, shown, when } from "../format";
import { Icon } from "../icons";
import { inOrder, isIdle, KINDS, kindOf, mainMetric, titleOf, type Kind } from "../kinds";
import { useLive, type LiveDevice } from "../live";
import { Empty, Loaded, Section, Title, Waiting } from "../parts";
import { siteName } from "../session";
import { useClock } from "../store";
import { t } from "../texts";
import type { Device, Membership, Recent, Value } from "../types";
import { line, trend } from "./trend";

const SILENT_SECONDS = 600;

interface Thing {
  device: Device;
  kind: Kind;
  title: string;
  live: LiveDevice | undefined;
  values: Value[];
  history: (number | null)[];
  state: "good" | "offline" | "outside" | "silent" | "unheard";
}

export function Floor({ site }: { site: Membership }): JSX.Element {
  const listed = useData(() => all<Device>("devices", "devices", { site: site.site, limit: 1000 }), [site.site]);
  const recent = useData(() => get<Recent>("recent", { site: site.site }), [site.site]);
  const live = useLive(site.site);
  useRepeated(recent.reload, 150);
  useClock(5);

  const unlisted = [...live.devices.keys()].some((name) => !listed.data?.some((device) => device.name === name));
  useEffect(() => {
    if (unlisted && listed.data) void listed.reload();
  }, [unlisted]);

  return (
    <>
      <Title text={siteName(site)} />
      <Loaded from={listed}>
        {(devices) => {
          if (!live.known && live.flowing) return <Waiting />;
          const things = devices.map((device) => thing(device, live.devices.get(device.name), recent.data, live.known));
          return (
            <>
              <Summary things={things} zone={site.time_zone} flowing={live.flowing} />
              {devices.length === 0 && <Empty>{t("floor.empty")}</Empty>}
              <div class="floor">
                {KINDS.map((kind) => [kind, things.filter((each) => each.kind === kind)] as const)
                  .filter(([, own]) => own.length)
                  .map(([kind, own]) => (
                    <Section key={kind} title={t(`kinds.${kind}`)}>
                      <ul class="cards">
                        {own.map((each) => (
                          <Card key={each.device.name} thing={each} zone={site.time_zone} />
                        ))}
                      </ul>
                    </Section>
                  ))}
              </div>
            </>
          );
        }}
      </Loaded>
    </>
  );
}

function thing(device: Device, live: LiveDevice | undefined, recent: Recent | undefined, known: boolean): Thing {
  const metrics = [...(live?.values.keys() ?? [])].sort();
  const kind = kindOf(device.name, device.display_name, metrics);
  const main = mainMetric(kind, metrics);
  const values = inOrder([...(live?.values.values() ?? [])], main);
  const history = recent?.devices.find((each) => each.device === device.name)?.metrics[main ?? ""] ?? [];
  const online = live?.online ?? device.online;
  return {
    device,
    kind,
    title: titleOf(device.name, device.display_name),
    live,
    values,
    history,
    state: stateOf(values, online, known),
  };
}

function stateOf(values: Value[], online: boolean, known: boolean): Thing["state"] {
  if (!online) return "offline";
  if (values.some((value) => value.out_of_bounds)) return "outside";
  const newest = newestOf(values);
  if (!newest) return known ? "unheard" : "good";
  return secondsSince(newest) > SILENT_SECONDS ? "silent" : "good";
}

function newestOf(values: Value[]): string | undefined {
  return values
    .map((value) => value.received_at)
    .sort()
    .at(-1);
}

function Summary({ things, zone, flowing }: { things: Thing[]; zone: string; flowing: boolean }): JSX.Element {
  const troubled = things.filter(({ state }) => state !== "good" && state !== "unheard");
  const online = things.filter(({ state }) => state !== "offline").length;
  return (
    <div class="summary">
      <p class={`overall ${troubled.length ? "bad" : "good"}`} role="status">
        <Icon name={troubled.length ? "warning" : "good"} />
        <span>
          <strong>{troubled.length ? t("floor.troubled", { n: troubled.length }) : t("floor.quiet")}</strong>{" "}
          <span class="muted">{t("floor.online", { online, all: things.length })}</span>
        </span>
      </p>
      {troubled.length > 0 && (
        <ul class="troubled">
          {troubled.map((each) => (
            <li key={each.device.name}>
              <a href={pathOf(each.device)}>
                <Icon name={each.kind} />
                <span>
                  <strong>{each.title}</strong> <span>{whatIsWrong(each, zone)}</span>
                </span>
              </a>
            </li>
          ))}
        </ul>
      )}
      {!flowing && (
        <p class="notice warn" role="status">
          {t("floor.interrupted")}
        </p>
      )}
    </div>
  );
}

function whatIsWrong({ state, values, live, device }: Thing, zone: string): string {
  const newest = newestOf(values);
  switch (state) {
    case "offline": {
      const since = live?.since ?? device.last_seen;
      return since ? t("device.offline.since", { time: when(since, zone) }) : t("device.offline");
    }
    case "outside":
      return values
        .filter((value) => value.out_of_bounds)
        .map((value) => `${metricName(value.metric)} ${inWords(value.metric, value.unit, value.value)}`)
        .join(", ");
    case "silent":
      return newest ? t("device.silent.since", { time: when(newest, zone) }) : "";
    default:
      return "";
  }
}

function Card({ thing, zone }: { thing: Thing; zone: string }): JSX.Element {
  const { device, kind, title, values, history, state } = thing;
  const [main, ...others] = values;
  const newest = newestOf(values);
  return (
    <li class={`card ${state}`}>
      <a href={pathOf(device)}>
        <div class="card-head">
          <Icon name={kind} />
          <h3>{title}</h3>
          {state === "outside" && <span class="mark bad">{t("device.outside")}</span>}
          {state === "silent" && <span class="mark warn">{t("device.silent")}</span>}
          {state === "offline" && <span class="mark quiet">{t("device.offline")}</span>}
        </div>
        <div class="card-body">
          <p class="value">
            {main ? <Reading value={main} history={history} /> : <span class="muted">{t("device.nothing")}</span>}
          </p>
          <Spark values={history} />
        </div>
        <p class="others">
          {others
            .filter((value) => !isIdle(value))
            .slice(0, 3)
            .map((value) => (
              <span key={value.metric} class={value.out_of_bounds ? "outside" : ""}>
                {metricName(value.metric)} <b>{inWords(value.metric, value.unit, value.value)}</b>
              </span>
            ))}
        </p>
        <p class="age">{state === "offline" ? whatIsWrong(thing, zone) : newest ? age(newest) : ""}</p>
      </a>
    </li>
  );
}

function Reading({ value, history }: { value: Value; history: (number | null)[] }): JSX.Element {
  const { text, unit } = shown(value.metric, value.unit, value.value);
  const direction = unit ? trend(history) : null;
  return (
    <>
      <span class="visually-hidden">{metricName(value.metric)} </span>
      <span class={unit ? "figure" : "figure word"}>{text}</span>
      {unit && <span class="unit">{unit}</span>}
      {direction && (
        <span class={`trend ${direction}`}>
          <Icon name={direction} />
          <span class="visually-hidden">{t(`trend.${direction}`)}</span>
        </span>
      )}
    </>
  );
}

function Spark({ values }: { values: (number | null)[] }): JSX.Element {
  return (
    <svg class="spark" viewBox="-2 -3 124 42" preserveAspectRatio="none" aria-hidden="true">
      <path d={line(values, 120, 36)} vector-effect="non-scaling-stroke" />
    </svg>
  );
}

function pathOf(device: Device): string {
  return `/devices/${encodeURIComponent(device.name)}`;
}
