/**
 * What a Minnow function in JavaScript or TypeScript finds in `env` and `ctx`.
 *
 * `minnow types` writes this into your app, with an `Env` of what its manifest grants.
 */

/** A key-value store (`[kv.NAME]`) that is granted for reading (`"NAME:ro"`). */
export interface ReadonlyKvNamespace {
  /** The value of a key; null when there is none. */
  get(key: string, type?: "text" | { type?: "text" }): Promise<string | null>;
  get<T = unknown>(key: string, type: "json" | { type: "json" }): Promise<T | null>;
  get(key: string, type: "arrayBuffer" | { type: "arrayBuffer" }): Promise<ArrayBuffer | null>;
  get(key: string, type: "bytes" | { type: "bytes" }): Promise<Uint8Array | null>;
  get(key: string, type: "stream" | { type: "stream" }): Promise<ReadableStream<Uint8Array> | null>;
  /** The values of several keys, all of one moment. */
  get(keys: string[], type?: "text" | { type?: "text" }): Promise<Map<string, string | null>>;
  get<T = unknown>(keys: string[], type: "json" | { type: "json" }): Promise<Map<string, T | null>>;
  get(keys: string[], type: "arrayBuffer" | { type: "arrayBuffer" }): Promise<Map<string, ArrayBuffer | null>>;
  get(keys: string[], type: "bytes" | { type: "bytes" }): Promise<Map<string, Uint8Array | null>>;
  get(
    keys: string[],
    type: "stream" | { type: "stream" },
  ): Promise<Map<string, ReadableStream<Uint8Array> | null>>;

  /** The value with its metadata, and the version that `compareAndSwap` expects. */
  getWithMetadata<M = unknown>(key: string, type?: "text" | { type?: "text" }): Promise<KvEntry<string, M>>;
  getWithMetadata<T = unknown, M = unknown>(key: string, type: "json" | { type: "json" }): Promise<KvEntry<T, M>>;
  getWithMetadata<M = unknown>(
    key: string,
    type: "arrayBuffer" | { type: "arrayBuffer" },
  ): Promise<KvEntry<ArrayBuffer, M>>;
  getWithMetadata<M = unknown>(key: string, type: "bytes" | { type: "bytes" }): Promise<KvEntry<Uint8Array, M>>;
  getWithMetadata<M = unknown>(
    key: string,
    type: "stream" | { type: "stream" },
  ): Promise<KvEntry<ReadableStream<Uint8Array>, M>>;

  /** Keys in byte order, 1,000 at once or `limit`, which is 1 to 1,000. */
  list<M = unknown>(options?: { prefix?: string; limit?: number; cursor?: string }): Promise<KvList<M>>;
}

/** A key-value store (`[kv.NAME]`), in the shape of Workers KV. A write is durable when its promise settles. */
export interface KvNamespace extends ReadonlyKvNamespace {
  /** The value as it is at the call: its bytes may change afterwards. */
  put(key: string, value: KvValue, options?: KvPutOptions): Promise<void>;
  /** Sets several keys: all or none. */
  putMany(entries: ({ key: string; value: KvValue } & KvPutOptions)[]): Promise<void>;
  /** Deletes a key, or several: all or none. */
  delete(key: string | string[]): Promise<void>;
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

/** A database (`[sql.NAME]`) that is granted for reading (`"NAME:ro"`): statements that write are refused. */
export interface ReadonlyDatabase {
  prepare(sql: string): Statement;
  /** All statements in one transaction: all or none. */
  batch<T = Record<string, SqlValue>>(statements: Statement[]): Promise<SqlResult<T>[]>;
}

/** A database (`[sql.NAME]`), in the shape of Cloudflare D1. */
export interface Database extends ReadonlyDatabase {
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

/** A bucket (`[blob.NAME]`) that is granted for reading (`"NAME:ro"`). */
export interface ReadonlyBucket {
  /** What is known of a blob; null when there is none. */
  head(key: string): Promise<BucketObject | null>;
  /** A blob; null when there is none. Read or cancel its body: it is open in the node until then, or until the invocation ends. */
  get(key: string, options?: { range?: BucketRange | Headers; onlyIf?: undefined }): Promise<BucketObjectBody | null>;
  /** Without a body when `onlyIf` does not hold. `request.headers` as `onlyIf` and `range` do what HTTP says. */
  get(
    key: string,
    options: { range?: BucketRange | Headers; onlyIf?: BucketConditions | Headers },
  ): Promise<BucketObjectBody | BucketObject | null>;
  /** Keys in byte order, 1,000 at once or `limit`, which is 1 to 1,000. */
  list(options?: BucketListOptions): Promise<BucketList>;
  /**
   * A path on the host of the app that owns the bucket, under which anybody may read the blob until it expires: in 1 second to
   * 7 days.
   */
  signedUrl(key: string, options: { method?: "GET"; expiresIn: number }): Promise<string>;
}

/** A bucket (`[blob.NAME]`), in the shape of Cloudflare R2. A write is durable when its promise settles. */
export interface Bucket extends ReadonlyBucket {
  /** Nobody sees a part of the blob. A stream is not held in memory, and may have 5 GiB. */
  put(key: string, value: BlobValue, options?: BucketPutOptions & { onlyIf?: undefined }): Promise<BucketObject>;
  /** Null when `onlyIf` does not hold: then nothing was changed. */
  put(key: string, value: BlobValue, options: BucketPutOptions): Promise<BucketObject | null>;
  /** Deletes a blob, or up to 1,000: all or none. */
  delete(key: string | string[]): Promise<void>;
  /**
   * Copies a blob of this bucket with its metadata, in the node. Null when `onlyIf` does not hold for what is under `to`; rejects
   * with `not_found` when there is nothing to copy.
   */
  copy(from: string, to: string, options?: { onlyIf?: BucketConditions | Headers }): Promise<BucketObject | null>;
  signedUrl(key: string, options: { method?: "GET"; expiresIn: number }): Promise<string>;
  /** The same for an upload, which may be bound to a size and has to have the content type. */
  signedUrl(
    key: string,
    options: { method: "PUT"; expiresIn: number; maxSize?: number; contentType?: string },
  ): Promise<string>;
}

export type BlobValue = string | ArrayBuffer | ArrayBufferView | Blob | ReadableStream<Uint8Array> | null;

/** What is known of a blob. */
export interface BucketObject {
  readonly key: string;
  readonly size: number;
  /** SHA-256 of the content, in hex. */
  readonly etag: string;
  /** The same in quotes, as headers have it. */
  readonly httpEtag: string;
  readonly uploaded: Date;
  readonly httpMetadata: BucketHttpMetadata;
  readonly customMetadata: Record<string, string>;
  /** What was read, where `get` was asked for a range. */
  readonly range?: { offset: number; length: number };
  /** Undefined: there is no content here, as `onlyIf` did not hold. */
  readonly body?: ReadableStream<Uint8Array>;
  /** Sets the headers that were kept with the blob. */
  writeHttpMetadata(headers: Headers): void;
}

/** A blob with its content, which can be read once. */
export interface BucketObjectBody extends BucketObject {
  readonly body: ReadableStream<Uint8Array>;
  readonly bodyUsed: boolean;
  arrayBuffer(): Promise<ArrayBuffer>;
  bytes(): Promise<Uint8Array>;
  text(): Promise<string>;
  json<T = unknown>(): Promise<T>;
  blob(): Promise<Blob>;
}

export interface BucketHttpMetadata {
  contentType?: string;
  contentEncoding?: string;
  contentLanguage?: string;
  contentDisposition?: string;
  cacheControl?: string;
}

export type BucketRange = { offset?: number; length?: number } | { suffix: number };

/** All of them have to hold. */
export interface BucketConditions {
  etagMatches?: string | string[];
  /** `"*"`: there is none. */
  etagDoesNotMatch?: string | string[];
  uploadedBefore?: Date;
  uploadedAfter?: Date;
}

export interface BucketPutOptions {
  /** Headers that are kept with the blob: those of `request.headers`, or by name. At most 1 KiB each. */
  httpMetadata?: BucketHttpMetadata | Headers;
  /** At most 8 KiB, names and values. */
  customMetadata?: Record<string, string>;
  onlyIf?: BucketConditions | Headers;
}

export interface BucketListOptions {
  prefix?: string;
  /** Where the page before ended. */
  cursor?: string;
  /** Only keys after this one. */
  startAfter?: string;
  /** Keys that have it after the prefix are put together, as files in a folder. */
  delimiter?: string;
  limit?: number;
  /** What objects are listed with besides. */
  include?: ("httpMetadata" | "customMetadata")[];
}

export interface BucketList {
  objects: BucketObject[];
  delimitedPrefixes: string[];
  truncated: boolean;
  /** Where the next page begins. */
  cursor?: string;
}

/** A volume (`[files.NAME]`) that is granted for reading (`"NAME:ro"`). Paths are relative to it, or below the path of the manifest. */
export interface ReadonlyVolume {
  /** The content, at most 16 MiB in one call: a part of it with `offset` and `length`. */
  readFile(path: string, options?: FileReadOptions & { encoding?: null }): Promise<Uint8Array>;
  readFile(path: string, options: FileEncoding | (FileReadOptions & { encoding: FileEncoding })): Promise<string>;
  /** The same as a stream of any length. Read or cancel it: the file is open in the node until then, or until the invocation ends. */
  stream(path: string, options?: FileReadOptions): Promise<ReadableStream<Uint8Array>>;
  /** The names in a folder, sorted. */
  readdir(path: string, options?: { withFileTypes?: false }): Promise<string[]>;
  readdir(path: string, options: { withFileTypes: true }): Promise<FileEntry[]>;
  /** What is known of a file or folder, links followed. */
  stat(path: string): Promise<FileStats>;
  exists(path: string): Promise<boolean>;
}

/** A volume (`[files.NAME]`), with methods of node:fs/promises. What a call has answered is on the disk. */
export interface Volume extends ReadonlyVolume {
  /** Bytes go in one piece, at most 16 MiB; a stream or Blob may be of any length, and what of it was written stays when it breaks off. */
  writeFile(path: string, data: FileContent, options?: FileEncoding | FileWriteOptions): Promise<void>;
  /** With `recursive` the folders on the way to it are made, too, and it may be there. */
  mkdir(path: string, options?: { recursive?: boolean }): Promise<void>;
  /** With `recursive` also a folder with all that is in it; with `force` it need not be there. */
  rm(path: string, options?: { recursive?: boolean; force?: boolean }): Promise<void>;
  /** It takes the place of a file that is there. */
  rename(from: string, to: string): Promise<void>;
  /** Makes a file so many bytes long, 0 if it is not said: what is beyond goes, what is missing is zeros. */
  truncate(path: string, length?: number): Promise<void>;
}

export type FileEncoding = "utf8" | "utf-8";

export type FileContent = string | ArrayBuffer | ArrayBufferView | Blob | ReadableStream<Uint8Array>;

/** The part that is read, in bytes. */
export interface FileReadOptions {
  offset?: number;
  length?: number;
}

export interface FileWriteOptions {
  /** `"w"`, which replaces the file, `"a"` to append to it, `"wx"` for one that must not be there. */
  flag?: "w" | "a" | "wx";
  /** Where to write, in place of a flag: what is before and after stays. */
  offset?: number;
  /** False: it may not be on the disk when the promise settles. */
  sync?: boolean;
  encoding?: FileEncoding | null;
}

/** Something in a folder; links are not followed. */
export interface FileEntry {
  readonly name: string;
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
}

export interface FileStats {
  /** In bytes. */
  readonly size: number;
  readonly mtime: Date;
  readonly mtimeMs: number;
  isFile(): boolean;
  isDirectory(): boolean;
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

/** A topic (`[topic.NAME]`) that is granted by `publish`, in the shape of Workers Queues. */
export interface Topic {
  /** Publishes a message. It is durable when the promise settles. The body is taken as it is at the call. */
  send(body: unknown, options?: TopicSendOptions): Promise<TopicSent>;
  /** Publishes up to 100 messages at once: all or none. */
  sendBatch(
    messages: Iterable<{ body: unknown } & TopicSendOptions>,
    options?: { delay?: number; delaySeconds?: number },
  ): Promise<TopicSent[]>;
}

export interface TopicSendOptions {
  /**
   * What the body is: `json`, which is what it becomes unless it is an ArrayBuffer or a view of one, `text`, `bytes`, or a media type
   * for a string or bytes.
   */
  contentType?: "json" | "text" | "bytes" | (string & {});
  /** Holds the message back for so many milliseconds, up to a week. */
  delay?: number;
  /** The same in seconds. */
  delaySeconds?: number;
  /** Messages of one key come in their order to a function with `order_by = "key"`. */
  key?: string;
  /** One that was published in the last two minutes is not published again. */
  id?: string;
  /** The event's `type`; `minnow.message` when absent. */
  type?: string;
  subject?: string;
  /** Further attributes of the CloudEvent: names of 1 to 20 of `a-z` and `0-9`. */
  attributes?: Record<string, string | number | boolean>;
}

/** What became of a message. */
export interface TopicSent {
  id: string;
  /** Its place in the topic; null while it is held back. */
  position: number | null;
  /** Whether the same id was published in the last two minutes. Nothing was added then. */
  duplicate: boolean;
}

/** What a call of a store or lock rejects with. A wrong argument is a `TypeError` where it is seen before the call. */
export interface StoreError extends Error {
  readonly name: "StoreError";
  readonly code: StoreErrorCode;
}

export type StoreErrorCode =
  /** The function was not granted it, or its owner does not share it any more. */
  | "denied"
  /** It is granted with `:ro`. */
  | "read_only"
  /** A key, name, number or text that the store does not take. */
  | "bad_argument"
  /** More bytes, keys or rows than one call may have. */
  | "too_large"
  /** As many locks, waiting calls, uploads or open blobs as there may be. */
  | "too_many"
  /** The store has its size, or the disk is full. */
  | "full"
  /** The statement ran for too long. */
  | "timeout"
  /** Others were in the way, nothing was changed: try again. */
  | "busy"
  /** There is no blob to copy. */
  | "not_found"
  /** The range begins beyond the end of the blob. */
  | "range"
  /** The value that is there is no number that can be incremented. */
  | "conflict"
  /** A constraint of the tables does not hold. */
  | "constraint"
  /** SQLite refuses the statement, and the message says where. */
  | "statement"
  /** The invocation to which it belonged is over. */
  | "ended"
  /** The topics cannot be reached now, nothing was published: try again. */
  | "unavailable"
  /** The store is damaged; the log of the node says where. */
  | "corrupt"
  /** The node has failed; its log says why. */
  | "failed"
  /** The way to the node broke off. Whether the call was made is not known. */
  | "connection"
  /** Of files, as node has them. */
  | "ENOENT"
  | "EEXIST"
  | "ENOTDIR"
  | "EISDIR"
  | "ENOTEMPTY"
  /** The volume has its size or its number of names, or the disk is full. */
  | "ENOSPC"
  /** It is granted with `:ro`. */
  | "EROFS"
  /** The path leads out of the volume. */
  | "EACCES"
  | "ENAMETOOLONG"
  /** More than one call takes. */
  | "EFBIG"
  | "ELOOP"
  | "EINVAL"
  | "EMFILE"
  | "EBUSY"
  | "EIO";

/** Messages of a topic that came together. */
export interface MessageBatch<Body = unknown> {
  /** The name of the topic. */
  readonly queue: string;
  /** In their order. */
  readonly messages: readonly Message<Body>[];
  /** Says of all that nothing was said of: they are done. */
  ackAll(): void;
  /** Says of all that nothing was said of: they are to come again. */
  retryAll(options?: RetryOptions): void;
}

/**
 * A message of a topic. The first of `ack` and `retry` holds. Without a word it is done when the handler has returned, and comes
 * again when that threw.
 */
export interface Message<Body = unknown> {
  readonly id: string;
  readonly timestamp: Date;
  /** What the JSON says, a string where the type is `text/…`, else an ArrayBuffer; null where there are no data. */
  readonly body: Body;
  /** How often it was delivered, with this time. */
  readonly attempts: number;
  /** What the publisher gave as `key`. */
  readonly key: string | null;
  /** All attributes of the CloudEvent: `source`, `type`, `subject`, `sequence` and the others. */
  readonly attributes: Readonly<Record<string, string>>;
  /** It is done. */
  ack(): void;
  /** It is to come again, which costs a try. */
  retry(options?: RetryOptions): void;
}

/** When a message comes again: after a day at most; as the manifest's `backoff` says where nothing is given. */
export interface RetryOptions {
  delaySeconds?: number;
  /** The same in milliseconds. */
  delay?: number;
}

/** A tick of a schedule. */
export interface ScheduledEvent {
  readonly type: "scheduled";
  /** The name of the schedule. */
  readonly name: string;
  /** Null for one with `at`. */
  readonly cron: string | null;
  /** When it was due, in milliseconds since 1970. */
  readonly scheduledTime: number;
  noRetry(): void;
}

/**
 * A function: `export default { … } satisfies Handler<Env>`. Without `queue` or `scheduled` it gets messages and ticks as requests
 * in `fetch`.
 */
export interface Handler<Env = Record<string, string>, Body = unknown> {
  fetch?(request: Request, env: Env, ctx: ExecutionContext): Response | Promise<Response>;
  queue?(batch: MessageBatch<Body>, env: Env, ctx: ExecutionContext): void | Promise<void>;
  scheduled?(event: ScheduledEvent, env: Env, ctx: ExecutionContext): void | Promise<void>;
}

/** What goes with an invocation. */
export interface ExecutionContext {
  /** Lets work go on after the response, within the function's time limit. */
  waitUntil(promise: Promise<unknown>): void;
  passThroughOnException(): void;
}

/** `env` of the function `guestbook`. */
export interface GuestbookEnv {
  COUNTERS: KvNamespace;
  MAIN: ReadonlyDatabase;
  PHOTOS: Bucket;
}

/** `env` of the function `shop`. */
export interface ShopEnv {
  ORDERS: Topic;
  SHOP: KvNamespace;
}
