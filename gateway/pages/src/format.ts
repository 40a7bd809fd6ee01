// Numbers, times and ages as a person of the site reads them.

import { now } from "./api";
import { isBoolean } from "./kinds";
import { language, named, t, type Text } from "./texts";

const MINUS = "\u2212";
const DIGITS: Record<string, number> = { "°C": 1, "°F": 1, "%": 0, ppm: 0, ppb: 0, W: 0, "1": 0, lx: 0 };

export function metricName(metric: string): string {
  return named("metric", metric);
}

/** A value and its unit, apart: cards set them in two sizes. */
export function shown(metric: string, unit: string | null, value: number): { text: string; unit: string } {
  if (isBoolean(metric, unit)) return { text: t(state(metric, value > 0)), unit: "" };
  return { text: number(value, unit), unit: unit === "1" || unit === null ? "" : unit };
}

export function inWords(metric: string, unit: string | null, value: number): string {
  const { text, unit: shownUnit } = shown(metric, unit, value);
  return shownUnit ? `${text} ${shownUnit}` : text;
}

function state(metric: string, on: boolean): Text {
  if (metric.endsWith("_open")) return on ? "state.open" : "state.closed";
  if (metric === "occupied") return on ? "state.occupied" : "state.free";
  return on ? "state.on" : "state.off";
}

export function number(value: number, unit: string | null = null): string {
  const digits = (unit !== null ? DIGITS[unit] : undefined) ?? (Math.abs(value) >= 100 ? 0 : 2);
  const text = new Intl.NumberFormat(language.value, {
    maximumFractionDigits: digits,
    minimumFractionDigits: unit === "°C" ? 1 : 0,
  });
  return text
    .format(value)
    .replace(/^-(?=0(\.0*)?$)/, "")
    .replace("-", MINUS);
}

const AGES: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
  ["second", 1],
];

/** "12 sec. ago" */
export function age(then: string): string {
  const seconds = Math.max(0, Math.round((now() - Date.parse(then)) / 1000));
  if (seconds < 2) return t("time.now");
  const [unit, length] = AGES.find(([, each]) => seconds >= each) ?? (["second", 1] as const);
  return new Intl.RelativeTimeFormat(language.value, { style: "short" }).format(-Math.floor(seconds / length), unit);
}

export function secondsSince(then: string): number {
  return (now() - Date.parse(then)) / 1000;
}

/** The time of day today, else with the date. */
export function when(then: string, zone: string): string {
  const today = day(new Date(now()), zone) === day(new Date(then), zone);
  return today ? clock(then, zone) : dateTime(then, zone);
}

export function clock(then: string | Date, zone: string): string {
  return format({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }, zone).format(new Date(then));
}

export function dateTime(then: string | Date, zone: string): string {
  const year = day(new Date(then), zone).slice(0, 4) === day(new Date(now()), zone).slice(0, 4) ? {} : YEAR;
  return format(
    { ...year, month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
    zone,
  ).format(new Date(then));
}

export function precise(then: string, zone: string): string {
  const parts = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" } as const;
  return format({ ...parts, hourCycle: "h23" }, zone).format(new Date(then));
}

export function date(then: string | Date, zone: string): string {
  return format({ ...YEAR, month: "short", day: "numeric" }, zone).format(new Date(then));
}

const YEAR = { year: "numeric" } as const;

function day(then: Date, zone: string): string {
  return new Intl.DateTimeFormat("en-CA", { timeZone: zone }).format(then);
}

const formats = new Map<string, Intl.DateTimeFormat>();

/** Made once each: making one takes longer than using it. */
export function format(options: Intl.DateTimeFormatOptions, zone: string): Intl.DateTimeFormat {
  const name = JSON.stringify([language.value, zone, options]);
  const known = formats.get(name);
  if (known) return known;
  const made = new Intl.DateTimeFormat(language.value, { ...options, timeZone: zone });
  formats.set(name, made);
  return made;
}
