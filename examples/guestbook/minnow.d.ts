/**
 * What a Minnow function in JavaScript or TypeScript finds in `env` and `ctx`.
 *
 * `minnow types` writes this into your app, with an `Env` of what its manifest grants.
 */

/** A key-value store (`[kv.NAME]`), in the shape of Workers KV. A write is durable when its promise settles. */
export interface KvNamespace {
  /** The value of a key; null when there is none. */
  get(key: string, type?: "text" | { type?: "text" }): Promise<string | null>;
  get<T = unknown>(key: string, type: "json" | { type: "json" }): Promise<T | null>;
  get(key: string, type: "arrayBuffer" | { type: "arrayBuffer" }): Promise<ArrayBuffer | null>;
  get(key: string, type: "bytes" | { type: "bytes" }): Promise<Uint8Array | null>;
  get(key: string, type: "stream" | { type: "stream" }): Promise<ReadableStream<Uint8Array> | null>;
  /** The values of several keys, all of one moment. */
  get(keys: string[], type?: "text" | { type?: "text" }): Promise<Map<string, string | null>>;
  get<T = unknown>(keys: string[], type: "json" | { type: "json" }): Promise<Map<string, T | null>>;

  /** The value with its metadata, and the version that `compareAndSwap` expects. */
  getWithMetadata<M = unknown>(key: string, type?: "text" | { type?: "text" }): Promise<KvEntry<string, M>>;
  getWithMetadata<T = unknown, M = unknown>(key: string, type: "json" | { type: "json" }): Promise<KvEntry<T, M>>;
  getWithMetadata<M = unknown>(
    key: string,
    type: "arrayBuffer" | { type: "arrayBuffer" },
  ): Promise<KvEntry<ArrayBuffer, M>>;

  /** The value as it is at the call: its bytes may change afterwards. */
  put(key: string, value: KvValue, options?: KvPutOptions): Promise<void>;
  /** Sets several keys: all or none. */
  putMany(entries: ({ key: string; value: KvValue } & KvPutOptions)[]): Promise<void>;
  /** Deletes a key, or several: all or none. */
  delete(key: string | string[]): Promise<void>;
  /** Keys in byte order, 1,000 at once or `limit`, which is 1 to 1,000. */
  list<M = unknown>(options?: { prefix?: string; limit?: number; cursor?: string }): Promise<KvList<M>>;
  /** Adds to a whole number, of which an absent one counts as 0; answers with the sum. */
  increment(key: string, delta?: number): Promise<number | bigint>;
  /**
   * Sets the key if it still has this version, as `getWithMetadata` gave it (null: if there is no such key). Answers whether
   * it did.
   */
  compareAndSwap(key: string, version: number | null, value: KvValue, options?: KvPutOptions): Promise<boolean>;
}

export type KvValue = string | ArrayBuffer | ArrayBufferView | ReadableStream<Uint8Array>;

export interface KvPutOptions {
  /** Seconds since 1970. */
  expiration?: number;
  /** Seconds from now. */
  expirationTtl?: number;
  /** Anything that is JSON, at most 1 KiB of it. */
  metadata?: unknown;
}

export type KvEntry<T, M> =
  | { value: T; metadata: M | null; version: number }
  | { value: null; metadata: null; version: null };

export interface KvList<M> {
  keys: { name: string; expiration?: number; metadata?: M }[];
  list_complete: boolean;
  /** Where the next page begins. */
  cursor?: string;
}

/** A value that SQL gives: integers beyond 2^53 are bigints. */
export type SqlValue = null | number | bigint | string | Uint8Array;

/** A value that a statement takes. */
export type SqlParam = SqlValue | boolean | ArrayBuffer | ArrayBufferView;

/** A database (`[sql.NAME]`), in the shape of Cloudflare D1. */
export interface Database {
  prepare(sql: string): Statement;
  /** All statements in one transaction: all or none. */
  batch<T = Record<string, SqlValue>>(statements: Statement[]): Promise<SqlResult<T>[]>;
  /** A script of statements, in one transaction. */
  exec(sql: string): Promise<{ count: number; duration: number }>;
}

export interface Statement {
  /**
   * The statement with values for its parameters `?1`, `?2`, … A whole number is an integer of SQL: `?1 / 2` of 3 is 1. (D1
   * makes every number a real.)
   */
  bind(...params: SqlParam[]): Statement;
  all<T = Record<string, SqlValue>>(): Promise<SqlResult<T>>;
  run<T = Record<string, SqlValue>>(): Promise<SqlResult<T>>;
  /** The first row; null when there is none. */
  first<T = Record<string, SqlValue>>(): Promise<T | null>;
  /** One column of the first row. */
  first<T = SqlValue>(column: string): Promise<T | null>;
  /** Rows as arrays. */
  raw<T = SqlValue[]>(options?: { columnNames?: boolean }): Promise<T[]>;
}

export interface SqlResult<T> {
  success: true;
  results: T[];
  meta: { changes: number; last_row_id: number | bigint; duration: number };
}

/** The locks of the app (`[lock]`), among all its functions. */
export interface Locks {
  /**
   * Takes a lock; null when others had it for all of `wait`, which ends with the invocation. Times in milliseconds: a lease of
   * 30,000, and no wait.
   */
  acquire(name: string, options?: { lease?: number; wait?: number }): Promise<Lock | null>;
}

/** A lock that is held. It is released when the invocation ends, however it ends. */
export interface Lock extends AsyncDisposable {
  /** Greater than that of all who held the lock before. */
  readonly token: number | bigint;
  /** Lets the lease begin anew. False: it had run out. */
  renew(lease?: number): Promise<boolean>;
  /** False: the lease had run out. */
  release(): Promise<boolean>;
}

/** What goes with an invocation. */
export interface ExecutionContext {
  /** Lets work go on after the response, within the function's time limit. */
  waitUntil(promise: Promise<unknown>): void;
  passThroughOnException(): void;
}

/** `env` of the function `stats`. */
export interface StatsEnv {
  COUNTERS: KvNamespace;
  MAIN: Database;
}

export type Env = StatsEnv;
