// The clock on the wall of a site, and the moment it shows. Pure.

/** The moment at which clocks of the zone show `local` ("2026-11-23T03:40"). */
export function momentOf(local: string, zone: string): Date {
  const asUtc = Date.parse(`${local}Z`);
  const guess = asUtc - offset(asUtc, zone);
  return new Date(asUtc - offset(guess, zone)); // again, for the hours around a change of clocks
}

/** What a datetime-local field holds for the moment. */
export function localOf(moment: number, zone: string): string {
  return new Date(moment + offset(moment, zone)).toISOString().slice(0, 16);
}

/** By how many milliseconds the zone's clocks are ahead of UTC. */
function offset(moment: number, zone: string): number {
  const parts = new Intl.DateTimeFormat("en-US", {
    timeZone: zone,
    hourCycle: "h23",
    year: "numeric",
    month: "numeric",
    day: "numeric",
    hour: "numeric",
    minute: "numeric",
    second: "numeric",
  }).formatToParts(moment);
  const part = (name: string): number => Number(parts.find(({ type }) => type === name)?.value);
  const shown = Date.UTC(part("year"), part("month") - 1, part("day"), part("hour"), part("minute"), part("second"));
  return shown - Math.floor(moment / 1000) * 1000;
}
