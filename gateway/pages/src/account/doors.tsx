// The pages that need no session: log in, a forgotten password, an invitation, a confirmed address.

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiError, enter, post } from "../api";
import { useData } from "../data";
import { Field, Form, Title, Trouble } from "../parts";
import { Preferences } from "../preferences";
import { navigate } from "../router";
import { recognise } from "../session";
import { language, t } from "../texts";

function Door({ title, children }: { title: string; children: ComponentChildren }): JSX.Element {
  return (
    <main class="door">
      <div class="door-card">
        <p class="brand">
          <img src="/icon.svg" alt="" width="40" height="40" />
          Brigade
        </p>
        <Title text={title} />
        {children}
      </div>
      <Preferences />
    </main>
  );
}

/** Where typing begins. */
function useFocus(name: string): void {
  useEffect(() => document.querySelector<HTMLElement>(`[name=${name}]`)?.focus(), []);
}

/** Enters, or asks for the code of a second factor first; whether one is in now. */
function useEntering(path: string): {
  needsCode: boolean;
  tryWith: (body: Record<string, string>) => Promise<boolean>;
} {
  const [needsCode, setNeedsCode] = useState(false);
  const tryWith = async (body: Record<string, string>): Promise<boolean> => {
    try {
      await enter(path, body);
      return true;
    } catch (error) {
      if (!(error instanceof ApiError) || error.kind !== "second-factor-needed" || needsCode) throw error;
      setNeedsCode(true);
      return false;
    }
  };
  return { needsCode, tryWith };
}

export function Login(): JSX.Element {
  const { needsCode, tryWith } = useEntering("auth/login");
  const query = new URLSearchParams(location.search);
  useFocus("email");
  const submit = async (values: Record<string, string>): Promise<void> => {
    if (await tryWith(values)) await inside(query.get("next"));
  };
  return (
    <Door title={t("login.title")}>
      {query.has("reset") && <p class="notice good">{t("login.reset")}</p>}
      <Form submit={submit} button={t("login.button")}>
        <Field name="email" label={t("email")} type="email" autocomplete="username" required />
        <Field name="password" label={t("password")} type="password" autocomplete="current-password" required />
        {needsCode && <Code />}
      </Form>
      <p>
        <a href="/forgot">{t("login.forgot")}</a>
      </p>
    </Door>
  );
}

function Code(): JSX.Element {
  useFocus("code");
  return (
    <Field
      name="code"
      label={t("login.code")}
      hint={t("login.code.hint")}
      autocomplete="one-time-code"
      inputMode="text"
      required
    />
  );
}

/** To where the person was going, if that is a path of ours. */
async function inside(next: string | null): Promise<void> {
  await recognise();
  navigate(next && /^\/(?![/\\])/.test(next) ? next + location.hash : "/", "replace");
}

export function Forgot(): JSX.Element {
  const [sent, setSent] = useState(false);
  return (
    <Door title={t("forgot.title")}>
      {sent ? (
        <p role="status">{t("forgot.sent")}</p>
      ) : (
        <Form
          submit={({ email }) => post("auth/password/forgot", { email }).then(() => setSent(true))}
          button={t("forgot.button")}
        >
          <p>{t("forgot.lead")}</p>
          <Field name="email" label={t("email")} type="email" autocomplete="username" required />
        </Form>
      )}
      <p>
        <a href="/login">{t("login.back")}</a>
      </p>
    </Door>
  );
}

/** What follows the # of a link in a mail: browsers send it to no server. */
const tokenOfLink = (): string => location.hash.slice(1);

export function Reset(): JSX.Element {
  const submit = async ({ password }: Record<string, string>): Promise<void> => {
    await post("auth/password/reset", { token: tokenOfLink(), password });
    navigate("/login?reset", "replace");
  };
  return (
    <Door title={t("reset.title")}>
      <Form submit={submit} button={t("reset.button")}>
        <NewPassword />
      </Form>
      <p>
        <a href="/forgot">{t("reset.another")}</a>
      </p>
    </Door>
  );
}

export function Invited(): JSX.Element {
  const { needsCode, tryWith } = useEntering("invitations/accept");
  const submit = async (values: Record<string, string>): Promise<void> => {
    if (await tryWith({ token: tokenOfLink(), language: language.value, ...values })) await inside(null);
  };
  return (
    <Door title={t("invited.title")}>
      <p>{t("invited.lead")}</p>
      <Form submit={submit} button={t("invited.button")}>
        <Field name="name" label={t("name")} autocomplete="name" required maxLength={100} />
        <NewPassword />
        {needsCode && <Code />}
      </Form>
    </Door>
  );
}

export function NewPassword(): JSX.Element {
  return (
    <Field
      name="password"
      label={t("password.new")}
      hint={t("password.hint")}
      type="password"
      autocomplete="new-password"
      minLength={12}
      required
    />
  );
}

export function ConfirmedEmail(): JSX.Element {
  const confirmed = useData(async () => {
    await post("me/email/confirm", { token: tokenOfLink() });
    await recognise();
    return true;
  }, []);
  return (
    <Door title={t("email.new")}>
      {confirmed.error ? (
        <Trouble error={confirmed.error} />
      ) : (
        <p role="status">{t(confirmed.data ? "email.confirmed" : "waiting")}</p>
      )}
      <p>
        <a href="/account">{t("nav.account")}</a>
      </p>
    </Door>
  );
}
