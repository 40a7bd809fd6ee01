// What the pages are put together from.

import { createContext, type ComponentChildren, type JSX } from "preact";
import { useContext, useEffect, useId, useRef, useState } from "preact/hooks";
import { ApiError, isSessionLost } from "./api";
import { Icon } from "./icons";
import { logInAgain } from "./session";
import { Store, useStore } from "./store";
import { isText, t } from "./texts";

/** The page's heading takes the focus when the page opens, so that a screen reader begins there. */
export function Title({ text, children }: { text: string; children?: ComponentChildren }): JSX.Element {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => heading.current?.focus({ preventScroll: true }), []);
  useEffect(() => void (document.title = `${text} · Brigade`), [text]);
  return (
    <div class="title">
      <h1 ref={heading} tabIndex={-1}>
        {text}
      </h1>
      {children}
    </div>
  );
}

export function Section({
  title,
  children,
  aside,
}: {
  title: string;
  children: ComponentChildren;
  aside?: ComponentChildren;
}) {
  const id = useId();
  return (
    <section class="section" aria-labelledby={id}>
      <div class="section-head">
        <h2 id={id}>{title}</h2>
        {aside}
      </div>
      {children}
    </section>
  );
}

export function Waiting(): JSX.Element {
  return (
    <p class="waiting" role="status">
      {t("waiting")}
    </p>
  );
}

export function Empty({ children }: { children: ComponentChildren }): JSX.Element {
  return <p class="empty">{children}</p>;
}

/** What went wrong and, where that may help, trying again. */
export function Trouble({ error, again }: { error: ApiError; again?: () => void }): JSX.Element {
  return (
    <div class="notice bad" role="alert">
      <Icon name="warning" />
      <p>{inWords(error)}</p>
      {again && (
        <button type="button" class="button" onClick={again}>
          {t("again")}
        </button>
      )}
    </div>
  );
}

/** In the person's language where the catalogue has the kind of problem, else as the API tells it. */
export function inWords(error: ApiError): string {
  if (error.status === 429) return t("problem.too-many", { seconds: error.retryAfter ?? 60 });
  if (error.status === 403) return t("problem.forbidden");
  const text = `problem.${error.kind}`;
  if (isText(text)) return t(text, { command: commandIn(error.detail) });
  return error.status >= 502 ? t("problem.away") : error.detail || t("problem.other");
}

function hasWords({ kind }: ApiError): boolean {
  return isText(`problem.${kind}`);
}

/** What the API sets between backticks: a command for whoever runs the server. */
function commandIn(detail: string): string {
  return /`([^`]+)`/.exec(detail)?.[1] ?? "";
}

/** What `load` brought, or that it is not there yet, or why not. */
export function Loaded<T>(props: {
  from: { data: T | undefined; error: ApiError | undefined; reload: () => Promise<void> };
  children: (data: T) => ComponentChildren;
}): JSX.Element {
  const { data, error, reload } = props.from;
  return (
    <>
      {error && <Trouble error={error} again={() => void reload()} />}
      {data === undefined ? !error && <Waiting /> : props.children(data)}
    </>
  );
}

// Forms ------------------------------------------------------------------------------------------------------

const Refused = createContext<ApiError | null>(null);

/** Sends once at a time; a refusal stands at its field, or above the button. */
export function Form(props: {
  submit: (values: Record<string, string>, form: HTMLFormElement) => Promise<unknown>;
  button: string;
  children: ComponentChildren;
  class?: string;
  danger?: boolean;
}): JSX.Element {
  const [refusal, setRefusal] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const send = async (event: JSX.TargetedSubmitEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const form = event.currentTarget;
    const values = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value)]));
    setBusy(true);
    try {
      setRefusal(null);
      await props.submit(values, form);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setRefusal(error);
      queueMicrotask(() => form.querySelector<HTMLElement>("[aria-invalid=true]")?.focus());
    } finally {
      setBusy(false);
    }
  };
  const atFields = refusal !== null && refusal.errors.length > 0;
  return (
    <form class={`form ${props.class ?? ""}`} onSubmit={(event) => void send(event)}>
      <Refused.Provider value={refusal}>{props.children}</Refused.Provider>
      {refusal && (!atFields || hasWords(refusal)) && <Trouble error={refusal} />}
      {atFields && <FieldTroubles refusal={refusal} />}
      <button class={`button primary ${props.danger ? "danger" : ""}`} aria-disabled={busy} disabled={busy}>
        {props.button}
      </button>
    </form>
  );
}

function FieldTroubles({ refusal }: { refusal: ApiError }): JSX.Element {
  return (
    <p class="visually-hidden" role="alert">
      {refusal.errors.map(({ reason }) => reason).join("; ")}
    </p>
  );
}

interface FieldProps {
  name: string;
  label: string;
  hint?: string | undefined;
}

export function Field({ name, label, hint, ...input }: FieldProps & JSX.IntrinsicElements["input"]): JSX.Element {
  return (
    <Labelled name={name} label={label} hint={hint}>
      {(own) => <input {...own} type="text" {...input} />}
    </Labelled>
  );
}

/** Begins with `value`, and keeps what was chosen when its form is refused. */
export function Choice(
  props: FieldProps & { options: [value: string, text: string][]; value?: string; onChange?: (value: string) => void },
): JSX.Element {
  const { name, label, hint, options, value, onChange } = props;
  return (
    <Labelled name={name} label={label} hint={hint}>
      {(own) => (
        <select {...own} onChange={(event) => onChange?.(event.currentTarget.value)}>
          {options.map(([each, text]) => (
            <option key={each} value={each} selected={each === value}>
              {text}
            </option>
          ))}
        </select>
      )}
    </Labelled>
  );
}

interface OwnProps {
  id: string;
  name: string;
  "aria-invalid"?: boolean;
  "aria-describedby"?: string;
}

function Labelled(props: FieldProps & { children: (own: OwnProps) => JSX.Element }): JSX.Element {
  const id = useId();
  const wrong = useContext(Refused)?.errors.find(({ field }) => field === props.name)?.reason;
  const note = wrong ?? props.hint;
  const own: OwnProps = { id, name: props.name };
  if (wrong) own["aria-invalid"] = true;
  if (note) own["aria-describedby"] = `${id}-note`;
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      {props.children(own)}
      {note && (
        <p id={`${id}-note`} class={wrong ? "wrong" : "hint"}>
          {note}
        </p>
      )}
    </div>
  );
}

/** One of several, as buttons in a row. */
export function Choices<T extends string>(props: {
  label: string;
  options: [value: T, text: string][];
  value: T | null;
  onChange: (value: T) => void;
}): JSX.Element {
  return (
    <div class="choices" role="group" aria-label={props.label}>
      {props.options.map(([value, text]) => (
        <button type="button" key={value} aria-pressed={value === props.value} onClick={() => props.onChange(value)}>
          {text}
        </button>
      ))}
    </div>
  );
}

/** A button's words and what it is about, for those who do not see what it stands beside. */
export function about(words: string, what: string): string {
  return t("about", { words, what });
}

// A button that does something, and says that it did ---------------------------------------------------------

export function Action(props: {
  run: () => Promise<unknown>;
  children: ComponentChildren;
  label?: string;
  done?: string;
  class?: string;
}): JSX.Element {
  const [busy, setBusy] = useState(false);
  const press = async (): Promise<void> => {
    setBusy(true);
    try {
      const ran = await props.run();
      if (props.done && ran !== false) say(props.done);
    } catch (error) {
      if (isSessionLost(error)) logInAgain();
      else if (error instanceof ApiError) say(inWords(error), "bad");
      else throw error;
    } finally {
      setBusy(false);
    }
  };
  return (
    <button
      type="button"
      class={`button ${props.class ?? ""}`}
      aria-label={props.label}
      disabled={busy}
      onClick={() => void press()}
    >
      {props.children}
    </button>
  );
}

const said = new Store<{ text: string; tone: "good" | "bad" } | null>(null);
let forgetting = 0;

export function say(text: string, tone: "good" | "bad" = "good"): void {
  clearTimeout(forgetting);
  said.value = { text, tone };
  forgetting = setTimeout(() => (said.value = null), tone === "bad" ? 8000 : 4000);
}

export function Said(): JSX.Element {
  const message = useStore(said);
  return (
    <div class="said" role="status">
      {message && <p class={message.tone}>{message.text}</p>}
    </div>
  );
}

// Dialogs ----------------------------------------------------------------------------------------------------

export function Dialog(props: { title: string; onClose: () => void; children: ComponentChildren }): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    dialog.current?.showModal();
    return () => before?.focus();
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby={id} onClose={props.onClose}>
      <h2 id={id}>{props.title}</h2>
      {props.children}
    </dialog>
  );
}

interface Question {
  title: string;
  text: string;
  button: string;
  answer: (yes: boolean) => void;
}

const question = new Store<Question | null>(null);

/** Whether the person really wants to. */
export function sure(asked: Omit<Question, "answer">): Promise<boolean> {
  return new Promise((resolve) => {
    question.value = {
      ...asked,
      answer: (yes) => {
        question.value = null;
        resolve(yes);
      },
    };
  });
}

export function Questions(): JSX.Element | null {
  const asked = useStore(question);
  if (!asked) return null;
  return (
    <Dialog title={asked.title} onClose={() => asked.answer(false)}>
      <p>{asked.text}</p>
      <div class="buttons">
        <button type="button" class="button" onClick={() => asked.answer(false)}>
          {t("cancel")}
        </button>
        <button type="button" class="button primary danger" onClick={() => asked.answer(true)}>
          {asked.button}
        </button>
      </div>
    </Dialog>
  );
}

// Words to take along ----------------------------------------------------------------------------------------

export function Copyable({ label, text }: { label: string; text: string }): JSX.Element {
  const id = useId();
  return (
    <div class="copyable">
      <span id={id} class="label">
        {label}
      </span>
      <code aria-labelledby={id} tabIndex={0} role="textbox" aria-readonly="true">
        {text}
      </code>
      <button
        type="button"
        class="button"
        aria-label={about(t("copy"), label)}
        onClick={() => void navigator.clipboard.writeText(text).then(() => say(t("copy.done")))}
      >
        <Icon name="copy" />
        {t("copy")}
      </button>
    </div>
  );
}

/** Wide tables scroll by themselves, never the page. */
export function Table(props: { caption: string; head: string[]; children: ComponentChildren }): JSX.Element {
  return (
    <div class="table" role="group" aria-label={props.caption} tabIndex={0}>
      <table>
        <thead>
          <tr>
            {props.head.map((text, index) => (
              <th key={index} scope="col">
                {text || <span class="visually-hidden">{t("actions")}</span>}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{props.children}</tbody>
      </table>
    </div>
  );
}

export function Mark({ tone, children }: { tone: "good" | "bad" | "warn" | "quiet"; children: ComponentChildren }) {
  return <span class={`mark ${tone}`}>{children}</span>;
}
