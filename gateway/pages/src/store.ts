import { useEffect, useState } from "preact/hooks";

/** A value that components follow. */
export class Store<T> {
  private readonly followers = new Set<() => void>();

  constructor(private current: T) {}

  get value(): T {
    return this.current;
  }

  set value(next: T) {
    this.current = next;
    for (const follower of [...this.followers]) follower();
  }

  follow(follower: () => void): () => void {
    this.followers.add(follower);
    return () => this.followers.delete(follower);
  }
}

export function useStore<T>(store: Store<T>): T {
  const [, again] = useState({});
  useEffect(() => store.follow(() => again({})), [store]);
  return store.value;
}

/** The time, again every `seconds`: for ages that grow on the screen. */
export function useClock(seconds: number): void {
  const [, again] = useState({});
  useEffect(() => {
    const timer = setInterval(() => again({}), seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
}
