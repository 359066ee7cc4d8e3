/** What Minnow gives to a function and expects of it. Only types: nothing of this is in the bundle. */

/** A function. `Env` has the variables of `env` in minnow.toml. */
export interface Handler<Env = Record<string, string>> {
  fetch(request: Request, env: Env, ctx: Context): Response | Promise<Response>;
}

export interface Context {
  /** Work that may go on after the response has been sent, within the function's `timeout`. */
  waitUntil(work: Promise<unknown>): void;
}
