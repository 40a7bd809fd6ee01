// The sensors of a site, and the password each of them publishes with.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { all, patch, post, remove } from "../api";
import { useData } from "../data";
import { age, when } from "../format";
import { titleOf } from "../kinds";
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
  say,
  Section,
  sure,
  Title,
} from "../parts";
import { may, me, siteName } from "../session";
import { t } from "../texts";
import type { Credential, Device, Membership, Secret } from "../types";

interface Row {
  name: string;
  title: string;
  device: Device | undefined;
  credential: Credential | undefined;
}

export function Credentials({ site }: { site: Membership }): JSX.Element {
  const [secret, setSecret] = useState<Secret | null>(null);
  const asked = useData(() => rowsOf(site.site), [site.site]);
  const show = async (made: Secret): Promise<void> => {
    setSecret(made);
    await asked.reload();
  };
  const create = async ({ device, name }: Record<string, string>, form: HTMLFormElement): Promise<void> => {
    await show(await post<Secret>("credentials", { site: site.site, device, ...(name ? { name } : {}) }));
    form.reset();
  };
  return (
    <>
      <Title text={t("admin.devices")} />
      <Section title={t("credentials.new")}>
        <p class="lead">{t("credentials.lead")}</p>
        <Form class="row" submit={create} button={t("credentials.create")}>
          <Field
            name="device"
            label={t("credentials.device")}
            hint={t("credentials.device.hint")}
            pattern="[A-Za-z0-9._:\-]{1,128}"
            autocapitalize="none"
            spellcheck={false}
            required
          />
          <Field name="name" label={t("credentials.name")} maxLength={100} />
        </Form>
      </Section>
      <Section title={t("credentials.of", { site: siteName(site) })}>
        <Loaded from={asked}>
          {(rows) =>
            rows.length ? (
              <ul class="list">
                {rows.map((row) => (
                  <One key={row.name} row={row} site={site} show={show} reload={asked.reload} />
                ))}
              </ul>
            ) : (
              <Empty>{t("floor.empty")}</Empty>
            )
          }
        </Loaded>
      </Section>
      {secret && <Shown secret={secret} site={site.site} onClose={() => setSecret(null)} />}
    </>
  );
}

/** Everything that has sent or may send, by name. */
async function rowsOf(site: string): Promise<Row[]> {
  const [devices, credentials] = await Promise.all([
    all<Device>("devices", "devices", { site, limit: 1000 }),
    all<Credential>("credentials", "credentials", { site }),
  ]);
  const names = new Set([...devices.map(({ name }) => name), ...credentials.map(({ device }) => device)]);
  return [...names].sort().map((name) => {
    const device = devices.find((each) => each.name === name);
    const credential = credentials.find((each) => each.device === name);
    return { name, device, credential, title: titleOf(name, credential?.name || device?.display_name || null) };
  });
}

function One(props: {
  row: Row;
  site: Membership;
  show: (secret: Secret) => Promise<void>;
  reload: () => Promise<void>;
}): JSX.Element {
  const { row, site, show, reload } = props;
  const { name, title, device, credential } = row;
  const path = `credentials/${encodeURIComponent(name)}`;
  const mayConnect = credential && !credential.revoked_at;
  const [changing, setChanging] = useState(false);

  const rotate = async (): Promise<boolean> => {
    const question = {
      title: t("credentials.rotate"),
      text: t("credentials.rotate.sure", { name: title }),
      button: t("credentials.rotate"),
    };
    if (!(await sure(question))) return false;
    await show(await post<Secret>(`${path}/rotate`));
    return true;
  };
  const revoke = async (): Promise<boolean> => {
    const question = {
      title: t("credentials.revoke"),
      text: t("credentials.revoke.sure", { name: title }),
      button: t("credentials.revoke"),
    };
    if (!(await sure(question))) return false;
    await remove(path);
    await reload();
    return true;
  };

  const give = async (): Promise<void> => show(await post<Secret>("credentials", { site: site.site, device: name }));

  return (
    <li>
      <div>
        <strong>{device ? <a href={`/devices/${encodeURIComponent(name)}`}>{title}</a> : title}</strong>{" "}
        {credential?.revoked_at && <Mark tone="bad">{t("credentials.revoked")}</Mark>}
        {!credential && <Mark tone="quiet">{t("credentials.none")}</Mark>}
        <p class="muted">
          <code>{name}</code>
          {device?.last_seen && ` · ${t("credentials.seen", { age: age(device.last_seen) })}`}
          {mayConnect &&
            ` · ${t("credentials.since", { time: when(credential.rotated_at ?? credential.created_at, site.time_zone) })}`}
        </p>
      </div>
      {!mayConnect && (
        <Action run={give} label={about(t("credentials.give"), title)}>
          {t("credentials.give")}
        </Action>
      )}
      {mayConnect && (
        <div class="buttons">
          <button
            type="button"
            class="button"
            aria-label={about(t("credentials.change"), title)}
            onClick={() => setChanging(true)}
          >
            {t("credentials.change")}
          </button>
          <Action run={rotate} label={about(t("credentials.rotate"), title)}>
            {t("credentials.rotate")}
          </Action>
          <Action
            class="danger"
            run={revoke}
            label={about(t("credentials.revoke"), title)}
            done={t("credentials.was-revoked")}
          >
            {t("credentials.revoke")}
          </Action>
        </div>
      )}
      {changing && <Change of={credential!} title={title} reload={reload} onClose={() => setChanging(false)} />}
    </li>
  );
}

/** Another name, or another of the person's sites. */
function Change(props: {
  of: Credential;
  title: string;
  reload: () => Promise<void>;
  onClose: () => void;
}): JSX.Element {
  const { of: credential, title, reload, onClose } = props;
  const sites = me.value!.memberships.filter((each) => may("devices:write", each));
  const save = async ({ name, site = credential.site }: Record<string, string>): Promise<void> => {
    const moves = site !== credential.site;
    await patch(`credentials/${encodeURIComponent(credential.device)}`, moves ? { name, site } : { name });
    onClose();
    say(moves ? t("credentials.moved", { topic: topicOf(credential.device, site) }) : t("saved"));
    await reload();
  };
  return (
    <Dialog title={title} onClose={onClose}>
      <Form submit={save} button={t("save")}>
        <Field name="name" label={t("name")} defaultValue={credential.name} maxLength={100} />
        {sites.length > 1 && (
          <Choice
            name="site"
            label={t("nav.site")}
            hint={t("credentials.move.hint")}
            value={credential.site}
            options={sites.map((each) => [each.site, siteName(each)])}
          />
        )}
        <button type="button" class="button" onClick={onClose}>
          {t("cancel")}
        </button>
      </Form>
    </Dialog>
  );
}

function Shown({ secret, site, onClose }: { secret: Secret; site: string; onClose: () => void }): JSX.Element {
  return (
    <Dialog title={t("credentials.made", { device: secret.device })} onClose={onClose}>
      <p>{t("shown-once")}</p>
      <Copyable label={t("password")} text={secret.password} />
      <Copyable label={t("credentials.try")} text={publishLine(secret, site)} />
      <form method="dialog">
        <button class="button primary">{t("shown-once.kept")}</button>
      </form>
    </Dialog>
  );
}

function publishLine({ device, client_id, username, password, mqtt }: Secret, site: string): string {
  const tls = mqtt.tls ? "--tls-use-os-certs " : "";
  const address = `-h ${mqtt.host} -p ${mqtt.port} -V 5 ${tls}-i ${client_id} -u ${username} -P ${password}`;
  return `mosquitto_pub ${address} -q 1 -t ${topicOf(device, site)} -m '{"temperature_c": 3.4}'`;
}

function topicOf(device: string, site: string): string {
  return `brigade/v1/${site}/${device}/readings`;
}
