// What stands behind a sensor, told from its name or from what it measures. Pure.

import { t, readable, type Text } from "./texts";
import type { Value } from "./types";

export const KINDS = ["fridge", "freezer", "oven", "door", "table", "room", "other"] as const;
export type Kind = (typeof KINDS)[number];

const NAMES: [Kind, RegExp][] = [
  ["freezer", /freez|냉동/i],
  ["fridge", /fridge|refrigerator|cooler|냉장/i],
  ["oven", /oven|grill|fryer|오븐|그릴/i],
  ["door", /door|gate|출입|문$/i],
  ["table", /table|테이블|식탁/i],
  ["room", /room|kitchen|hall|실$|주방|홀$/i],
];

const MEASURED: [Kind, string][] = [
  ["freezer", "defrost_active"],
  ["oven", "setpoint_c"],
  ["oven", "heating_active"],
  ["table", "occupied"],
  ["table", "guests_count"],
  ["room", "co2_ppm"],
];

/** The measurement that a card shows large, the first that there is. */
const MAIN: Record<Kind, string[]> = {
  fridge: ["temperature_c"],
  freezer: ["temperature_c"],
  oven: ["temperature_c"],
  door: ["door_open"],
  table: ["occupied", "guests_count"],
  room: ["temperature_c"],
  other: [],
};

export function kindOf(name: string, displayName: string | null, metrics: Iterable<string>): Kind {
  const own = name.slice(name.indexOf(".") + 1); // the site in a name such as cold-room-2.oven-1 says nothing
  for (const text of [displayName, own]) {
    const found = text && NAMES.find(([, pattern]) => pattern.test(text));
    if (found) return found[0];
  }
  const measured = new Set(metrics);
  const found = MEASURED.find(([, metric]) => measured.has(metric));
  if (found) return found[0];
  if (measured.has("door_open")) return measured.has("temperature_c") ? "fridge" : "door";
  return "other";
}

export function mainMetric(kind: Kind, metrics: string[]): string | undefined {
  return MAIN[kind].find((metric) => metrics.includes(metric)) ?? metrics[0];
}

/** Its display name; else `demo.fridge-2` as "Fridge 2". */
export function titleOf(name: string, displayName: string | null): string {
  if (displayName) return displayName;
  const own = name.slice(name.indexOf(".") + 1);
  const [, word, number] = /^([a-z]+)[-_ ]?0*(\d+)$/i.exec(own) ?? [];
  const kind = KINDS.find((each) => each === word?.toLowerCase());
  return kind && number ? t("device.numbered", { kind: t(`kind.${kind}` satisfies Text), number }) : readable(own);
}

export function isBoolean(metric: string, unit: string | null): boolean {
  return unit === null && /(_open|_active|_on|^occupied)$/.test(metric);
}

/** What a card need not say: that something is not going on. */
export function isIdle(value: Value): boolean {
  return value.value === 0 && /_active$|^setpoint_c$|^guests_count$/.test(value.metric);
}

/** In the order in which a card tells them: the main one first, then temperatures, the rest by name. */
export function inOrder(values: Value[], main: string | undefined): Value[] {
  const rank = (value: Value): number => (value.metric === main ? 0 : value.unit === "°C" ? 1 : 2);
  return [...values].sort((a, b) => rank(a) - rank(b) || a.metric.localeCompare(b.metric));
}
