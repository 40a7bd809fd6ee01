// The plot of one measurement: drag or touch a stretch to look closer, keys to move about.

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { format, inWords, number } from "../format";
import { isBoolean } from "../kinds";
import type { Bucket } from "../types";
import type { Columns, Span } from "./history";

export interface PlotProps {
  columns: Columns;
  span: Span;
  bucket: Bucket;
  metric: string;
  unit: string | null;
  bounds: [number | null, number | null];
  zone: string;
  label: string;
  describedBy: string;
  onSelect: (span: Span) => void;
  onPoint: (index: number | null) => void;
  onKey: (key: string) => boolean;
}

const DAY = 86_400;
const SHORTEST_DRAG = 8;

export function Plot(props: PlotProps): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;

  useEffect(() => {
    const own = box.current!;
    const draw = (): void => {
      plot.current?.destroy();
      const { columns, span } = latest.current;
      plot.current = new uPlot(options(own, latest), columns as uPlot.AlignedData, own);
      plot.current.setScale("x", { min: span.from, max: span.to });
    };
    draw();
    const sized = new ResizeObserver(() => plot.current?.setSize(size(own)));
    sized.observe(own);
    addEventListener("themed", draw);
    return () => {
      sized.disconnect();
      removeEventListener("themed", draw);
      plot.current?.destroy();
    };
  }, [props.metric, props.bucket, props.zone]);

  useEffect(() => {
    plot.current?.setData(props.columns as uPlot.AlignedData, false);
    plot.current?.setScale("x", { min: props.span.from, max: props.span.to });
  }, [props.columns, props.span.from, props.span.to]);

  return (
    <div
      ref={box}
      class="plot"
      role="group"
      tabIndex={0}
      aria-label={props.label}
      aria-describedby={props.describedBy}
      onKeyDown={(event) => {
        if (!event.ctrlKey && !event.metaKey && !event.altKey && props.onKey(event.key)) event.preventDefault();
      }}
    />
  );
}

function size(box: HTMLElement): { width: number; height: number } {
  return { width: box.clientWidth, height: Math.round(Math.min(Math.max(box.clientWidth * 0.45, 240), 420)) };
}

function options(box: HTMLElement, latest: { current: PlotProps }): uPlot.Options {
  const { metric, unit, bucket, zone } = latest.current;
  const style = getComputedStyle(box);
  const colour = (name: string): string => style.getPropertyValue(`--${name}`).trim();
  const boolean = isBoolean(metric, unit);
  const steps = boolean && bucket === "raw" ? { paths: uPlot.paths.stepped!({ align: 1 }) } : {};
  const axis = { stroke: colour("muted"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false } };
  const font = `13px ${style.fontFamily}`;
  return {
    ...size(box),
    legend: { show: false },
    padding: [14, 12, 0, 0],
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), zone),
    cursor: { drag: { x: true, y: false, setScale: false }, points: { size: 9 }, y: false },
    scales: { x: { time: true }, y: { range: (_, low, high) => yRange(low, high, boolean) } },
    axes: [
      {
        ...axis,
        font,
        size: 34,
        space: 70,
        values: (_plot, splits, _axis, _space, step) => splits.map((at) => tick(at, step, zone)),
      },
      {
        ...axis,
        font,
        size: 58,
        values: (_plot, splits) => splits.map((value) => (boolean ? share(metric, value, bucket) : number(value))),
      },
    ],
    series: [
      {},
      {
        stroke: colour("line"),
        width: 2,
        points: { show: true, filter: alone, size: 5, fill: colour("line") },
        ...steps,
      },
      { stroke: "transparent", points: { show: false } },
      { stroke: "transparent", points: { show: false } },
      { stroke: "transparent", points: { show: true, size: 5, fill: colour("bad"), stroke: colour("bad") } },
    ],
    bands: [{ series: [3, 2], fill: colour("band") }],
    hooks: {
      draw: [(plot) => drawBounds(plot, latest.current.bounds, colour("bad"))],
      ready: [(plot) => followTouch(plot)],
      setCursor: [(plot) => latest.current.onPoint(plot.cursor.idx ?? null)],
      setSelect: [
        (plot) => {
          const { left, width } = plot.select;
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          if (width < SHORTEST_DRAG) return;
          latest.current.onSelect({ from: plot.posToVal(left, "x"), to: plot.posToVal(left + width, "x") });
        },
      ],
    },
  };
}

/** The points that no line leads to or from. */
function alone(plot: uPlot, series: number): number[] {
  const values = plot.data[series]!;
  const [first, last] = plot.series[0]!.idxs!;
  const found: number[] = [];
  for (let at = first; at <= last; at++) {
    if (values[at] != null && values[at - 1] == null && values[at + 1] == null) found.push(at);
  }
  return found;
}

function yRange(low: number | null, high: number | null, boolean: boolean): [number, number] {
  if (boolean || low === null || high === null) return [-0.05, 1.05];
  const air = Math.max((high - low) * 0.08, Math.abs(high) * 0.01, 0.1);
  return [low - air, high + air];
}

/** Single readings are a word, buckets a share of the time. */
function share(metric: string, value: number, bucket: Bucket): string {
  if (bucket !== "raw") return `${number(value * 100, "%")} %`;
  return value === 0 || value === 1 ? inWords(metric, null, value) : "";
}

function tick(at: number, step: number, zone: string): string {
  const time = new Date(at * 1000);
  const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } as const;
  const date = { month: "short", day: "numeric" } as const;
  if (step >= 28 * DAY) return format({ month: "short", year: "2-digit" }, zone).format(time);
  if (step >= DAY) return format(date, zone).format(time);
  const text = format(step < 60 ? { ...clock, second: "2-digit" } : clock, zone).format(time);
  return text === "00:00" ? format(date, zone).format(time) : text;
}

function drawBounds(plot: uPlot, bounds: (number | null)[], colour: string): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.setLineDash([6, 6]);
  for (const bound of bounds) {
    const y = bound === null ? NaN : Math.round(plot.valToPos(bound, "y", true));
    if (!(y >= bbox.top && y <= bbox.top + bbox.height)) continue;
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
  }
  ctx.restore();
}

/** A finger that moves sideways selects, as the mouse does; one that rests reads the value; up and down scrolls. */
function followTouch(plot: uPlot): void {
  const { over } = plot;
  let start: number | null = null;
  const at = (event: PointerEvent): number => {
    const box = over.getBoundingClientRect();
    return Math.min(Math.max(event.clientX - box.left, 0), box.width);
  };
  over.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    start = at(event);
    plot.setCursor({ left: start, top: 1 });
  });
  over.addEventListener("pointermove", (event) => {
    if (start === null) return;
    const here = at(event);
    plot.setCursor({ left: here, top: 1 });
    plot.setSelect(
      { left: Math.min(start, here), width: Math.abs(here - start), top: 0, height: over.clientHeight },
      false,
    );
  });
  over.addEventListener("pointerup", () => {
    if (start !== null) plot.setSelect(plot.select);
    start = null;
  });
  over.addEventListener("pointercancel", () => {
    start = null;
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  });
}
