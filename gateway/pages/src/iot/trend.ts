// From the last hours' values to an arrow and a line. Pure.

export type Trend = "up" | "down" | "level";

const RECENT = 4;

/** Where the last quarter of an hour went against the hour before, if it moved by more than that hour's own swing. */
export function trend(values: (number | null)[]): Trend | null {
  const known = values.filter((value) => value !== null);
  const recent = known.slice(-RECENT);
  const before = known.slice(-4 * RECENT, -RECENT);
  if (recent.length < RECENT || before.length < RECENT) return null;
  const middle = mean(before);
  const swing = Math.sqrt(mean(before.map((value) => (value - middle) ** 2)));
  const moved = mean(recent) - middle;
  if (Math.abs(moved) <= Math.max(1.5 * swing, 0.01 * Math.abs(middle), 0.05)) return "level";
  return moved > 0 ? "up" : "down";
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** An SVG path over a box of `width` × `height`; a gap where nothing was read. */
export function line(values: (number | null)[], width: number, height: number): string {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return "";
  const low = Math.min(...known);
  const high = Math.max(...known);
  const step = width / (values.length - 1);
  const flat = high - low < 1e-9;
  let pen = "M";
  let path = "";
  values.forEach((value, index) => {
    if (value === null) {
      pen = "M";
      return;
    }
    const y = flat ? height / 2 : height - ((value - low) / (high - low)) * height;
    path += `${pen}${(index * step).toFixed(1)} ${y.toFixed(1)}`;
    if (pen === "M" && (values[index + 1] ?? null) === null) path += "h.01"; // a point alone
    pen = "L";
  });
  return path;
}
