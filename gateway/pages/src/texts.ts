// Every word that a person reads, in the two catalogues `texts/en.json` and `texts/ko.json`.

import en from "./texts/en.json";
import ko from "./texts/ko.json";
import { Store } from "./store";

export type Text = keyof typeof en;
export type Language = "en" | "ko";

export const LANGUAGES: Record<Language, string> = { en: "English", ko: "한국어" };

const CATALOGUES: Record<Language, Record<Text, string>> = { en, ko };

export const language = new Store<Language>(known(localStorage.getItem("language") ?? navigator.language));

function known(name: string): Language {
  return name.startsWith("ko") ? "ko" : "en";
}

export function speak(chosen: Language): void {
  document.documentElement.lang = chosen;
  if (chosen !== language.value) language.value = chosen;
}

/** A choice made in this browser goes before the account's. */
export function prefer(chosen: Language): void {
  localStorage.setItem("language", chosen);
  speak(chosen);
}

export function hasPreference(): boolean {
  return localStorage.getItem("language") !== null;
}

/** The text, its `{names}` replaced. */
export function t(text: Text, values: Record<string, string | number> = {}): string {
  return CATALOGUES[language.value][text].replace(/\{(\w+)\}/g, (_, name: string) => String(values[name]));
}

/** The text of a name that the API chose, such as `reason.oversized`; else the name, made readable. */
export function named(family: string, name: string): string {
  const text = `${family}.${name}`;
  return isText(text) ? t(text) : readable(name);
}

export function isText(name: string): name is Text {
  return name in en;
}

/** `grill_hood_1` as a person would write it. */
export function readable(name: string): string {
  const words = name.replace(/[_.:-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}
