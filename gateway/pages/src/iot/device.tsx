// One sensor: how it is, how it was, and what became of everything it sent.

import type { JSX } from "preact";
import { get } from "../api";
import { useData } from "../data";
import { age, metricName, shown, when } from "../format";
import { Icon } from "../icons";
import { inOrder, kindOf, mainMetric, titleOf } from "../kinds";
import { useLive, type LiveDevice } from "../live";
import { Empty, Loaded, Mark, Section, Title } from "../parts";
import { Letters } from "../letters";
import { navigate, useLocation } from "../router";
import { may, me } from "../session";
import { useClock } from "../store";
import { t } from "../texts";
import type { Membership, OneDevice } from "../types";
import { Explorer } from "./explorer";
import { Finder } from "./finder";
import { LedgerOf } from "./ledger";

export function DevicePage({ name }: { name: string }): JSX.Element {
  const asked = useData(() => get<OneDevice>(`devices/${encodeURIComponent(name)}`), [name]);
  return <Loaded from={asked}>{(device) => <Found key={device.name} device={device} />}</Loaded>;
}

function Found({ device }: { device: OneDevice }): JSX.Element {
  const live = useLive(device.site).devices.get(device.name);
  const metrics = device.metrics.map((metric) => metric.name);
  const kind = kindOf(device.name, device.display_name, metrics);
  const asked = useLocation().searchParams.get("metric");
  const main = mainMetric(kind, metrics);
  const chosen = device.metrics.find(({ name }) => name === asked) ?? device.metrics.find(({ name }) => name === main);
  const site: Membership | undefined = me.value?.memberships.find((each) => each.site === device.site);
  return (
    <>
      <p class="crumb">
        <a href="/">
          <Icon name="back" />
          {t("nav.floor")}
        </a>
      </p>
      <Title text={titleOf(device.name, device.display_name)}>
        <State device={device} live={live} />
      </Title>
      <p class="muted device-name">
        <code>{device.name}</code>
      </p>
      {device.metrics.length === 0 && <Empty>{t("device.nothing")}</Empty>}
      <Tiles device={device} live={live} main={main} chosen={chosen?.name} />
      {chosen && <Explorer device={device} metric={chosen} />}
      <LedgerOf device={device} />
      <Finder device={device} />
      {may("dead_letters:read", site) && (
        <Section title={t("letters.of-device")}>
          <Letters
            filter={{ device: device.name }}
            zone={device.time_zone}
            mayReplay={may("dead_letters:replay", site)}
          />
        </Section>
      )}
    </>
  );
}

function State({ device, live }: { device: OneDevice; live: LiveDevice | undefined }): JSX.Element {
  const online = live?.online ?? device.online;
  const since = live?.since ?? device.last_seen;
  if (online) return <Mark tone="good">{t("device.online")}</Mark>;
  return (
    <Mark tone="bad">
      {since ? t("device.offline.since", { time: when(since, device.time_zone) }) : t("device.offline")}
    </Mark>
  );
}

/** The newest value of each measurement; pressing one shows it over time. */
function Tiles(props: {
  device: OneDevice;
  live: LiveDevice | undefined;
  main: string | undefined;
  chosen: string | undefined;
}): JSX.Element {
  useClock(5);
  const { device, live, main, chosen } = props;
  const values = inOrder(
    device.metrics.flatMap((metric) => live?.values.get(metric.name) ?? []),
    main,
  );
  const choose = (metric: string): void => {
    const next = new URL(location.href);
    next.searchParams.set("metric", metric);
    navigate(next.href, "replace");
  };
  return (
    <div class="tiles" role="group" aria-label={t("device.values")}>
      {values.map((value) => {
        const { text, unit } = shown(value.metric, value.unit, value.value);
        return (
          <button
            type="button"
            key={value.metric}
            class={`tile ${value.out_of_bounds ? "outside" : ""}`}
            aria-pressed={value.metric === chosen}
            onClick={() => choose(value.metric)}
          >
            <span class="tile-name">{metricName(value.metric)}</span>
            <span class="tile-value">
              {text} {unit && <small>{unit}</small>}
            </span>
            {value.out_of_bounds && <span class="mark bad">{t("device.outside")}</span>}
            <span class="age">{age(value.received_at)}</span>
          </button>
        );
      })}
    </div>
  );
}
