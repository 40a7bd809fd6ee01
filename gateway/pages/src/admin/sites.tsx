import type { JSX } from "preact";
import { patch, post } from "../api";
import { Field, Form, say, Section, Title } from "../parts";
import { may, me, recognise, recogniseAnew, siteName } from "../session";
import { useStore } from "../store";
import { t } from "../texts";
import type { Membership } from "../types";

export function Sites(): JSX.Element {
  const sites = useStore(me)?.memberships ?? [];
  const create = async (values: Record<string, string>, form: HTMLFormElement): Promise<void> => {
    await post("sites", values);
    form.reset();
    await recogniseAnew();
    say(t("sites.created"));
  };
  return (
    <>
      <Title text={t("admin.sites")} />
      {sites
        .filter((site) => may("sites:write", site))
        .map((site) => (
          <One key={site.site} site={site} />
        ))}
      <Section title={t("sites.new")}>
        <Form class="row" submit={create} button={t("sites.create")}>
          <Field
            name="site"
            label={t("sites.id")}
            hint={t("sites.id.hint")}
            pattern="[a-z0-9][a-z0-9._\-]*"
            maxLength={64}
            autocapitalize="none"
            spellcheck={false}
            required
          />
          <Field name="name" label={t("name")} required maxLength={100} />
          <ZoneField zone={Intl.DateTimeFormat().resolvedOptions().timeZone} />
        </Form>
      </Section>
    </>
  );
}

function One({ site }: { site: Membership }): JSX.Element {
  const save = async (values: Record<string, string>): Promise<void> => {
    await patch(`sites/${site.site}`, values);
    await recognise();
    say(t("saved"));
  };
  return (
    <Section title={siteName(site)} aside={<code>{site.site}</code>}>
      <Form class="row" submit={save} button={t("save")}>
        <Field name="name" label={t("name")} defaultValue={siteName(site)} required maxLength={100} />
        <ZoneField zone={site.time_zone} />
      </Form>
    </Section>
  );
}

function ZoneField({ zone }: { zone: string }): JSX.Element {
  return (
    <>
      <Field name="time_zone" label={t("sites.zone")} defaultValue={zone} list="zones" autocapitalize="none" required />
      <datalist id="zones">
        {zones().map((each) => (
          <option key={each} value={each} />
        ))}
      </datalist>
    </>
  );
}

function zones(): string[] {
  return "supportedValuesOf" in Intl
    ? (Intl as { supportedValuesOf(key: string): string[] }).supportedValuesOf("timeZone")
    : [];
}
