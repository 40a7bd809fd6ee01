// Language, and light or dark: kept in this browser, the language also with the account.

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { patch } from "./api";
import { Icon } from "./icons";
import { me } from "./session";
import { language, LANGUAGES, prefer, t, type Language } from "./texts";

export function Preferences(): JSX.Element {
  return (
    <div class="preferences">
      <LanguageSwitch />
      <ThemeSwitch />
    </div>
  );
}

function LanguageSwitch(): JSX.Element {
  const other: Language = language.value === "ko" ? "en" : "ko";
  const change = (): void => {
    prefer(other);
    if (me.value) void patch("me", { language: other }).catch(() => undefined); // this browser remembers it anyway
  };
  return (
    <button type="button" class="button plain" lang={other} onClick={change}>
      {LANGUAGES[other]}
    </button>
  );
}

function ThemeSwitch(): JSX.Element {
  const [theme, setTheme] = useState(document.documentElement.dataset["theme"]);
  const other = theme === "dark" ? "light" : "dark";
  const change = (): void => {
    localStorage.setItem("theme", other);
    dispatchEvent(new StorageEvent("storage"));
    setTheme(other);
  };
  return (
    <button type="button" class="button plain square" aria-label={t(`theme.${other}`)} onClick={change}>
      <Icon name={other} />
    </button>
  );
}
