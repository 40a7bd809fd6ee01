// The newest values of a site as they change, by server-sent events.

import { useEffect, useState } from "preact/hooks";
import { refreshed, url } from "./api";
import { logInAgain } from "./session";
import { Store, useStore } from "./store";
import type { Value } from "./types";

interface Change {
  latest: (Value & { device: string })[];
  status: { device: string; online: boolean; since: string | null }[];
}

export interface LiveDevice {
  values: Map<string, Value>;
  online: boolean;
  since: string | null;
}

export interface LiveSite {
  devices: Map<string, LiveDevice>;
  /** Whether changes arrive; what is shown may be old while they do not. */
  flowing: boolean;
  known: boolean;
}

const FIRST_WAIT_MS = 2_000;
const LONGEST_WAIT_MS = 30_000;

class Stream {
  readonly state = new Store<LiveSite>({ devices: new Map(), flowing: true, known: false });
  private source: EventSource | null = null;
  private timer = 0;
  private wait = FIRST_WAIT_MS;

  constructor(private readonly site: string) {}

  open(): void {
    const source = new EventSource(url("stream", { site: this.site }));
    this.source = source;
    source.addEventListener("state", (event) => this.take(new Map(), JSON.parse(event.data)));
    source.addEventListener("change", (event) => this.take(this.state.value.devices, JSON.parse(event.data)));
    source.addEventListener("error", () => {
      this.state.value = { ...this.state.value, flowing: false };
      if (source.readyState === EventSource.CLOSED) this.timer = setTimeout(() => void this.again(), this.wait);
    });
  }

  close(): void {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  /** A refused stream is not tried again by the browser: most likely the token has expired. */
  private async again(): Promise<void> {
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
    const lost = await refreshed().then(
      (good) => !good,
      () => false, // an outage: the stream tells when it is over
    );
    if (!this.source) return;
    if (lost) logInAgain();
    else this.open();
  }

  private take(before: Map<string, LiveDevice>, change: Change): void {
    const devices = new Map(before);
    for (const { device, ...value } of change.latest) {
      const { values } = this.device(devices, device);
      const known = values.get(value.metric);
      values.set(value.metric, { ...known, ...value });
    }
    for (const { device, online, since } of change.status)
      Object.assign(this.device(devices, device), { online, since });
    this.wait = FIRST_WAIT_MS;
    this.state.value = { devices, flowing: true, known: true };
  }

  private device(devices: Map<string, LiveDevice>, name: string): LiveDevice {
    const known = devices.get(name);
    const own = known ? { ...known, values: new Map(known.values) } : { values: new Map(), online: true, since: null };
    devices.set(name, own);
    return own;
  }
}

/** Followed while the page is seen: a phone in a pocket asks for nothing. */
export function useLive(site: string): LiveSite {
  const [stream, setStream] = useState(() => new Stream(site));
  useEffect(() => {
    const own = new Stream(site);
    setStream(own);
    const watch = (): void => {
      own.close();
      if (!document.hidden) own.open();
    };
    watch();
    document.addEventListener("visibilitychange", watch);
    return () => {
      document.removeEventListener("visibilitychange", watch);
      own.close();
    };
  }, [site]);
  return useStore(stream.state);
}
