import type { JSX } from "preact";
import type { Kind } from "./kinds";

/** Drawn for this on a grid of 24, lines of 1.75. */
const SHAPES = {
  fridge: "M7 3h10a1 1 0 0 1 1 1v16a1 1 0 0 1-1 1H7a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM6 10h12M9 6v1.5M9 13v3",
  freezer: "M12 3v18M4.2 7.5l15.6 9M19.8 7.5l-15.6 9M9.5 4.5 12 7l2.5-2.5M9.5 19.5 12 17l2.5 2.5",
  oven: "M5 4h14a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zM4 9h16M7 6.5h.01M10 6.5h.01M8 12.5h8v4.5H8z",
  door: "M6 21V4a1 1 0 0 1 1-1h10a1 1 0 0 1 1 1v17M4 21h16M14.5 12.5v.01",
  table: "M3 9h18M5 9l1.5 11M19 9l-1.5 11M9 9V5.5h6V9",
  room: "M3 11 12 4l9 7M5.5 9.5V20h13V9.5M10 20v-5h4v5",
  other: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM6 6a8.5 8.5 0 0 0 0 12M18 6a8.5 8.5 0 0 1 0 12",
  up: "M6 18 18 6M9 6h9v9",
  down: "M6 6l12 12M18 9v9H9",
  level: "M4 12h16M15 7l5 5-5 5",
  warning: "M12 4 2.8 20h18.4L12 4zM12 10v4.5M12 17.3v.01",
  offline:
    "M3 3l18 18M5 12.5a10 10 0 0 1 4-2.4M2 9a15 15 0 0 1 4.5-2.8M12.5 6a15 15 0 0 1 9.5 3.5M15.5 11a10 10 0 0 1 3.5 2M8.5 16a5 5 0 0 1 7 0M12 19.5v.01",
  good: "M5 12.5 10 17.5 19.5 7",
  floor: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  admin: "M4 7h10M18 7h2M4 17h2M10 17h10M16 4.8v4.4M8 14.8v4.4",
  account: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 20.5a7.5 7.5 0 0 1 15 0",
  light:
    "M12 7.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M19 5l-1.4 1.4M6.4 17.6 5 19",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  back: "M15 5l-7 7 7 7",
  more: "M9 5l7 7-7 7",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  download: "M12 4v11M7 10.5l5 5 5-5M4.5 20h15",
  minus: "M5 12h14",
  plus: "M5 12h14M12 5v14",
} as const;

export type Icon = keyof typeof SHAPES;

/** For eyes only: the words beside it say the same. */
export function Icon({ name, class: style }: { name: Icon | Kind; class?: string }): JSX.Element {
  return (
    <svg class={`icon ${style ?? ""}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={SHAPES[name]} />
    </svg>
  );
}
