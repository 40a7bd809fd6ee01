import type { JSX } from "preact";
import { get } from "../api";
import { useData, useRepeated } from "../data";
import { age, number } from "../format";
import { Loaded, Mark, Section, Title } from "../parts";
import { named, t } from "../texts";
import type { System } from "../types";

const SECONDS = 10;

export function SystemHealth(): JSX.Element {
  const asked = useData(() => get<System>("system"), []);
  useRepeated(asked.reload, SECONDS);
  return (
    <>
      <Title text={t("admin.system")} />
      <Loaded from={asked}>
        {(system) => (
          <>
            <dl class="figures">
              <Figure name={t("system.lag")} n={system.lag?.seconds} say={(n) => t("seconds", { n })} />
              <Figure name={t("system.behind")} n={system.lag?.messages} />
              <Figure name={t("system.received")} n={system.rates.received} say={(n) => t("per-second", { n })} />
              <Figure name={t("system.stored")} n={system.rates.stored} say={(n) => t("per-second", { n })} />
              <Figure name={t("system.refused")} n={system.rates.refused} say={(n) => t("per-second", { n })} />
              <Figure name={t("system.letters")} n={system.rates.dead_letters_open} />
            </dl>
            <Section title={t("system.parts")}>
              <ul class="list">
                {system.parts.map((part) => (
                  <li key={part.name}>
                    <div>
                      <strong>{named("part", part.name)}</strong>
                      {part.detail && <p class="muted">{part.detail}</p>}
                    </div>
                    <Mark tone={part.up ? "good" : "bad"}>{t(part.up ? "system.up" : "system.down")}</Mark>
                  </li>
                ))}
              </ul>
              <p class="muted">{t("system.at", { age: age(system.at) })}</p>
            </Section>
          </>
        )}
      </Loaded>
    </>
  );
}

/** A dash where it is not known now. */
function Figure(props: { name: string; n: number | null | undefined; say?: (n: string) => string }): JSX.Element {
  const { name, n, say = (text: string) => text } = props;
  return (
    <div>
      <dt>{name}</dt>
      <dd>{typeof n === "number" ? say(number(n)) : "–"}</dd>
    </div>
  );
}
