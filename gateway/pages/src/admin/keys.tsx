import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { all, now, post, remove } from "../api";
import { useData } from "../data";
import { age, date } from "../format";
import {
  about,
  Action,
  Choice,
  Copyable,
  Dialog,
  Empty,
  Field,
  Form,
  Loaded,
  Mark,
  Section,
  sure,
  Title,
} from "../parts";
import { t, type Text } from "../texts";
import type { Key, Membership } from "../types";

const LIVES = ["30", "90", "365", "never"] as const;

export function Keys({ site }: { site: Membership }): JSX.Element {
  const [secret, setSecret] = useState<string | null>(null);
  const asked = useData(() => all<Key>("keys", "keys", { site: site.site }), [site.site]);
  const create = async ({ name, scope, lives }: Record<string, string>, form: HTMLFormElement): Promise<void> => {
    const end = lives === "never" ? {} : { expires_at: new Date(now() + Number(lives) * 86_400_000).toISOString() };
    const made = await post<{ key: string }>("keys", { name, scope, sites: [site.site], ...end });
    setSecret(made.key);
    form.reset();
    await asked.reload();
  };
  return (
    <>
      <Title text={t("admin.keys")} />
      <Section title={t("keys.new")}>
        <p class="lead">{t("keys.lead")}</p>
        <Form class="row" submit={create} button={t("keys.create")}>
          <Field name="name" label={t("keys.name")} required maxLength={100} />
          <Choice
            name="scope"
            label={t("keys.scope")}
            options={(["read", "write"] as const).map((each) => [each, t(`scope.${each}`)])}
          />
          <Choice
            name="lives"
            label={t("keys.lives")}
            options={LIVES.map((each) => [each, t(`keys.lives.${each}` satisfies Text)])}
          />
        </Form>
      </Section>
      <Section title={t("keys.title")}>
        <Loaded from={asked}>
          {(keys) =>
            keys.length ? (
              <ul class="list">
                {keys.map((key) => (
                  <One key={key.id} of={key} zone={site.time_zone} reload={asked.reload} />
                ))}
              </ul>
            ) : (
              <Empty>{t("keys.none")}</Empty>
            )
          }
        </Loaded>
      </Section>
      {secret && (
        <Dialog title={t("keys.made")} onClose={() => setSecret(null)}>
          <p>{t("shown-once")}</p>
          <Copyable label={t("keys.key")} text={secret} />
          <Copyable
            label={t("credentials.try")}
            text={`curl -H 'Authorization: Bearer ${secret}' ${location.origin}/api/v1/devices`}
          />
          <form method="dialog">
            <button class="button primary">{t("shown-once.kept")}</button>
          </form>
        </Dialog>
      )}
    </>
  );
}

function One({ of: key, zone, reload }: { of: Key; zone: string; reload: () => Promise<void> }): JSX.Element {
  const expired = key.expires_at !== null && Date.parse(key.expires_at) < now();
  const revoke = async (): Promise<boolean> => {
    if (
      !(await sure({
        title: t("keys.revoke"),
        text: t("keys.revoke.sure", { name: key.name }),
        button: t("keys.revoke"),
      }))
    )
      return false;
    await remove(`keys/${key.id}`);
    await reload();
    return true;
  };
  return (
    <li>
      <div>
        <strong>{key.name}</strong> <Mark tone="quiet">{t(`scope.${key.scope}`)}</Mark>{" "}
        {expired && <Mark tone="warn">{t("keys.expired")}</Mark>}
        <p class="muted">
          <code>{key.prefix}…</code> · {key.sites.join(", ")} ·{" "}
          {key.expires_at ? t("keys.until", { date: date(key.expires_at, zone) }) : t("keys.lives.never")} ·{" "}
          {key.last_used_at ? t("keys.used", { age: age(key.last_used_at) }) : t("keys.unused")}
        </p>
      </div>
      <Action class="danger" run={revoke} label={about(t("keys.revoke"), key.name)} done={t("keys.was-revoked")}>
        {t("keys.revoke")}
      </Action>
    </li>
  );
}
