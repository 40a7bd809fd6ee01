// A stretch of time on the plot: what to ask the API for it, and its answer as the plot's columns. Pure.

import type { Query } from "../api";
import type { Bucket, Point } from "../types";

/** In seconds since 1970. */
export interface Span {
  from: number;
  to: number;
}

export const RANGES = { "1h": 3_600, "6h": 21_600, "24h": 86_400, "7d": 604_800, "30d": 2_592_000, "1y": 31_536_000 };
export type Range = keyof typeof RANGES;

const RAW_UP_TO = RANGES["6h"];
const RAW_POINTS = 3_000;
const SHORTEST = 20;
const LONGEST = 3 * RANGES["1y"];
const WIDTHS: Record<Bucket, number> = { raw: 0, "1m": 60, "1h": 3_600, "1d": 86_400 };

/** Single readings for hours, the API's own choice of buckets for more. */
export function question(span: Span): Query {
  const range = { from: new Date(span.from * 1000).toISOString(), to: new Date(span.to * 1000).toISOString() };
  return isRaw(span) ? { ...range, bucket: "raw", max_points: RAW_POINTS } : { ...range, bucket: "auto" };
}

export function isRaw(span: Span): boolean {
  return span.to - span.from <= RAW_UP_TO;
}

/** Times, middles, lowest, highest, and the middles of those out of bounds. */
export type Columns = [number[], ...(number | null)[][]];

export function columns(points: Point[], bucket: Bucket): Columns {
  const found: Columns = [[], [], [], [], []];
  const times = points.map((point) => Date.parse(point.ts) / 1000);
  const gap = 2.5 * Math.max(WIDTHS[bucket], usualStep(times), 1);
  points.forEach((point, index) => {
    const time = times[index]!;
    const before = times[index - 1];
    if (before !== undefined && time - before > gap) push(found, [(before + time) / 2, null, null, null, null]);
    const middle = point.value ?? point.avg ?? null;
    push(found, [time, middle, point.min ?? middle, point.max ?? middle, point.out_of_bounds ? middle : null]);
  });
  return found;
}

function push(columns: Columns, row: [number, ...(number | null)[]]): void {
  row.forEach((value, index) => (columns[index] as (number | null)[]).push(value));
}

/** Between most readings: what takes much longer is a gap. */
export function usualStep(times: number[]): number {
  const steps = times.slice(1).map((time, index) => time - times[index]!);
  return steps.sort((a, b) => a - b)[Math.floor(steps.length * 0.75)] ?? 0;
}

export function zoomed(span: Span, factor: number, latest: number): Span {
  const middle = (span.from + span.to) / 2;
  const half = Math.min(Math.max((span.to - span.from) * factor, SHORTEST), LONGEST) / 2;
  return notBeyond({ from: middle - half, to: middle + half }, latest);
}

export function moved(span: Span, share: number, latest: number): Span {
  const by = (span.to - span.from) * share;
  return notBeyond({ from: span.from + by, to: span.to + by }, latest);
}

/** The future has no readings. */
export function notBeyond(span: Span, latest: number): Span {
  const beyond = Math.max(0, span.to - latest);
  const from = Math.max(0, span.from - beyond);
  return { from, to: Math.max(span.to - beyond, from + SHORTEST) };
}

export interface Extent {
  lowest: number;
  highest: number;
  last: number;
}

export function extent([, middles = [], lows = [], highs = []]: Columns): Extent | null {
  const known = middles.filter((value) => value !== null);
  const last = known.at(-1);
  if (last === undefined) return null;
  const lowest = lows.reduce<number>((least, value) => Math.min(least, value ?? least), Infinity);
  const highest = highs.reduce<number>((most, value) => Math.max(most, value ?? most), -Infinity);
  return { lowest, highest, last };
}
