import type { JSX } from "preact";
import { all, patch, post, remove } from "../api";
import { useData, type Data } from "../data";
import { when } from "../format";
import { about, Action, Choice, Empty, Field, Form, Loaded, say, Section, sure, Title } from "../parts";
import { may, me, recogniseAnew, siteName } from "../session";
import { language, t } from "../texts";
import type { Invitation, Membership, Person, Role } from "../types";

const ROLES: Role[] = ["staff", "manager", "technician", "auditor", "owner"];

/** Only owners make owners and managers. */
function givable(site: Membership): Role[] {
  return site.role === "owner" ? ROLES : ROLES.filter((role) => role !== "owner" && role !== "manager");
}

export function People({ site }: { site: Membership }): JSX.Element {
  const people = useData(() => all<Person>("people", "people", { site: site.site }), [site.site]);
  const invitations = useData(() => all<Invitation>("invitations", "invitations", { site: site.site }), [site.site]);
  const mayChange = may("people:write", site);
  return (
    <>
      <Title text={t("admin.people")} />
      <Section title={t("people.of", { site: siteName(site) })}>
        <Loaded from={people}>
          {(found) => (
            <ul class="list">
              {found.map((person) => (
                <One key={person.id} person={person} site={site} people={people} mayChange={mayChange} />
              ))}
            </ul>
          )}
        </Loaded>
      </Section>
      {mayChange && (
        <Section title={t("invite.title")}>
          <Invite site={site} invitations={invitations} />
        </Section>
      )}
      <Section title={t("invite.open")}>
        <Loaded from={invitations}>
          {(found) =>
            found.length ? (
              <ul class="list">
                {found.map((invitation) => (
                  <li key={invitation.id}>
                    <div>
                      <strong>{invitation.email}</strong>
                      <p class="muted">
                        {t(`role.${invitation.role}`)} ·{" "}
                        {t("invite.until", { time: when(invitation.expires_at, site.time_zone) })}
                      </p>
                    </div>
                    {mayChange && (
                      <Action
                        run={() => remove(`invitations/${invitation.id}`).then(invitations.reload)}
                        done={t("invite.taken-back")}
                      >
                        {t("invite.take-back")}
                      </Action>
                    )}
                  </li>
                ))}
              </ul>
            ) : (
              <Empty>{t("invite.none")}</Empty>
            )
          }
        </Loaded>
      </Section>
    </>
  );
}

function One(props: { person: Person; site: Membership; people: Data<Person[]>; mayChange: boolean }): JSX.Element {
  const { person, site, people } = props;
  const role = person.memberships.find((each) => each.site === site.site)!.role;
  const path = `people/${person.id}/memberships/${site.site}`;
  const own = person.id === me.value?.id;
  const mayChange = props.mayChange && givable(site).includes(role);

  const change = async (next: string): Promise<void> => {
    await patch(path, { role: next });
    await (own ? recogniseAnew() : people.reload());
    say(t("saved"));
  };
  const end = async (): Promise<boolean> => {
    const question = {
      title: t("people.remove"),
      text: t("people.remove.sure", { name: person.name }),
      button: t("people.remove"),
    };
    if (!(await sure(question))) return false;
    await remove(path);
    await (own ? recogniseAnew() : people.reload());
    return true;
  };

  return (
    <li>
      <div>
        <strong>{person.name}</strong> {own && <span class="muted">({t("people.you")})</span>}
        <p class="muted">{person.email}</p>
      </div>
      {mayChange ? (
        <div class="buttons">
          <Form class="row" submit={(values) => change(values["role"]!)} button={t("save")}>
            <Choice
              name="role"
              label={t("role.of", { name: person.name })}
              value={role}
              options={givable(site).map((each) => [each, t(`role.${each}`)])}
            />
          </Form>
          <Action run={end} done={t("people.removed")} label={about(t("people.remove"), person.name)}>
            {t("people.remove")}
          </Action>
        </div>
      ) : (
        <span>{t(`role.${role}`)}</span>
      )}
    </li>
  );
}

function Invite({ site, invitations }: { site: Membership; invitations: Data<Invitation[]> }): JSX.Element {
  const invite = async ({ email, role }: Record<string, string>, form: HTMLFormElement): Promise<void> => {
    await post("invitations", { site: site.site, email, role, language: language.value });
    form.reset();
    say(t("invite.sent", { email: email! }));
    await invitations.reload();
  };
  return (
    <Form class="row" submit={invite} button={t("invite.button")}>
      <Field name="email" label={t("email")} type="email" required />
      <Choice name="role" label={t("role")} options={givable(site).map((role) => [role, t(`role.${role}`)])} />
    </Form>
  );
}
