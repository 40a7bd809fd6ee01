// One's own account.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { renderSVG } from "uqr";
import { get, patch, post, remove } from "../api";
import { useData } from "../data";
import { age, when } from "../format";
import { Action, Choice, Copyable, Field, Form, Loaded, Mark, say, Section, sure, Title } from "../parts";
import { leave, me, recognise } from "../session";
import { language, LANGUAGES, prefer, t, type Language } from "../texts";
import type { Me, Session } from "../types";
import { NewPassword } from "./doors";

export function Account({ person }: { person: Me }): JSX.Element {
  return (
    <>
      <Title text={t("nav.account")} />
      <div class="columns">
        <Section title={person.email}>
          <Profile person={person} />
          <Action run={leave}>{t("logout")}</Action>
        </Section>
        <Section title={t("totp.title")}>
          <SecondFactor on={person.totp} />
        </Section>
        <Section title={t("password.change")}>
          <PasswordChange />
        </Section>
        <Section title={t("email.change")}>
          <EmailChange />
        </Section>
      </div>
      <Section title={t("sessions.title")}>
        <Sessions />
      </Section>
    </>
  );
}

function Profile({ person }: { person: Me }): JSX.Element {
  const save = async (values: Record<string, string>): Promise<void> => {
    await patch("me", values);
    await recognise();
    prefer(values["language"] as Language);
    say(t("saved"));
  };
  return (
    <Form submit={save} button={t("save")}>
      <Field name="name" label={t("name")} autocomplete="name" defaultValue={person.name} required maxLength={100} />
      <Choice name="language" label={t("language")} value={language.value} options={Object.entries(LANGUAGES)} />
    </Form>
  );
}

function PasswordChange(): JSX.Element {
  const change = async ({ current, password }: Record<string, string>, form: HTMLFormElement): Promise<void> => {
    await post("me/password", { current, password });
    form.reset();
    say(t("password.changed"));
  };
  return (
    <Form submit={change} button={t("password.change")}>
      <Field name="current" label={t("password.current")} type="password" autocomplete="current-password" required />
      <NewPassword />
    </Form>
  );
}

function EmailChange(): JSX.Element {
  const change = async ({ email, password }: Record<string, string>, form: HTMLFormElement): Promise<void> => {
    await post("me/email", { email, password });
    form.reset();
    say(t("email.sent"));
  };
  return (
    <Form submit={change} button={t("email.change")}>
      <Field name="email" label={t("email.new")} type="email" autocomplete="email" required />
      <Field name="password" label={t("password.current")} type="password" autocomplete="current-password" required />
    </Form>
  );
}

function SecondFactor({ on }: { on: boolean }): JSX.Element {
  const [setup, setSetup] = useState<{ secret: string; uri: string } | null>(null);
  const [codes, setCodes] = useState<string[] | null>(null);

  const confirm = async ({ code }: Record<string, string>): Promise<void> => {
    const { recovery_codes } = await post<{ recovery_codes: string[] }>("me/totp/confirm", { code });
    setCodes(recovery_codes);
    setSetup(null);
    await recognise();
  };
  const turnOff = async ({ password }: Record<string, string>): Promise<void> => {
    await remove("me/totp", { password });
    setCodes(null);
    await recognise();
  };

  if (codes) {
    return (
      <div role="status">
        <p>{t("totp.codes")}</p>
        <Copyable label={t("totp.codes.label")} text={codes.join("\n")} />
        <button type="button" class="button primary" onClick={() => setCodes(null)}>
          {t("totp.codes.kept")}
        </button>
      </div>
    );
  }
  if (on) {
    return (
      <>
        <p>
          <Mark tone="good">{t("state.on")}</Mark> {t("totp.on")}
        </p>
        <Form submit={turnOff} button={t("totp.off")} danger>
          <Field
            name="password"
            label={t("password.current")}
            type="password"
            autocomplete="current-password"
            required
          />
        </Form>
      </>
    );
  }
  if (!setup) {
    return (
      <>
        <p>{t("totp.lead")}</p>
        <Action run={async () => setSetup(await post("me/totp"))}>{t("totp.start")}</Action>
      </>
    );
  }
  return (
    <>
      <p>{t("totp.scan")}</p>
      <QrCode text={setup.uri} />
      <Copyable label={t("totp.secret")} text={setup.secret} />
      <Form submit={confirm} button={t("totp.confirm")}>
        <Field
          name="code"
          label={t("totp.code")}
          inputMode="numeric"
          autocomplete="one-time-code"
          pattern="[0-9 ]{6,7}"
          required
        />
      </Form>
    </>
  );
}

/** Drawn here: the secret goes to nobody. */
function QrCode({ text }: { text: string }): JSX.Element {
  return <div class="qr" role="img" aria-label={t("totp.qr")} dangerouslySetInnerHTML={{ __html: renderSVG(text) }} />;
}

function Sessions(): JSX.Element {
  const asked = useData(() => get<{ sessions: Session[] }>("me/sessions"), []);
  const zone = me.value?.memberships[0]?.time_zone ?? "UTC";
  const end = async (session: Session): Promise<boolean> => {
    const question = { title: t("sessions.end"), text: t("sessions.sure"), button: t("sessions.end") };
    if (!(await sure(question))) return false;
    await remove(`me/sessions/${session.id}`);
    await asked.reload();
    return true;
  };
  return (
    <Loaded from={asked}>
      {({ sessions }) => (
        <ul class="list">
          {sessions.map((session) => (
            <li key={session.id}>
              <div>
                <strong>{browser(session.agent)}</strong>{" "}
                {session.current && <Mark tone="good">{t("sessions.this")}</Mark>}
                <p class="muted">
                  {session.ip} · {t("sessions.begun", { time: when(session.created_at, zone) })} ·{" "}
                  {t("sessions.seen", { age: age(session.seen_at) })}
                </p>
              </div>
              {!session.current && (
                <Action run={() => end(session)} done={t("sessions.ended")}>
                  {t("sessions.end")}
                </Action>
              )}
            </li>
          ))}
        </ul>
      )}
    </Loaded>
  );
}

/** "Firefox, Linux" is enough to know one's own. */
function browser(agent: string): string {
  const program = /(Edg|Firefox|SamsungBrowser|Chrome|Safari|curl|python-httpx)/.exec(agent)?.[1];
  const system = /(Android|iPhone|iPad|Windows|Mac OS|Linux)/.exec(agent)?.[1];
  return [program === "Edg" ? "Edge" : program, system].filter(Boolean).join(", ") || t("sessions.unknown");
}
