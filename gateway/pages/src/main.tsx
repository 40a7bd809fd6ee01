// The pages of Brigade. Read `main` → `shell` → `iot/floor` and `iot/device` → `admin/…`; `api` speaks to the gateway.

import { render, type JSX } from "preact";
import { ConfirmedEmail, Forgot, Invited, Login, Reset } from "./account/doors";
import { useData } from "./data";
import { Loaded, Questions, Said } from "./parts";
import { followLinks, useLocation } from "./router";
import { me, recognise } from "./session";
import { Inside } from "./shell";
import { useStore } from "./store";
import { language, speak } from "./texts";

const DOORS: Record<string, () => JSX.Element> = {
  "/login": Login,
  "/forgot": Forgot,
  "/reset": Reset,
  "/invite": Invited,
  "/email": ConfirmedEmail,
};

function App(): JSX.Element {
  const spoken = useStore(language);
  const { pathname } = useLocation();
  const Door = DOORS[pathname];
  return (
    <div key={spoken}>
      {Door ? <Door key={pathname} /> : <Recognised />}
      <Said />
      <Questions />
    </div>
  );
}

function Recognised(): JSX.Element {
  const person = useStore(me);
  const asked = useData(async () => me.value ?? recognise(), []);
  return person ? <Inside person={person} /> : <Loaded from={{ ...asked, data: undefined }}>{() => null}</Loaded>;
}

speak(language.value);
followLinks();
render(<App />, document.getElementById("app")!);
