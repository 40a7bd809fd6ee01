// What the API answers, as far as the pages read it.

import type { Language } from "./texts";

export type Role = "owner" | "manager" | "staff" | "auditor" | "technician";

export interface Membership {
  site: string;
  site_name: string | null;
  role: Role;
  time_zone: string;
}

export interface Me {
  id: string;
  email: string;
  name: string;
  language: Language;
  totp: boolean;
  memberships: Membership[];
}

export interface Device {
  name: string;
  display_name: string | null;
  site: string;
  time_zone: string;
  online: boolean;
  last_seen: string | null;
}

export interface Metric {
  name: string;
  unit: string | null;
  lower_bound: number | null;
  upper_bound: number | null;
}

export interface OneDevice extends Device {
  metrics: Metric[];
}

export interface Value {
  metric: string;
  unit: string | null;
  ts: string;
  value: number;
  received_at: string;
  out_of_bounds: boolean;
}

export interface Point {
  ts: string;
  value?: number;
  received_at?: string;
  seq?: number | null;
  avg?: number;
  min?: number;
  max?: number;
  out_of_bounds: boolean;
}

export interface Series extends Omit<Metric, "name"> {
  metric: string;
  thinned: boolean;
  points: Point[];
}

export type Bucket = "raw" | "1m" | "1h" | "1d";

export interface Readings {
  device: string;
  time_zone: string;
  from: string;
  to: string;
  bucket: Bucket;
  series: Series[];
}

/** A value for every `step_seconds` from `from` on; null where nothing was read. */
export interface Recent {
  from: string;
  step_seconds: number;
  devices: { device: string; metrics: Record<string, (number | null)[]> }[];
}

export interface Counts {
  received: number;
  stored: number;
  duplicate: number;
  refused: number;
  late: number;
  points: number;
  refused_by_reason: Record<string, number>;
}

export interface Ledger {
  from: string;
  to: string;
  totals: Counts;
  hours: (Counts & { hour: string })[];
}

export interface DeadLetter {
  id: number;
  received_at: string;
  reason: string;
  detail: string;
  mqtt_topic: string;
  device: string | null;
  element: number | null;
  payload_size: number;
  cut: boolean;
  replay_requested_at: string | null;
  replayed_at: string | null;
  outcome: string | null;
  resolved: boolean;
}

export interface DeadLetterPage {
  dead_letters: DeadLetter[];
  next: string | null;
}

export interface OneDeadLetter extends DeadLetter {
  payload_text: string | null;
  payload_base64: string;
}

export interface Person {
  id: string;
  email: string;
  name: string;
  totp: boolean;
  memberships: { site: string; role: Role }[];
}

export interface Invitation {
  id: string;
  email: string;
  role: Role;
  expires_at: string;
}

export interface Credential {
  device: string;
  site: string;
  name: string;
  created_at: string;
  rotated_at: string | null;
  revoked_at: string | null;
}

export interface Secret {
  device: string;
  client_id: string;
  username: string;
  password: string;
  mqtt: { host: string; port: number; tls: boolean };
}

export interface Key {
  id: string;
  prefix: string;
  name: string;
  scope: "read" | "write";
  sites: string[];
  created_at: string;
  expires_at: string | null;
  last_used_at: string | null;
}

export interface AuditEvent {
  id: number;
  at: string;
  what: string;
  who: { id: string | null; email: string | null };
  site: string | null;
  ip: string;
  detail: Record<string, unknown>;
}

export interface AuditPage {
  events: AuditEvent[];
  next: string | null;
}

export interface Session {
  id: string;
  current: boolean;
  created_at: string;
  seen_at: string;
  ip: string;
  agent: string;
}

export interface System {
  at: string;
  parts: { name: string; up: boolean; detail: string | null }[];
  lag: Record<"messages" | "seconds", number | null> | null;
  rates: Record<"received" | "stored" | "refused" | "dead_letters_open", number | null>;
}
