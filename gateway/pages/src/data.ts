import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError, isSessionLost } from "./api";
import { logInAgain } from "./session";

export interface Data<T> {
  data: T | undefined;
  error: ApiError | undefined;
  loading: boolean;
  reload: () => Promise<void>;
}

/** What `load` answers, asked again when one of `inputs` changes; what was shown stays until then. */
export function useData<T>(load: () => Promise<T>, inputs: unknown[]): Data<T> {
  const [state, setState] = useState<{ data?: T; error?: ApiError; loading: boolean }>({ loading: true });
  const asked = useRef(0);
  const latest = useRef(load);
  latest.current = load;

  const reload = useCallback(async () => {
    const mine = ++asked.current;
    setState((before) => ({ ...before, loading: true }));
    try {
      const data = await latest.current();
      if (mine === asked.current) setState({ data, loading: false });
    } catch (error) {
      if (isSessionLost(error)) logInAgain();
      else if (!(error instanceof ApiError)) throw error;
      else if (mine === asked.current) setState((before) => ({ ...before, error, loading: false }));
    }
  }, []);

  useEffect(() => {
    void reload();
    return () => void asked.current++; // what comes later is for nobody
  }, inputs);

  return { data: state.data, error: state.error, loading: state.loading, reload };
}

/** Again every `seconds` while the page is seen. */
export function useRepeated(reload: () => Promise<void>, seconds: number): void {
  useEffect(() => {
    const timer = setInterval(() => document.hidden || void reload(), seconds * 1000);
    return () => clearInterval(timer);
  }, [reload, seconds]);
}
