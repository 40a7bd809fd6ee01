// The gateway's API as the pages call it: by cookies, with the CSRF header, a refused token refreshed once.

const PREFIX = "/api/v1/";

export interface Wrong {
  field: string;
  reason: string;
}

/** A refusal (RFC 9457), or no answer at all: then `status` is 0 and `kind` is "away". */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    readonly detail: string,
    readonly errors: Wrong[] = [],
    readonly retryAfter: number | null = null,
  ) {
    super(detail);
  }
}

type Scalar = string | number | boolean | null | undefined;
export type Query = Record<string, Scalar | string[]>;

export function url(path: string, query: Query = {}): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined) parameters.append(name, String(each));
    }
  }
  const text = parameters.toString();
  return PREFIX + path + (text && `?${text}`);
}

export function get<T>(path: string, query: Query = {}): Promise<T> {
  return call<T>("GET", url(path, query));
}

export function post<T = void>(path: string, body: unknown = undefined, query: Query = {}): Promise<T> {
  return call<T>("POST", url(path, query), body);
}

export function patch<T = void>(path: string, body: unknown): Promise<T> {
  return call<T>("PATCH", url(path), body);
}

export function remove(path: string, body: unknown = undefined): Promise<void> {
  return call("DELETE", url(path), body);
}

/** Log in or accept an invitation: the gateway keeps the tokens in cookies that scripts cannot read. */
export async function enter(path: string, body: unknown): Promise<void> {
  await answered(await send("POST", url(path), body));
}

/** All pages of a listing. */
export async function all<T>(path: string, name: string, query: Query = {}): Promise<T[]> {
  const found: T[] = [];
  let cursor: string | null = null;
  do {
    const page: Record<string, unknown> = await get(path, { ...query, cursor });
    found.push(...(page[name] as T[]));
    cursor = page["next"] as string | null;
  } while (cursor);
  return found;
}

async function call<T>(method: string, address: string, body?: unknown): Promise<T> {
  try {
    return await answered<T>(await send(method, address, body));
  } catch (error) {
    if (method === "GET" && isSoonAllowed(error)) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * error.retryAfter!));
      return answered<T>(await send(method, address, body));
    }
    if (!isSessionLost(error) || !(await refreshed())) throw error;
    return answered<T>(await send(method, address, body));
  }
}

/** Somebody quick waits a moment rather than read about a rate limit. */
function isSoonAllowed(error: unknown): error is ApiError {
  return error instanceof ApiError && error.status === 429 && (error.retryAfter ?? 60) <= 3;
}

const ABOUT_THE_BODY = new Set(["bad-credentials", "second-factor-needed", "bad-token"]);

export function isSessionLost(error: unknown): boolean {
  return error instanceof ApiError && error.status === 401 && !ABOUT_THE_BODY.has(error.kind);
}

let refreshing: Promise<boolean> | null = null;

/** A new access token for the session; false when the session has ended. Calls at the same time share one. */
export function refreshed(): Promise<boolean> {
  refreshing ??= refresh().finally(() => (refreshing = null));
  return refreshing;
}

async function refresh(): Promise<boolean> {
  if (!csrf()) return false; // the cookies of a session come and go together
  const answer = await send("POST", url("auth/refresh"));
  if (answer.status !== 401) await answered(answer); // an outage ends no session
  return answer.ok;
}

async function send(method: string, address: string, body?: unknown): Promise<Response> {
  const headers: Record<string, string> = { Accept: "application/json", "X-Brigade-Session": "cookie" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const token = method === "GET" ? null : csrf();
  if (token) headers["X-CSRF-Token"] = token;
  try {
    const options: RequestInit = { method, headers, credentials: "same-origin", cache: "no-store" };
    if (body !== undefined) options.body = JSON.stringify(body);
    const answer = await fetch(address, options);
    setClock(answer.headers.get("Date"));
    return answer;
  } catch {
    throw new ApiError(0, "away", "");
  }
}

function csrf(): string | null {
  return /(?:^|; )__Host-brigade-csrf=([^;]*)/.exec(document.cookie)?.[1] ?? null;
}

async function answered<T = void>(answer: Response): Promise<T> {
  const text = await answer.text();
  const isJson = /json/.test(answer.headers.get("Content-Type") ?? "");
  const body = isJson && text ? JSON.parse(text) : null;
  if (answer.ok) return body as T;
  const kind = String(body?.type ?? "").replace("urn:brigade:problem:", "") || "refused";
  const wait = Number(answer.headers.get("Retry-After")) || null;
  throw new ApiError(answer.status, kind, body?.detail ?? answer.statusText, body?.errors ?? [], wait);
}

let ahead = 0;

function setClock(date: string | null): void {
  if (date) ahead = Date.parse(date) - Date.now();
}

/** The server's time: a phone's clock may be wrong. */
export function now(): number {
  return Math.abs(ahead) > 5_000 ? Date.now() + ahead : Date.now();
}
