// Messages that could not be stored: why, their bytes, and sending them through again.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { get, post, type Query } from "./api";
import { useData, type Data } from "./data";
import { number, when } from "./format";
import { Action, Choices, Copyable, Empty, Loaded, Mark, say, Waiting } from "./parts";
import { named, t } from "./texts";
import type { DeadLetter, DeadLetterPage, OneDeadLetter } from "./types";

const PAGE = 25;
const LOOKS = 15;
const LOOK_MS = 1000;

type Which = "open" | "resolved" | "all";
const RESOLVED: Record<Which, boolean | null> = { open: false, resolved: true, all: null };

export function Letters(props: {
  filter: Query;
  zone: string;
  mayReplay: boolean;
  children?: JSX.Element;
}): JSX.Element {
  const [which, setWhich] = useState<Which>("open");
  const filter: Query = { ...props.filter, resolved: RESOLVED[which] };
  const listed = usePages(filter);
  return (
    <>
      <div class="toolbar">
        <Choices<Which>
          label={t("letters.which")}
          options={(Object.keys(RESOLVED) as Which[]).map((each) => [each, t(`letters.${each}`)])}
          value={which}
          onChange={setWhich}
        />
        {props.children}
        {props.mayReplay && which === "open" && Boolean(listed.data?.dead_letters.length) && (
          <Action run={() => replayAll(props.filter, listed)}>{t("letters.replay.all")}</Action>
        )}
      </div>
      <Loaded from={listed}>
        {(page) => (
          <>
            {page.dead_letters.length === 0 && (
              <Empty>{t(which === "open" ? "letters.none.open" : "letters.none")}</Empty>
            )}
            <ul class="letters">
              {page.dead_letters.map((letter) => (
                <Letter key={letter.id} letter={letter} zone={props.zone} mayReplay={props.mayReplay} />
              ))}
            </ul>
            {page.next && <Action run={listed.more}>{t("more")}</Action>}
          </>
        )}
      </Loaded>
    </>
  );
}

/** A listing that grows by a page at a time. */
function usePages(filter: Query): Data<DeadLetterPage> & { more: () => Promise<void> } {
  const [limit, setLimit] = useState(PAGE);
  const listed = useData(
    () => get<DeadLetterPage>("dead-letters", { ...filter, limit }),
    [JSON.stringify(filter), limit],
  );
  return { ...listed, more: async () => setLimit((before) => Math.min(before + 4 * PAGE, 1000)) };
}

async function replayAll(filter: Query, listed: Data<DeadLetterPage>): Promise<void> {
  const { requested } = await post<{ requested: number }>("dead-letters/replay", undefined, filter);
  say(t("letters.requested", { n: requested }));
  await new Promise((resolve) => setTimeout(resolve, 3 * LOOK_MS));
  await listed.reload();
}

function Letter({ letter, zone, mayReplay }: { letter: DeadLetter; zone: string; mayReplay: boolean }): JSX.Element {
  const [open, setOpen] = useState(false);
  const [changed, setChanged] = useState<DeadLetter | null>(null);
  useEffect(() => setChanged(null), [letter]);
  return (
    <li class="letter">
      <details onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>
          <span class="letter-head">
            <strong>{named("reason", letter.reason)}</strong>
            <Outcome letter={changed ?? letter} />
          </span>
          <span class="muted">
            {letter.device ?? letter.mqtt_topic} · {when(letter.received_at, zone)}
          </span>
        </summary>
        {open && <Opened id={letter.id} mayReplay={mayReplay} onChange={setChanged} />}
      </details>
    </li>
  );
}

function Outcome({ letter }: { letter: DeadLetter }): JSX.Element | null {
  if (letter.resolved) return <Mark tone="good">{outcomeOf(letter.outcome ?? "stored")}</Mark>;
  if (underWay(letter)) return <Mark tone="quiet">{t("letters.underway")}</Mark>;
  if (letter.outcome) return <Mark tone="bad">{t("letters.again")}</Mark>;
  return null;
}

/** A replay ended well, or was refused for a reason. */
function outcomeOf(outcome: string): string {
  return outcome === "stored" || outcome === "duplicate" ? t(`outcome.${outcome}`) : named("reason", outcome);
}

function underWay({ replay_requested_at: requested, replayed_at: replayed }: DeadLetter): boolean {
  return requested !== null && (replayed === null || replayed < requested);
}

function Opened(props: { id: number; mayReplay: boolean; onChange: (letter: DeadLetter) => void }): JSX.Element {
  const path = `dead-letters/${props.id}`;
  const asked = useData(() => get<OneDeadLetter>(path), [path]);
  const [current, setCurrent] = useState<OneDeadLetter | null>(null);

  const replay = async (): Promise<void> => {
    await post(`${path}/replay`);
    for (let look = 0; look < LOOKS; look++) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      const letter = await get<OneDeadLetter>(path);
      setCurrent(letter);
      props.onChange(letter);
      if (!underWay(letter))
        return say(letter.resolved ? t("letters.replayed") : t("letters.again"), letter.resolved ? "good" : "bad");
    }
    say(t("letters.underway"));
  };

  const letter = current ?? asked.data;
  if (!letter) return asked.error ? <Loaded from={asked}>{() => null}</Loaded> : <Waiting />;
  const replayable = !letter.cut && !letter.resolved && !underWay(letter) && letter.mqtt_topic !== "";
  return (
    <div class="letter-body">
      <p>{letter.detail}</p>
      <dl class="facts">
        <dt>{t("letters.topic")}</dt>
        <dd>
          <code>{letter.mqtt_topic || "–"}</code>
        </dd>
        <dt>{t("letters.size")}</dt>
        <dd>
          {number(letter.payload_size)} {t("bytes")} {letter.cut && t("letters.cut")}
        </dd>
        {letter.outcome && (
          <>
            <dt>{t("letters.outcome")}</dt>
            <dd>{outcomeOf(letter.outcome)}</dd>
          </>
        )}
      </dl>
      <Copyable label={t("letters.payload")} text={letter.payload_text ?? letter.payload_base64} />
      {props.mayReplay && replayable && (
        <Action class="primary" run={replay}>
          {t("letters.replay")}
        </Action>
      )}
    </div>
  );
}
