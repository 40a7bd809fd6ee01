// Around every page inside: where one is, and the way to the others. At the bottom of a phone, at the top else.

import type { JSX } from "preact";
import { Account } from "./account/account";
import { Admin, SECTIONS } from "./admin/admin";
import { Icon } from "./icons";
import { DevicePage } from "./iot/device";
import { Floor } from "./iot/floor";
import { Empty, Title } from "./parts";
import { Preferences } from "./preferences";
import { useLocation } from "./router";
import { chooseSite, chosenSite, currentSite, mayAnywhere, siteName } from "./session";
import { useStore } from "./store";
import { t } from "./texts";
import type { Me, Membership } from "./types";

export function Inside({ person }: { person: Me }): JSX.Element {
  useStore(chosenSite);
  const { pathname } = useLocation();
  const site = currentSite();
  return (
    <>
      <a class="skip" href="#main">
        {t("nav.skip")}
      </a>
      <header class="bar">
        <a class="brand" href="/">
          <img src="/icon.svg" alt="" width="32" height="32" />
          <span>Brigade</span>
        </a>
        <SiteSwitch sites={person.memberships} chosen={site} />
        <Navigation pathname={pathname} />
        <Preferences />
      </header>
      <main id="main" tabIndex={-1}>
        <Page pathname={pathname} person={person} site={site} />
      </main>
    </>
  );
}

function Navigation({ pathname }: { pathname: string }): JSX.Element {
  const places = [
    { href: "/", icon: "floor", text: t("nav.floor"), here: pathname === "/" || pathname.startsWith("/devices/") },
    { href: "/admin", icon: "admin", text: t("nav.admin"), here: pathname.startsWith("/admin") },
    { href: "/account", icon: "account", text: t("nav.account"), here: pathname === "/account" },
  ] as const;
  const anyAdmin = SECTIONS.some(({ permission }) => mayAnywhere(permission));
  return (
    <nav class="places" aria-label={t("nav.label")}>
      {places
        .filter(({ href }) => href !== "/admin" || anyAdmin)
        .map(({ href, icon, text, here }) => (
          <a key={href} href={href} aria-current={here ? "page" : undefined}>
            <Icon name={icon} />
            {text}
          </a>
        ))}
    </nav>
  );
}

function SiteSwitch({ sites, chosen }: { sites: Membership[]; chosen: Membership | undefined }): JSX.Element | null {
  if (!chosen || sites.length === 1) return null;
  return (
    <select
      class="site"
      aria-label={t("nav.site")}
      value={chosen.site}
      onChange={(event) => chooseSite(event.currentTarget.value)}
    >
      {sites.map((site) => (
        <option key={site.site} value={site.site}>
          {siteName(site)}
        </option>
      ))}
    </select>
  );
}

function Page({ pathname, person, site }: { pathname: string; person: Me; site: Membership | undefined }): JSX.Element {
  const [, place, name] = pathname.split("/");
  if (pathname === "/account") return <Account person={person} />;
  if (!site) return <NoSite />;
  if (pathname === "/") return <Floor key={site.site} site={site} />;
  if (place === "devices" && name) return <DevicePage key={name} name={decodeURIComponent(name)} />;
  if (place === "admin") return <Admin section={name ?? ""} site={site} />;
  return <NoPage />;
}

function NoSite(): JSX.Element {
  return (
    <>
      <Title text="Brigade" />
      <Empty>{t("nosite")}</Empty>
    </>
  );
}

function NoPage(): JSX.Element {
  return (
    <>
      <Title text={t("nopage")} />
      <p>
        <a href="/">{t("nav.floor")}</a>
      </p>
    </>
  );
}
