// @ts-check
/**
 * marketfeed's client for pages and for Node 20 and newer, in one file without dependencies.
 *
 *     import {connect} from "/client/marketfeed.js";
 *     const feed = connect("/stream");
 *     const sub = feed.subscribe({quotes: ["AAPL"], max_hz: 10}, q => console.log(q.S, q.bp, q.ap));
 *
 * What comes goes one way: transport (bytes) -> line (one connection's protocol) -> subscription -> callback. After a
 * cut each line asks for all that it had again, since the last heartbeat: everything up to there had come; before the
 * first one after a snapshot, for that again too. What comes twice by that is known by its `seq`, which only rises for
 * each symbol, and is dropped. Nothing waits here while there is no connection: what was missed is asked of the server,
 * which holds it.
 *
 * docs/javascript.md says how to use it, docs/protocol.md and docs/transports.md what goes over the wire.
 */

/** Where a subscription may begin: a position, or an RFC 3339 time. @typedef {{epoch?: number, seq: number} | string} Since */
/**
 * What is wanted; the options are those of the `subscribe` command.
 * @typedef {object} Request
 * @property {string[]} [quotes] symbols and globs, as all channels
 * @property {string[]} [trades]
 * @property {string[]} [bars]
 * @property {string[]} [updatedBars]
 * @property {number} [max_hz] only the latest of each symbol, at most so many times a second; else every tick
 * @property {string} [where] only ticks for which this condition holds
 * @property {string[]} [fields] only these keys
 * @property {number} [bar_seconds] length of the bars, s
 * @property {boolean} [snapshot] first the latest of each symbol
 * @property {Since} [since] first every tick after that
 */
/** A message of the protocol: a tick, or another one. @typedef {{T: string, [key: string]: any}} Message */
/** @typedef {Message & {S: string, seq: number, t: string, f?: string}} Tick */
/** What was answered to a subscription. @typedef {{epoch: number, seq: number, recovered: boolean | null}} Answer */
/** @typedef {(what: any, sub: Subscription) => void} Callback */
/** @typedef {"idle" | "connecting" | "live" | "waiting" | "closed"} State */
/** @typedef {"websocket" | "sse" | "longpoll"} TransportName */
/**
 * @typedef {object} Options
 * @property {string} [key] credentials: `key` and `secret`, or `token`
 * @property {string} [secret]
 * @property {string} [token]
 * @property {"json" | "binary"} [encoding] "binary": callbacks are given batches of ticks as typed arrays
 * @property {TransportName[]} [transports] those to try, the best first
 * @property {any} [WebSocket] where there is no global one: that of npm's `ws`
 * @property {number} [stale_seconds] a connection that says nothing for so long is stale, and is made anew; 6
 * @property {number} [open_seconds] a transport that says nothing for so long when it opens does not get through; 5
 * @property {number} [better_seconds] after so long on a worse transport WebSocket is tried again, then after twice as
 *     long, up to 20 times; 30
 * @property {number} [backoff_base] s: the pause before attempt n is random between 0 and base * 2^n; 0.5
 * @property {number} [backoff_most] s: but at most this; 30
 */
/** How a transport tells its line what happens. @typedef {{heard: () => void, frame: (data: string | Message[] | ArrayBuffer) => void, ended: (end: End) => void}} Hooks */
/** Why a connection ended: in words, and what is known of a close code, or of an `error` message. @typedef {{reason: string, code?: number, error?: {code: number, msg: string, status: number}}} End */
/** @typedef {{[key: string]: unknown, action: string}} Command */

const CHANNELS = /** @type {const} */ (["quotes", "trades", "bars", "updatedBars"]);
/** Type of a tick's message -> its channel. @type {Record<string, string>} */
const CHANNEL_OF = {q: "quotes", t: "trades", b: "bars", u: "updatedBars"};
const OPTIONS = /** @type {const} */ (["max_hz", "where", "fields", "bar_seconds"]);
const TRANSPORTS = /** @type {TransportName[]} */ (["websocket", "sse", "longpoll"]);

/** A command's symbols have so many characters at most; the server reads 64 KiB in one. */
const COMMAND_CHARACTERS = 10_000;
/** One request has so many commands at most, and so many bytes if it has several. */
const REQUEST_COMMANDS = 32, REQUEST_BYTES = 40_000;
/** Longer URLs do not pass through every proxy. */
const URL_CHARACTERS = 7_500;
/** An event that has not ended after so many characters is none. */
const EVENT_CHARACTERS = 1 << 24;
/** Close codes after which the same would happen again (RFC 6455, 7.4.1: we broke the protocol, or sent too much). */
const OUR_FAULT = [1002, 1003, 1007, 1008, 1009, 1010];
/** Codes of `error` messages: credentials; those that answer no command; a defect of the server. */
const AUTH_CODES = [401, 402, 404], UNASKED = [404, 406, 407], ALREADY_AUTHENTICATED = 403, INTERNAL = 500;

const seconds = () => performance.now() / 1000;

/** Tell an error of the user's own code as the page tells others, without ending anything. @param {unknown} error */
function report(error) {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}

/** An error that the server told, or what became of a subscription. `code` is that of the protocol, 0 = none. */
export class FeedError extends Error {
  /** @param {string} message @param {number} [code] */
  constructor(message, code = 0) {
    super(code ? `${message} (${code})` : message);
    this.name = "FeedError";
    this.code = code;
  }
}

// ---- what is asked for --------------------------------------------------------------------------------------------

/**
 * A request, held against what there is. Names are written "channel symbol".
 * @typedef {{request: Request, names: string[], options: Record<string, unknown>, key: string}} Checked
 */

/** @param {Request} request @param {boolean} binary @returns {Checked} */
function check(request, binary) {
  if (typeof request !== "object" || request === null) throw new TypeError("a subscription is an object: {quotes: [...]}");
  const known = [...CHANNELS, ...OPTIONS, "snapshot", "since"];
  for (const key of Object.keys(request)) {
    if (!known.includes(key)) throw new TypeError(`unknown ${JSON.stringify(key)}; there are: ${known.join(", ")}`);
  }
  const {max_hz, where, fields, bar_seconds, snapshot, since} = request;
  const names = CHANNELS.flatMap((channel) => texts(channel, request[channel] ?? []).map((name) => `${channel} ${name}`));
  if (!names.length) throw new TypeError(`a subscription names no symbols: give ${CHANNELS.join(", ")}`);
  for (const name of names) {
    const symbol = symbolOf(name);
    if (!symbol || /[\s,\p{Cc}]/u.test(symbol)) {
      throw new RangeError(`a symbol has letters, but no blanks, commas or control characters: ${JSON.stringify(symbol)}`);
    }
  }
  number("max_hz", max_hz, 0.001, 1e6);
  number("bar_seconds", bar_seconds, 1, 3600);
  if (where !== undefined && typeof where !== "string") throw new TypeError("where is a text");
  if (where !== undefined && where.length > COMMAND_CHARACTERS) throw new RangeError("where is too long");
  if (fields !== undefined) {
    texts("fields", fields);
    if (binary) throw new TypeError("fields: the binary encoding sends whole records");
  }
  if (snapshot !== undefined && typeof snapshot !== "boolean") throw new TypeError("snapshot is true or false");
  if (since !== undefined) {
    if (snapshot) throw new TypeError("snapshot and since exclude each other");
    if (typeof since === "object" && since !== null ? !Number.isSafeInteger(since.seq) : typeof since !== "string") {
      throw new TypeError("since is a position {epoch, seq}, or a time as text");
    }
  }
  /** @type {Record<string, unknown>} */
  const options = {};
  for (const key of OPTIONS) if (request[key] !== undefined) options[key] = request[key];
  return {request: {...request}, names: [...new Set(names)], options, key: JSON.stringify(options)};
}

/** @param {string} what @param {unknown} list @returns {string[]} */
function texts(what, list) {
  if (!Array.isArray(list)) throw new TypeError(`${what} is an array of texts, not ${JSON.stringify(list)}`);
  for (const text of list) {
    if (typeof text !== "string") throw new TypeError(`${what} is an array of texts: ${JSON.stringify(text)} is none`);
  }
  return list;
}

/** @param {string} what @param {unknown} value @param {number} least @param {number} most */
function number(what, value, least, most) {
  if (value === undefined) return;
  if (typeof value !== "number") throw new TypeError(`${what} is a number, not ${JSON.stringify(value)}`);
  if (!(value >= least && value <= most)) throw new RangeError(`${what} is from ${least} to ${most}, not ${value}`);
}

/** @param {string} name */
const isGlob = (name) => /[*?]/.test(name);

/** A glob as an expression: * is any run of characters, ? any one. @param {string} glob */
function expression(glob) {
  const parts = glob.split(/([*?]+)/).map((part, n) => {
    if (n % 2 === 0) return part.replace(/[\\^$.|+()[\]{}]/g, "\\$&");
    // A run of wild characters in one form: two stars in a row would be tried in every way they can share a text.
    return ".".repeat(part.split("?").length - 1) + (part.includes("*") ? ".*" : "");
  });
  return new RegExp(`^${parts.join("")}$`, "su");
}

/** The symbol of a name or glob without its feed. @param {string} name */
const unfed = (name) => name.slice(Math.max(name.indexOf(" "), name.lastIndexOf(":")) + 1);
/** @param {string} name */
const channelOf = (name) => name.slice(0, name.indexOf(" "));
/** @param {string} name */
const symbolOf = (name) => name.slice(name.indexOf(" ") + 1);

/** Whether some of each may stand for one instrument in one channel. @param {string[]} some @param {string[]} others */
function mayMeet(some, others) {
  const [a, b] = [some, others].map((names) => ({
    globs: names.filter(isGlob),
    plain: new Map(names.filter((name) => !isGlob(name)).map((name) => [`${channelOf(name)} ${unfed(name)}`, name])),
  }));
  for (const name of a.plain.keys()) if (b.plain.has(name)) return true;
  for (const [{globs}, {plain}] of [[a, b], [b, a]]) {
    for (const glob of globs) {
      const matches = [symbolOf(glob), unfed(glob)].map(expression), channel = channelOf(glob);
      for (const name of plain.values()) {
        if (channelOf(name) === channel && matches.some((one) => one.test(symbolOf(name)) || one.test(unfed(name)))) return true;
      }
    }
  }
  return a.globs.some((x) => b.globs.some((y) => channelOf(x) === channelOf(y) && globsMayMeet(symbolOf(x), symbolOf(y))));
}

/** What two globs have in common may still be to come: not so only if they begin otherwise. @param {string} x @param {string} y */
function globsMayMeet(x, y) {
  if (x.includes(":") !== y.includes(":")) return true;
  const [p, q] = [x, y].map((glob) => glob.slice(0, glob.search(/[*?]/)));
  return p.startsWith(q) || q.startsWith(p);
}

/** Names as the channels of a command. @param {Iterable<string>} names */
function channels(names) {
  /** @type {Record<string, string[]>} */
  const wire = {};
  for (const name of names) {
    (wire[channelOf(name)] ??= []).push(symbolOf(name));
  }
  return wire;
}

/** Lists that each fit into one command. @param {Iterable<string>} names */
function chunks(names) {
  /** @type {string[][]} */
  const lists = [];
  let room = 0;
  for (const name of names) {
    if (!lists.length || name.length > room) {
      lists.push([]);
      room = COMMAND_CHARACTERS;
    }
    lists[lists.length - 1].push(name);
    room -= name.length;
  }
  return lists;
}

// ---- binary: records (docs/protocol.md) ---------------------------------------------------------------------------

const HEADER_BYTES = 24, RECORD_BYTES = 88, MAGIC = 0x46544b4d, LAYOUT = 1, TWO_32 = 2 ** 32;
/** A record as 11 words of 8 bytes: where its columns are. */
const WORDS = 11, FIRST = HEADER_BYTES / 8;
const KIND_OF = {q: 1, t: 2, b: 3, u: 4};
const LETTERS = ["", "q", "t", "b", "u"];
/** Keys of a message's numbers -> their words, by its type. @type {Record<string, Record<string, number>>} */
const WORDS_OF = {q: {bp: 5, bs: 6, ap: 7, as: 8}, t: {p: 9, s: 10}, b: {o: 5, h: 6, l: 7, c: 8, vw: 9, v: 10}};
WORDS_OF.u = WORDS_OF.b;
/** Length of a bar that tells none, s. */
const MINUTE = 60;

const isBar = (/** @type {string} */ T) => T === "b" || T === "u";

/** A frame of records, seen as words. All machines that browsers and Node run on are little-endian, as the records. */
class Records {
  /** @param {ArrayBuffer} buffer */
  constructor(buffer) {
    const head = new DataView(buffer);
    const whole = buffer.byteLength >= HEADER_BYTES && head.getUint32(0, true) === MAGIC;
    if (!whole || head.getUint16(4, true) !== LAYOUT || head.getUint16(8, true) !== RECORD_BYTES) {
      throw new FeedError("the server sent what are no records of this layout");
    }
    this.length = head.getUint32(12, true);
    if (head.getUint16(6, true) !== HEADER_BYTES || buffer.byteLength !== HEADER_BYTES + this.length * RECORD_BYTES) {
      throw new FeedError("the server sent records that are not whole");
    }
    this.buffer = buffer;
    this.bytes = new Uint8Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.i64 = new BigInt64Array(buffer);
  }

  /** Records of JSON ticks; `id` gives a tick's instrument an id. @param {Tick[]} ticks @param {(tick: Tick) => number} id */
  static of(ticks, id) {
    const buffer = new ArrayBuffer(HEADER_BYTES + RECORD_BYTES * ticks.length);
    const head = new DataView(buffer);
    head.setUint32(0, MAGIC, true);
    for (const [at, value] of [[4, LAYOUT], [6, HEADER_BYTES], [8, RECORD_BYTES]]) head.setUint16(at, value, true);
    head.setUint32(12, ticks.length, true);
    const records = new Records(buffer);
    ticks.forEach((tick, n) => {
      const word = FIRST + n * WORDS;
      records.u32[2 * word] = tick.seq % TWO_32;
      records.u32[2 * word + 1] = tick.seq / TWO_32;
      records.i64[word + 1] = nanoseconds(tick.t);
      records.u32[2 * (word + 4)] = id(tick);
      records.bytes[8 * word + 38] = KIND_OF[/** @type {keyof typeof KIND_OF} */ (tick.T)];
      records.f64.fill(NaN, word + 5, word + WORDS);
      for (const [key, at] of Object.entries(WORDS_OF[tick.T])) records.f64[word + at] = tick[key] || (key === "v" ? 0 : NaN);
      if (isBar(tick.T)) {
        records.u32[2 * (word + 3)] = tick.n;
        records.u32[2 * (word + 3) + 1] = tick.sec ?? MINUTE;
        records.bytes[8 * word + 39] = tick.from === "quotes" ? 1 : 0;
      }
    });
    return records;
  }

  /** @param {number} n */
  seq(n) {
    const at = 2 * (FIRST + n * WORDS);
    return this.u32[at] + this.u32[at + 1] * TWO_32;
  }

  /** @param {number} n */
  instrument(n) {
    return this.u32[2 * (FIRST + n * WORDS + 4)];
  }

  /** @param {number} n */
  kind(n) {
    return this.bytes[HEADER_BYTES + n * RECORD_BYTES + 38];
  }
}

/** @param {string} text RFC 3339, UTC */
function nanoseconds(text) {
  return BigInt(Date.parse(`${text.slice(0, 19)}Z`)) * 1_000_000n + BigInt(text.slice(20).replace(/\D.*/, "").padEnd(9, "0"));
}

/** @param {bigint} ns */
function rfc3339(ns) {
  const fraction = ((ns % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n;
  const second = new Date(Number((ns - fraction) / 1_000_000n)).toISOString().slice(0, 19);
  return `${second}.${String(fraction).padStart(9, "0")}Z`;
}

/**
 * Ticks as columns. Each is read out of the frame when it is first asked for; all are as long as the batch.
 *
 * `seq` are Numbers, exact up to 2^53, as everywhere in the protocol; times are BigInts, ns since 1970, UTC, which are
 * above that. What is missing in a tick is NaN, as are the columns of the other kind; look at `kind` where bars are among
 * quotes and trades, for their columns lie in the same place. Over SSE and long polling the
 * columns are made of JSON, which has no `ts_recv` and `venue_seq`: they are 0 there.
 */
export class Batch {
  /** @type {Records} */ #records;
  /** @type {Uint32Array | null} */ #rows;
  /** @type {Map<number, {S: string, f?: string}>} */ #table;
  /** @type {Map<string, any>} */ #columns = new Map();

  /** @param {Records} records @param {Uint32Array | null} rows those of them; null = all @param {Map<number, {S: string, f?: string}>} table */
  constructor(records, rows, table) {
    this.#records = records;
    this.#rows = rows;
    this.#table = table;
    this.length = rows ? rows.length : records.length;
  }

  /** @template T @param {string} name @param {(length: number) => T} make @param {(column: any, i: number, n: number) => void} put @returns {T} */
  #column(name, make, put) {
    let column = this.#columns.get(name);
    if (column === undefined) {
      column = make(this.length);
      for (let i = 0; i < this.length; i++) put(column, i, this.#rows ? this.#rows[i] : i);
      this.#columns.set(name, column);
    }
    return column;
  }

  /** @param {string} name @param {number} word */
  #floats(name, word) {
    const {f64} = this.#records;
    return this.#column(name, (n) => new Float64Array(n), (column, i, n) => (column[i] = f64[FIRST + n * WORDS + word]));
  }

  /** @param {string} name @param {number} word */
  #times(name, word) {
    const {i64} = this.#records;
    return this.#column(name, (n) => new BigInt64Array(n), (column, i, n) => (column[i] = i64[FIRST + n * WORDS + word]));
  }

  get seq() { return this.#column("seq", (n) => new Float64Array(n), (column, i, n) => (column[i] = this.#records.seq(n))); }
  get ts_event() { return this.#times("ts_event", 1); }
  get ts_recv() { return this.#times("ts_recv", 2); }
  get venue_seq() { return this.#times("venue_seq", 3); }
  /** Ids, of `symbolOf`; they mean something on this batch's connection only. */
  get instrument() { return this.#column("instrument", (n) => new Uint32Array(n), (column, i, n) => (column[i] = this.#records.instrument(n))); }
  /** 1 = quote, 2 = trade, 3 = bar, 4 = updated bar */
  get kind() { return this.#column("kind", (n) => new Uint8Array(n), (column, i, n) => (column[i] = this.#records.kind(n))); }
  get bid() { return this.#floats("bid", 5); }
  get bid_size() { return this.#floats("bid_size", 6); }
  get ask() { return this.#floats("ask", 7); }
  get ask_size() { return this.#floats("ask_size", 8); }
  get price() { return this.#floats("price", 9); }
  get size() { return this.#floats("size", 10); }
  // Of bars, in the place of others.
  get open() { return this.#floats("open", 5); }
  get high() { return this.#floats("high", 6); }
  get low() { return this.#floats("low", 7); }
  get close() { return this.#floats("close", 8); }
  get vwap() { return this.#floats("vwap", 9); }
  get volume() { return this.#floats("volume", 10); }

  /** The symbol of an instrument's id. @param {number} instrument */
  symbolOf(instrument) {
    return this.#table.get(instrument)?.S;
  }

  /** One row as its JSON message. @param {number} i @returns {Tick} */
  tick(i) {
    const n = this.#rows ? this.#rows[i] : i;
    const {i64, f64} = this.#records;
    const word = FIRST + n * WORDS;
    const T = LETTERS[this.#records.kind(n)];
    const {S, f} = this.#table.get(this.#records.instrument(n)) ?? {S: ""};
    /** @type {Tick} */
    const tick = {T, S, t: rfc3339(i64[word + 1]), seq: this.#records.seq(n)};
    for (const [key, at] of Object.entries(WORDS_OF[T] ?? {})) tick[key] = f64[word + at] || 0;
    if (isBar(T)) {
      const {u32, bytes} = this.#records;
      tick.n = u32[2 * (word + 3)];
      if (u32[2 * (word + 3) + 1] !== MINUTE) tick.sec = u32[2 * (word + 3) + 1];
      if (bytes[8 * word + 39] & 1) tick.from = "quotes";
    }
    if (f !== undefined) tick.f = f;
    return tick;
  }
}

// ---- transports: commands out, frames in ----------------------------------------------------------------------------

/**
 * Where a server's transports are, by the URL of one.
 * @typedef {{ws: string, sse: string, poll: string, feed: string | null}} Endpoints
 */

/** @param {string | URL} url `/stream` or `/v2/FEED` of a server, by ws(s) or http(s); a page may leave the host out. @returns {Endpoints} */
function endpoints(url) {
  const base = typeof location === "object" ? location.href : undefined;
  const parsed = new URL(url, base);
  const secure = {"ws:": "", "http:": "", "wss:": "s", "https:": "s"}[parsed.protocol];
  const match = /^(.*?)\/(?:stream|v2\/([^/]+))?$/.exec(parsed.pathname);
  if (parsed.username || parsed.password) throw new TypeError("credentials are options: {key, secret} or {token}");
  if (secure === undefined || !match) throw new TypeError(`not the URL of a server's /stream or /v2/FEED: ${url}`);
  const [, prefix, feed] = match;
  const root = `${secure}://${parsed.host}${prefix}`;
  return {
    ws: `ws${root}${feed === undefined ? "/stream" : `/v2/${feed}`}${parsed.search}`,
    sse: `http${root}/sse`,
    poll: `http${root}/poll`,
    feed: feed === undefined ? null : decodeURIComponent(feed),
  };
}

/** Credentials as headers: UTF-8, each byte as a character. @param {Options} options @returns {Record<string, string>} */
function authHeaders({key, secret, token}) {
  const bytes = (/** @type {string} */ text) => String.fromCharCode(...new TextEncoder().encode(text));
  if (token) return {Authorization: `Bearer ${bytes(token)}`};
  return key || secret ? {"APCA-API-KEY-ID": bytes(key ?? ""), "APCA-API-SECRET-KEY": bytes(secret ?? "")} : {};
}

/** What a transport is: `start` with the commands to begin with where it `asksAtOnce`, then `send` where it can. */
class Transport {
  /** Whether commands go with the opening request. */
  static asksAtOnce = true;
  /** Whether commands can follow; else there has to be a new connection for them. */
  static canSend = true;
  #over = false;

  /** @param {Endpoints} at @param {Options} options @param {Hooks} hooks */
  constructor(at, options, hooks) {
    this.at = at;
    this.options = options;
    this.hooks = hooks;
  }

  get over() {
    return this.#over;
  }

  /** @param {Command[]} commands */
  start(commands) { throw new Error(`not possible: ${commands.length}`); }
  /** @param {Command[]} commands */
  send(commands) { throw new Error(`not possible: ${commands.length}`); }
  /** Let go of what is open. */
  release() {}

  /** The user or the line wants it no more; nothing is told after that. */
  close() {
    if (!this.#over) {
      this.#over = true;
      this.release();
    }
  }

  /** It ended by itself. @param {End} end */
  fail(end) {
    if (!this.#over) {
      this.close();
      this.hooks.ended(end);
    }
  }

  /** An answer that is not the one hoped for. @param {Response} response */
  async refused(response) {
    const text = await response.text().catch(() => "");
    let error;
    try {
      const told = JSON.parse(text);
      if (told.T === "error") error = {code: told.code, msg: told.msg, status: response.status};
    } catch {
      // Not the server's own words: a proxy's.
    }
    this.fail({reason: error ? error.msg : `HTTP status ${response.status}`, error});
  }
}

class WebSocketTransport extends Transport {
  static asksAtOnce = false;
  /** @type {any} */ #socket = null;

  start() {
    const Socket = this.options.WebSocket ?? globalThis.WebSocket;
    const protocols = this.options.encoding === "binary" ? ["marketfeed.binary"] : [];
    let reason = "";
    const socket = (this.#socket = new Socket(this.at.ws, protocols));
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", (/** @type {any} */ event) => {
      if (this.over) return;
      this.hooks.heard();
      this.hooks.frame(event.data);
    });
    // Also after it was closed: npm's `ws` has errors then that somebody must take.
    socket.addEventListener("error", (/** @type {any} */ event) => (reason ||= event.message ?? ""));
    socket.addEventListener("close", (/** @type {any} */ event) => {
      this.fail({reason: event.reason || reason || `closed (${event.code})`, code: event.code});
    });
  }

  /** @param {Command[]} commands */
  send(commands) {
    for (const command of commands) this.#socket.send(JSON.stringify(command));
  }

  release() {
    this.#socket.close();
  }
}

/** What SSE and long polling have in common: requests that can be given up. */
class HttpTransport extends Transport {
  abort = new AbortController();

  /** @param {string} url @param {RequestInit} [init] */
  fetch(url, init = {}) {
    return fetch(url, {cache: "no-store", signal: this.abort.signal, ...init});
  }

  /** Do it; what goes wrong ends the transport. @param {() => Promise<void>} work */
  run(work) {
    work().catch((error) => this.fail({reason: String(error?.cause?.message ?? error?.message ?? error)}));
  }

  release() {
    this.abort.abort();
  }
}

/** By `fetch`, not EventSource: that cannot send headers, hides why it was refused, and is not in Node. */
class SseTransport extends HttpTransport {
  static canSend = false;

  /** @param {Command[]} commands */
  start(commands) {
    this.run(async () => {
      const query = commands.map(({action, ...wire}) => ["subscribe", JSON.stringify(wire)]);
      if (this.at.feed !== null) query.push(["feed", this.at.feed]);
      const url = `${this.at.sse}?${new URLSearchParams(query)}`;
      if (url.length > URL_CHARACTERS) throw new Error("too many symbols for the URL of an event stream");
      const response = await this.fetch(url, {headers: {Accept: "text/event-stream", ...authHeaders(this.options)}});
      if (!response.ok || !response.body) return this.refused(response);
      const reader = response.body.getReader(), decoder = new TextDecoder();
      let text = "";
      for (;;) {
        const {done, value} = await reader.read();
        if (this.over) return;
        if (done) throw new Error("the stream ended");
        this.hooks.heard();
        // Only where an end may be that was not looked for yet: an event of half a MB comes in many pieces.
        let from = Math.max(0, text.length - 1), begin = 0;
        text += decoder.decode(value, {stream: true});
        for (let end; (end = text.indexOf("\n\n", from)) >= 0; begin = from = end + 2) {
          this.#event(text.slice(begin, end));
          if (this.over) return;
        }
        if (begin) text = text.slice(begin);
        if (text.length > EVENT_CHARACTERS) throw new Error("an event does not end");
      }
    });
  }

  /** @param {string} text */
  #event(text) {
    let name = "", data = "";
    for (const line of text.split("\n")) {
      if (line.startsWith("event: ")) name = line.slice(7);
      else if (line.startsWith("data: ")) data = line.slice(6);
    }
    if (name === "close") {
      const {code, reason} = JSON.parse(data);
      this.fail({code, reason});
    } else if (data) {
      this.hooks.frame(data);
    }
  }
}

class LongPollTransport extends HttpTransport {
  #session = "";
  #opened = () => undefined;
  /** The last request with commands: the next goes behind it. @type {Promise<unknown>} */
  #sent = new Promise((resolve) => (this.#opened = () => void resolve(undefined)));

  /** @param {Command[]} commands */
  start(commands) {
    this.run(async () => {
      const [first = [], ...rest] = requests(commands);
      const body = JSON.stringify({feed: this.at.feed, commands: first});
      const response = await this.#post(this.at.poll, body, authHeaders(this.options));
      if (!response.ok) return this.refused(response);
      const {session, cursor} = await response.json();
      this.#session = `${this.at.poll}/${session}`;
      if (this.over) return this.#leave();
      this.hooks.heard();
      // What was asked for meanwhile waits behind these.
      for (const more of rest) await this.#more(more);
      this.#opened();
      return this.#poll(cursor);
    });
  }

  /** @param {string} url @param {string} body @param {Record<string, string>} [headers] */
  #post(url, body, headers = {}) {
    return this.fetch(url, {method: "POST", body, headers: {"Content-Type": "application/json", ...headers}});
  }

  /** @param {number} cursor */
  async #poll(cursor) {
    while (!this.over) {
      let answer;
      try {
        const response = await this.fetch(`${this.#session}?cursor=${cursor}`);
        if (response.status >= 400 && response.status < 500) return this.refused(response);
        if (!response.ok) throw new Error(`HTTP status ${response.status}`);
        answer = await response.json();
      } catch {
        // The answer was lost, and is asked for again; the line ends this when nothing comes for too long.
        if (!this.over) await new Promise((go) => setTimeout(go, 500 * Math.random()));
        continue;
      }
      if (this.over) return;
      cursor = answer.cursor;
      this.hooks.heard();
      if (answer.messages.length) this.hooks.frame(answer.messages);
      if (answer.close) this.fail(answer.close);
    }
  }

  /** @param {Command[]} commands */
  send(commands) {
    for (const some of requests(commands)) {
      const before = this.#sent;
      this.#sent = (async () => {
        await before;
        if (!this.over) await this.#more(some);
      })();
      const sent = this.#sent;
      this.run(async () => void (await sent));
    }
  }

  /** @param {Command[]} commands */
  async #more(commands) {
    const response = await this.#post(this.#session, JSON.stringify(commands));
    if (!response.ok) await this.refused(response);
  }

  release() {
    super.release();
    this.#leave();
  }

  /** Tell the server that nobody will ask again. If that does not get there, the session expires. */
  #leave() {
    if (this.#session) fetch(this.#session, {method: "DELETE", keepalive: true}).catch(() => undefined);
    this.#session = "";
  }
}

/** Commands in lists that each fit into one request. @param {Command[]} commands */
function requests(commands) {
  /** @type {Command[][]} */
  const lists = [];
  let room = 0;
  for (const command of commands) {
    const size = new TextEncoder().encode(JSON.stringify(command)).length;
    const last = lists[lists.length - 1];
    if (!last || size > room || last.length >= REQUEST_COMMANDS) {
      lists.push([command]);
      room = REQUEST_BYTES - size;
    } else {
      last.push(command);
      room -= size;
    }
  }
  return lists;
}

const TRANSPORT_OF = {websocket: WebSocketTransport, sse: SseTransport, longpoll: LongPollTransport};

// ---- one connection's protocol --------------------------------------------------------------------------------------

/** What one `subscribe` command asked for. */
class Ask {
  /** Where it goes on after a cut: all up to there has come. null = it has to begin anew. @type {{epoch: number, seq: number} | null} */
  place = null;
  /** Where a snapshot of it began that may not have come whole: nothing is asked for twice behind that. @type {{epoch: number, seq: number} | null} */
  answered = null;
  /** Ticks up to this number are from before it, and meant for others. Infinite as long as it was not answered. */
  floor = Infinity;
  /** On which connection of the line it was answered. */
  answeredOn = 0;
  /** Whether the server has ever carried it out. */
  proven = false;
  /** What its symbols had before, which holds on where the server refuses this. @type {{options: Record<string, unknown>, key: string, place: {epoch: number, seq: number}, floor: number} | null} */
  before = null;
  /** Its globs: of which channel, as an expression, whether it names feeds. @type {[string, RegExp, boolean][] | null} */
  globs = null;

  /** @param {Subscription} sub @param {Iterable<string>} names @param {Checked} how @param {boolean} snapshot @param {Since} [since] */
  constructor(sub, names, how, snapshot, since) {
    this.sub = sub;
    this.names = new Set(names);
    this.options = how.options;
    this.key = how.key;
    this.snapshot = snapshot;
    this.since = since;
  }

  /** Where it begins on the next connection, as options of a command. @returns {{snapshot?: boolean, since?: Since}} */
  begin() {
    if (this.place) return {since: this.place};
    if (this.snapshot && this.answered) return {snapshot: true, since: this.answered};
    return this.snapshot ? {snapshot: true} : this.since === undefined ? {} : {since: this.since};
  }

  /** @returns {Command} */
  command() {
    return {action: "subscribe", ...channels(this.names), ...this.options, ...this.begin()};
  }
}

/**
 * A heartbeat tells how far the one is that is furthest behind, which are those that are given something seldom. Others
 * beside them would have to be given much again after a cut.
 *
 * @param {Record<string, any>} options
 */
const isSlow = ({max_hz}) => max_hz < 1;

/** What a command that has no answer yet was for, and whether that is all of it; nothing: an unsubscribe. @typedef {{asks: Ask[], last: boolean}} Pending */
/** The newest tick of one symbol that a subscription was given. @typedef {{seq: number, message: Tick | null}} Seen */
/** @typedef {{sub: Subscription, seen: Seen}} Target */

/** One connection to the server at a time, and the subscriptions that share it. */
class Line {
  /** @type {Set<Subscription>} */ subs = new Set();
  /** @type {Ask[]} */ asks = [];
  /** @type {"connecting" | "live" | "waiting"} */ state = "connecting";
  /** @type {TransportName | null} */ transportName = null;
  /** @type {Feed} */ #feed;
  /** @type {Transport | null} */ #transport = null;
  /** How many connections there have been. */
  #number = 0;
  /** Attempts that gave nothing, and pauses, since the last that lived. */
  #tries = 0; #pauses = 0;
  /** Commands may be sent on this connection. */
  #ready = false;
  /** It has answered a subscription; it has told a heartbeat. */
  #delivered = false; #lives = false;
  /** @type {Pending[]} */ #pending = [];
  /** Not proven commands go one by one: one of those that went together was refused, and nobody knows which. */
  #cautious = false;
  /** A stream that cannot take commands has to be asked for anew. */
  #changed = false;
  /** @type {number | null} */ #epoch = null;
  #heard = 0;
  /** @type {any} */ #timer = undefined;
  /** Type -> feed -> symbol -> who is given it. @type {Map<string, Map<string, Map<string, Target[]>>>} */ #routes = new Map();
  /** The same by 8 * instrument + kind. @type {Map<number, Target[]>} */ #routesById = new Map();
  /** What the ids of this connection stand for. @type {Map<number, {S: string, f?: string}>} */ #table = new Map();
  /** Ids that were made here for what came as JSON. @type {Map<string, number>} */ #made = new Map();

  /** @param {Feed} feed */
  constructor(feed) {
    this.#feed = feed;
  }

  /**
   * Whether these can be subscribed here beside the others, and each be given just what it asks for: of one symbol a
   * connection can be given ticks in one way only.
   *
   * @param {Subscription | null} sub whose they are, if it is here
   * @param {Checked} how
   * @param {boolean} [moves] they go on elsewhere than where the others are
   */
  fits(sub, how, moves = how.request.snapshot || how.request.since !== undefined) {
    const joins = how.options.max_hz !== undefined || !moves;
    return this.asks.every(
      (ask) =>
        ask.sub === sub ||
        (isSlow(ask.options) === isSlow(how.options) &&
          ((ask.key === how.key && joins) || !mayMeet(how.names, [...ask.names]))),
    );
  }

  /** @param {Ask[]} asks */
  add(asks) {
    this.asks.push(...asks);
    this.#forgetEmpty();
    if (!this.#transport) return this.state === "waiting" ? undefined : this.#open();
    this.#command(asks.map((ask) => [ask.command(), [ask]]));
  }

  /** These names of the subscription are not wanted any more. @param {Subscription} sub @param {Set<string>} gone */
  remove(sub, gone) {
    for (const ask of this.asks) if (ask.sub === sub) gone.forEach((name) => ask.names.delete(name));
    this.#forgetEmpty();
    const kept = new Set(this.asks.flatMap((ask) => [...ask.names]));
    const names = [...gone].filter((name) => !kept.has(name));
    this.#command(chunks(names).map((some) => [{action: "unsubscribe", ...channels(some)}, []]));
    // In this turn another subscription may still come, for which the connection is good.
    if (!this.subs.size) setTimeout(() => this.subs.size || this.close());
  }

  #forgetEmpty() {
    this.asks = this.asks.filter((ask) => ask.names.size);
    this.subs = new Set(this.asks.map((ask) => ask.sub));
    this.#reroute();
  }

  /** @param {[Command, Ask[]][]} commands */
  #command(commands) {
    const transport = this.#transport;
    if (!transport || !commands.length) return; // the next connection asks for all
    if (!(/** @type {typeof Transport} */ (transport.constructor).canSend)) {
      this.#changed = true;
      // What is asked for in one turn of the loop goes with one request.
      setTimeout(() => this.#changed && this.#transport === transport && this.subs.size && this.#open());
    } else if (this.#ready) {
      this.#pending.push(...commands.map(([, asks]) => ({asks, last: true})));
      transport.send(commands.map(([command]) => command));
    }
  }

  close() {
    clearTimeout(this.#timer);
    this.#transport?.close();
    this.#transport = null;
    this.#feed.lineClosed(this);
  }

  /** Connect at once: the machine is online again, or a better transport gets through. */
  hurry() {
    this.#open();
  }

  // ---- connecting ----

  #open() {
    clearTimeout(this.#timer);
    this.#transport?.close();
    this.#number++;
    this.#ready = this.#delivered = this.#lives = this.#changed = false;
    this.#pending = [];
    this.#table = new Map();
    this.#made.clear();
    this.#reroute();
    const name = (this.transportName = this.#feed.chooser.nth(this.#tries));
    const Kind = TRANSPORT_OF[name];
    /** @type {Transport} */
    const transport = new Kind(this.#feed.at, this.#feed.options, {
      heard: () => (this.#heard = seconds()),
      frame: (data) => this.#guarded(data),
      ended: (end) => this.#ended(end),
    });
    this.#transport = transport;
    this.#tell("connecting");
    this.#heard = seconds();
    this.#watch(this.#heard);
    try {
      transport.start(Kind.asksAtOnce ? this.#everything() : []);
    } catch (error) {
      transport.fail({reason: String(error)});
    }
  }

  /** All that is wanted, from where it is: what the first commands on a connection are. */
  #everything() {
    /** Of what begins at one place with the same options each name is asked for once. @type {Map<string, Ask[]>} */
    const groups = new Map();
    let unproven = 0;
    for (const ask of this.asks) {
      if (this.#cautious && !ask.proven && unproven++) continue;
      const key = JSON.stringify([ask.key, ask.begin(), this.#cautious && !ask.proven]);
      const group = groups.get(key);
      if (group) group.push(ask);
      else groups.set(key, [ask]);
    }
    /** @type {Command[]} */
    const commands = [];
    this.#ready = true;
    this.#pending = [];
    for (const asks of groups.values()) {
      const lists = chunks(new Set(asks.flatMap((ask) => [...ask.names])));
      lists.forEach((names, n) => {
        commands.push({action: "subscribe", ...channels(names), ...asks[0].options, ...asks[0].begin()});
        this.#pending.push({asks, last: n === lists.length - 1});
      });
    }
    if (commands.length) commands[0].heartbeat = this.#feed.heartbeat;
    return commands;
  }

  /** Look whether it still says something. @param {number} from */
  #watch(from) {
    const limit = this.#delivered ? this.#feed.options.stale_seconds : this.#feed.options.open_seconds;
    const due = from + limit;
    this.#timer = setTimeout(() => {
      const now = seconds();
      if (this.#heard > from) this.#watch(this.#heard);
      // The machine slept, or the page was frozen: what came meanwhile has not been looked at yet.
      else if (now - due > 1) this.#watch(now);
      else if (!this.#delivered) this.#transport?.fail({reason: `${this.transportName}: nothing came for ${limit} s`});
      else {
        this.#feed.tell("stale", {seconds: limit, transport: this.transportName, subscriptions: [...this.subs]});
        // One that never lived holds back what it should pass on.
        if (!this.#lives) this.#delivered = false;
        this.#transport?.fail({reason: `nothing came for ${limit} s`});
      }
    }, Math.max(0, due - seconds()) * 1000 + 1);
  }

  /** @param {End} end */
  #ended({reason, code, error}) {
    clearTimeout(this.#timer);
    this.#transport = null;
    if (!this.subs.size) return this.close();
    if (error) {
      if (AUTH_CODES.includes(error.code)) return this.#feed.fatal(new FeedError(error.msg, error.code));
      // A whole request was refused for one of its commands, if none of them stands for the server's own state.
      if (error.status === 400 && this.#refusedTogether(new FeedError(error.msg, error.code))) {
        return this.subs.size ? this.#open() : this.close();
      }
      // A session that expired, or that another request took over, is opened anew.
      if (!this.#delivered) this.#feed.fault(new FeedError(error.msg, error.code));
    } else if (code !== undefined && ((code >= 3500 && code <= 3999) || OUR_FAULT.includes(code))) {
      return this.#feed.fatal(new FeedError(reason || "the server does not want this client", code));
    }
    const was = this.#feed.chooser.index(this.#tries);
    if (!this.#delivered) this.#tries++;
    const next = this.#feed.chooser.index(this.#tries);
    if (!this.#delivered && next > was) return this.#open();
    const {backoff_base, backoff_most} = this.#feed.options;
    const pause = Math.random() * Math.min(backoff_most, backoff_base * 2 ** Math.min(this.#pauses++, 60));
    this.#timer = setTimeout(() => this.#open(), pause * 1000);
    this.#tell("waiting", reason, pause);
  }

  /** @param {FeedError} error @returns {boolean} whether it may be otherwise at the next attempt */
  #refusedTogether(error) {
    const asked = [...new Set(this.#pending.flatMap(({asks}) => asks))];
    const unproven = asked.filter((ask) => !ask.proven);
    if (asked.length === 1 || unproven.length === 1) this.#drop(unproven.length ? unproven : asked, error);
    else if (!unproven.length) for (const ask of asked) ask.proven = false;
    this.#cautious = asked.length > 1;
    return asked.length > 0;
  }

  /** The server does not give these. @param {Ask[]} asks @param {FeedError} error */
  #drop(asks, error) {
    /** @type {[Command, Ask[]][]} */
    const again = [];
    for (const ask of asks) {
      if (ask.before) {
        Object.assign(ask, ask.before, {before: null, proven: true});
        again.push([ask.command(), [ask]]);
      } else {
        ask.names.clear();
      }
    }
    this.#forgetEmpty();
    for (const sub of new Set(asks.map((ask) => ask.sub))) sub.refused(error, this.asks.filter((ask) => ask.sub === sub));
    this.#command(again);
    this.#feed.fault(error);
  }

  /** @param {"connecting" | "live" | "waiting"} state @param {string} [reason] @param {number} [pause] */
  #tell(state, reason, pause) {
    this.state = state;
    this.#feed.lineChanged(this, reason, pause);
  }

  // ---- what comes ----

  /** @param {string | Message[] | ArrayBuffer} data */
  #guarded(data) {
    try {
      this.#frame(typeof data === "string" ? JSON.parse(data) : data);
    } catch (error) {
      this.#feed.fault(error instanceof FeedError ? error : new FeedError(`not of this protocol: ${error}`));
      this.#transport?.fail({reason: "the server sent what is not of this protocol"});
    }
  }

  /** @param {Message[] | ArrayBuffer} data */
  #frame(data) {
    const transport = this.#transport;
    if (!Array.isArray(data)) return this.#records(new Records(data));
    /** Ticks that become columns. @type {Tick[]} */
    const ticks = [];
    for (const message of data) {
      if (message.T in CHANNEL_OF) {
        if (this.#feed.binary) ticks.push(/** @type {Tick} */ (message));
        else this.#tick(/** @type {Tick} */ (message));
      } else {
        this.#control(message);
      }
      if (this.#transport !== transport) return;
    }
    if (ticks.length) this.#records(Records.of(ticks, (tick) => this.#idOf(tick)));
  }

  /** @param {Message} message */
  #control(message) {
    switch (message.T) {
      case "success": return this.#succeeded(message);
      case "subscription": return this.#answered(/** @type {any} */ (message));
      case "error": return this.#refused(message);
      case "heartbeat": return this.#beat({epoch: message.epoch, seq: message.seq});
      case "position": return message.seq === null ? undefined : this.#beat({epoch: message.epoch, seq: message.seq});
      case "gap": return this.#feed.tell("gap", {...message, subscriptions: [...this.subs]});
      case "instruments":
        for (const {id, S, f} of message.instruments) this.#table.set(id, {S, f});
    }
  }

  /** @param {Message} message */
  #succeeded(message) {
    if (message.msg === "connected") {
      if (message.epoch !== this.#epoch) this.#newLife(message.epoch);
      if (this.#ready) return;
      const {key, secret, token} = this.#feed.options;
      if (token) this.#transport?.send([{action: "auth", token}]);
      else if (key || secret) this.#transport?.send([{action: "auth", key: key ?? "", secret: secret ?? ""}]);
      else this.#begin();
    } else if (message.msg === "authenticated" && !this.#ready) {
      this.#begin();
    }
  }

  #begin() {
    const commands = this.#everything();
    if (commands.length) this.#transport?.send(commands);
  }

  /** Another life of the server counts anew. @param {number} epoch */
  #newLife(epoch) {
    if (this.#epoch !== null) {
      for (const ask of this.asks) ask.floor = Math.min(ask.floor, -1);
      for (const sub of this.subs) sub.forget();
    }
    this.#epoch = epoch;
    this.#reroute();
  }

  /** @param {Answer & Message} answer */
  #answered(answer) {
    const answers = this.#pending.shift();
    const asks = answers?.last ? answers.asks : [];
    this.#delivered = true;
    for (const ask of answers?.asks ?? []) {
      // Of several commands the first answer: no other is from before it.
      if (ask.snapshot && !ask.place && ask.answered?.epoch !== answer.epoch) ask.answered = {epoch: answer.epoch, seq: answer.seq};
    }
    for (const ask of asks) {
      const anew = ask.snapshot || ask.since !== undefined;
      ask.answeredOn = this.#number;
      ask.proven = true;
      ask.before = null;
      if (ask.floor === Infinity) ask.floor = anew ? -1 : answer.seq;
      if (!anew) ask.place ??= {epoch: answer.epoch, seq: answer.seq};
    }
    this.#reroute();
    if (!this.#pending.length) {
      if (this.state !== "live") this.#tell("live");
      const left = this.asks.filter((ask) => ask.answeredOn !== this.#number && !ask.place);
      if (!left.length) this.#cautious = false;
      else if (this.#cautious) this.#command([[left[0].command(), [left[0]]]]);
    }
    const {epoch, seq, recovered = null} = answer;
    for (const sub of new Set(asks.map((ask) => ask.sub))) {
      if (this.asks.every((ask) => ask.sub !== sub || ask.proven)) sub.answered({epoch, seq, recovered});
    }
  }

  /** @param {Message} message */
  #refused({code, msg}) {
    const error = new FeedError(msg, code);
    if (code === ALREADY_AUTHENTICATED && !this.#ready) this.#begin();
    else if (AUTH_CODES.includes(code)) this.#feed.fatal(error);
    else if (UNASKED.includes(code) || !this.#ready || !this.#pending.length) this.#feed.fault(error);
    else if (code === INTERNAL) this.#transport?.fail({reason: msg});
    else this.#drop(this.#pending.shift()?.asks ?? [], error);
    if (this.#transport && !this.subs.size) this.close();
    else if (this.#ready && !this.#pending.length && this.state === "connecting" && this.subs.size) this.#tell("live");
  }

  /** Everything up to here has come. @param {{epoch: number, seq: number}} place */
  #beat(place) {
    this.#lives = true;
    this.#tries = this.#pauses = 0;
    this.#feed.worked(/** @type {TransportName} */ (this.transportName));
    /** A subscription's asks for the same are one from here on. @type {Map<string, Ask>} */
    const first = new Map();
    for (const ask of this.asks) {
      if (ask.answeredOn !== this.#number) continue;
      if (!ask.place && ask.answered?.epoch === place.epoch && place.seq < ask.answered.seq) continue; // in the midst of a snapshot
      if (!ask.place || ask.place.epoch !== place.epoch || ask.place.seq < place.seq) ask.place = place;
      ask.floor = Math.max(ask.floor, place.seq);
      const key = `${ask.sub.id} ${ask.key}`, other = first.get(key);
      if (!other) {
        first.set(key, ask);
      } else {
        for (const name of ask.names) other.names.add(name);
        ask.names.clear();
      }
    }
    if (this.asks.some((ask) => !ask.names.size)) this.#forgetEmpty();
  }

  // ---- ticks to those who want them ----

  #reroute() {
    for (const ask of this.asks) ask.globs = null;
    this.#routes.clear();
    this.#routesById.clear();
  }

  /** @param {string} T @param {string} symbol @param {string | undefined} feed @returns {Target[]} */
  #targets(T, symbol, feed) {
    const full = `${feed ?? this.#feed.at.feed ?? ""}:${symbol}`;
    /** @type {Target[]} */
    const targets = [];
    for (const sub of this.subs) {
      const floors = this.asks.filter((ask) => ask.sub === sub && takes(ask, CHANNEL_OF[T], symbol, full)).map((ask) => ask.floor);
      const floor = Math.min(...floors);
      if (floor === Infinity) continue;
      targets.push({sub, seen: sub.seenOf(T, symbol, feed, floor)});
    }
    return targets;
  }

  /** @param {Tick} tick */
  #tick(tick) {
    const {T, S, f = ""} = tick;
    let feeds = this.#routes.get(T);
    if (!feeds) this.#routes.set(T, (feeds = new Map()));
    let symbols = feeds.get(f);
    if (!symbols) feeds.set(f, (symbols = new Map()));
    let targets = symbols.get(S);
    if (!targets) symbols.set(S, (targets = this.#targets(T, S, tick.f)));
    for (const {sub, seen} of targets) {
      if (tick.seq > seen.seq) {
        seen.seq = tick.seq;
        seen.message = tick;
        sub.give(tick);
      }
    }
  }

  /** @param {Records} records */
  #records(records) {
    /** @type {Map<Subscription, number[]>} */
    const rows = new Map();
    let unknown = -1;
    for (let n = 0; n < records.length; n++) {
      const id = records.instrument(n), kind = records.kind(n), key = id * 8 + kind;
      let targets = this.#routesById.get(key);
      if (!targets) {
        const instrument = this.#table.get(id);
        if (!instrument) {
          unknown = id;
          break; // what stands before it is given all the same, for it is taken as seen
        }
        targets = kind < LETTERS.length && kind ? this.#targets(LETTERS[kind], instrument.S, instrument.f) : [];
        this.#routesById.set(key, targets);
      }
      const seq = records.seq(n);
      for (const {sub, seen} of targets) {
        if (seq > seen.seq) {
          seen.seq = seq;
          const mine = rows.get(sub);
          if (mine) mine.push(n);
          else rows.set(sub, [n]);
        }
      }
    }
    for (const [sub, mine] of rows) {
      sub.give(new Batch(records, mine.length === records.length ? null : Uint32Array.from(mine), this.#table));
    }
    if (unknown >= 0) throw new FeedError(`the server sent a tick of an instrument that it had not told: ${unknown}`);
  }

  /** @param {Tick} tick */
  #idOf({S, f}) {
    const name = `${f ?? ""}:${S}`;
    let id = this.#made.get(name);
    if (id === undefined) {
      this.#made.set(name, (id = this.#made.size));
      this.#table.set(id, {S, f});
    }
    return id;
  }
}

/** Whether an ask is for these ticks. @param {Ask} ask @param {string} channel @param {string} symbol @param {string} full */
function takes(ask, channel, symbol, full) {
  if (ask.names.has(`${channel} ${symbol}`) || ask.names.has(`${channel} ${full}`)) return true;
  ask.globs ??= [...ask.names].filter(isGlob).map((name) => {
    const glob = symbolOf(name);
    return [channelOf(name), expression(glob), glob.includes(":")];
  });
  return ask.globs.some(([of, glob, withFeed]) => of === channel && (glob.test(symbol) || (withFeed && glob.test(full))));
}

// ---- what the user has in hand --------------------------------------------------------------------------------------

let subscriptions = 0;

/** What `feed.subscribe` gives. */
export class Subscription {
  id = ++subscriptions;
  /** @type {Feed} */ #feed;
  /** @type {Callback} */ #callback;
  /** @type {Checked} */ #how;
  /** @type {Line | null} */ #line = null;
  /** @type {Map<string, Seen>} */ #seen = new Map();
  /** @type {(answer: Answer) => void} */ #resolve = () => undefined;
  /** @type {(error: FeedError) => void} */ #reject = () => undefined;
  /** Answered when the server has carried it out; rejected with what it says when it has not. @type {Promise<Answer>} */
  ready = new Promise(() => undefined);

  /** @param {Feed} feed @param {Checked} how @param {Callback} callback */
  constructor(feed, how, callback) {
    this.#feed = feed;
    this.#how = how;
    this.#callback = callback;
    this.#expect();
    this.#join(how.names, how.request, feed.lineFor(how));
  }

  /** What it asks for. @returns {Request} */
  get request() {
    return {...this.#how.request};
  }

  /** Whether it is over. */
  get closed() {
    return this.#line === null;
  }

  /**
   * Ask for something else instead; what is not named stays as it is. Symbols that stay are neither interrupted nor
   * given twice.
   *
   * @param {Omit<Request, "since">} changes
   * @returns {Promise<Answer>} the new `ready`
   */
  update(changes) {
    if (!this.#line) throw new FeedError("this subscription is over");
    if (changes && "since" in changes) throw new TypeError("since is for a new subscription: this one goes on where it is");
    const {since: _, ...request} = this.#how.request;
    const merged = /** @type {any} */ ({...request, ...changes});
    for (const key of Object.keys(merged)) if (merged[key] === undefined) delete merged[key];
    const how = check(merged, this.#feed.binary);
    const old = new Set(this.#how.names), line = this.#line;
    const same = how.key === this.#how.key;
    const gone = new Set([...old].filter((name) => !how.names.includes(name)));
    const added = how.names.filter((name) => !old.has(name));
    this.#how = how;
    this.#expect();
    const mine = line.asks.filter((ask) => ask.sub === this && ask.place);
    const since = earliest(mine.map((ask) => ask.place));
    const stays = line.fits(this, how);
    const kept = how.names.filter((name) => old.has(name));
    if (!stays) line.remove(this, old);
    const to = stays ? line : this.#feed.lineFor(how, since !== undefined);
    if (kept.length && !(same && stays)) {
      for (const ask of line.asks) if (ask.sub === this) kept.forEach((name) => ask.names.delete(name));
      // They go on where they are, whatever they began with.
      const asks = this.#join(kept, since ? {since} : how.request, to);
      const [was] = mine;
      for (const ask of asks) {
        // What comes before it is answered is still this subscription's.
        if (since) ask.floor = -1;
        if (since && was.proven) ask.before = {options: was.options, key: was.key, place: since, floor: -1};
      }
    }
    if (added.length) this.#join(added, how.request, to);
    if (stays && gone.size) line.remove(this, gone);
    if (same && stays && !added.length) this.#resolve({epoch: since?.epoch ?? 0, seq: since?.seq ?? 0, recovered: null});
    return this.ready;
  }

  /** End it; its callback is not called again. */
  unsubscribe() {
    const line = this.#line;
    this.#line = null;
    this.#reject(new FeedError("unsubscribed"));
    line?.remove(this, new Set(this.#how.names));
  }

  /**
   * The last message of a symbol that its callback was given.
   *
   * @param {string} symbol with its feed, `feed:SYMBOL`, on `/stream`; without, that of any feed
   * @param {string} [channel] by default the first that it asks for
   * @returns {Tick | undefined}
   */
  latest(symbol, channel) {
    if (this.#feed.binary) throw new FeedError("latest: batches are not kept");
    const of = channel ?? this.#how.names[0].split(" ")[0];
    const T = Object.keys(CHANNEL_OF).find((letter) => CHANNEL_OF[letter] === of);
    for (const prefix of ["", ...[...this.#feed.names].map((name) => `${name}:`)]) {
      const message = this.#seen.get(`${T} ${prefix}${symbol}`)?.message;
      if (message) return message;
    }
    return undefined;
  }

  #expect() {
    this.#reject(new FeedError("it was updated before it was answered"));
    this.ready = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // The same error is an event of the feed.
    this.ready.catch(() => undefined);
  }

  /** @param {string[]} names @param {{snapshot?: boolean, since?: Since}} begin @param {Line} line */
  #join(names, {snapshot = false, since}, line) {
    this.#line = line;
    const asks = chunks(names).map((some) => new Ask(this, some, this.#how, snapshot, since));
    line.add(asks);
    return asks;
  }

  // What the line tells; not for users.

  /** @param {Answer} answer */
  answered(answer) {
    this.#resolve(answer);
  }

  /** @param {FeedError} error @param {Ask[]} left what still holds of it */
  refused(error, left) {
    if (left.length) {
      const {snapshot} = this.#how.request, names = left.flatMap((ask) => [...ask.names]);
      const request = {...channels(names), ...left[0].options, ...(snapshot ? {snapshot} : {})};
      this.#how = {request, names, options: left[0].options, key: left[0].key};
    } else {
      this.#line = null;
    }
    this.#reject(error);
  }

  /** @param {string} T @param {string} symbol @param {string | undefined} feed @param {number} floor @returns {Seen} */
  seenOf(T, symbol, feed, floor) {
    if (feed !== undefined) this.#feed.names.add(feed);
    const key = feed === undefined ? `${T} ${symbol}` : `${T} ${feed}:${symbol}`;
    let seen = this.#seen.get(key);
    if (!seen) this.#seen.set(key, (seen = {seq: floor, message: null}));
    return seen;
  }

  /** Numbers begin anew. */
  forget() {
    for (const seen of this.#seen.values()) seen.seq = -1;
  }

  /** @param {Tick | Batch} what */
  give(what) {
    if (!this.#line) return;
    try {
      this.#callback(what, this);
    } catch (error) {
      report(error);
    }
  }
}

/** @param {({epoch: number, seq: number} | null)[]} places @returns {{epoch: number, seq: number} | undefined} */
function earliest(places) {
  return places.reduce((a, b) => (a && b && a.seq <= b.seq ? a : b), places[0]) ?? undefined;
}

/** Which transport is next, of all lines of a feed: what worked is tried first, then those behind it. */
class Chooser {
  /** @type {number | null} */ #best = null;

  /** @param {TransportName[]} names the best first */
  constructor(names) {
    this.names = names;
  }

  /** @param {number} tries that failed since one worked */
  index(tries) {
    if (this.#best === null) return tries % this.names.length;
    // What has worked fails when the server is away: so it has a second chance before another one is taken for better.
    return tries < 2 ? this.#best : (this.#best + tries - 1) % this.names.length;
  }

  /** @param {number} tries */
  nth(tries) {
    return this.names[this.index(tries)];
  }

  /** @param {TransportName} name @returns {boolean} whether that is news */
  worked(name) {
    const before = this.#best;
    this.#best = this.names.indexOf(name);
    return this.#best !== before;
  }

  /** Whether WebSocket is there, but something worse is what works. */
  get couldBeBetter() {
    return this.#best !== null && this.names.indexOf("websocket") >= 0 && this.names.indexOf("websocket") < this.#best;
  }
}

/**
 * What `connect` gives: subscriptions, and events.
 *
 * Events, each with its `detail`: `state` {state, transport, reason, seconds}, `gap` {from, to, reason, subscriptions},
 * `stale` {seconds, transport, subscriptions}, `error` a FeedError. Listen with `addEventListener`, or set `onstate`,
 * `ongap`, `onstale`, `onerror`. An error is also reported as an uncaught one would be, unless there is an `onerror`, or
 * a listener calls `preventDefault()`.
 */
export class Feed extends EventTarget {
  /** @type {((event: CustomEvent) => void) | null} */ onstate = null;
  /** @type {((event: CustomEvent) => void) | null} */ ongap = null;
  /** @type {((event: CustomEvent) => void) | null} */ onstale = null;
  /** @type {((event: CustomEvent) => void) | null} */ onerror = null;
  /** @type {State} */ state = "idle";
  /** What ticks come by now. @type {TransportName | null} */ transport = null;
  /** Names of feeds that ticks came of. @type {Set<string>} */ names = new Set();
  /** @type {Set<Line>} */ #lines = new Set();
  #closed = false;
  /** @type {any} */ #probe = undefined;
  #probeAfter = 0;
  #online = () => this.#lines.forEach((line) => line.state === "waiting" && line.hurry());

  /** @param {string | URL} url @param {Options} options */
  constructor(url, options) {
    super();
    this.at = endpoints(url);
    this.options = {
      stale_seconds: 6, open_seconds: 5, better_seconds: 30, backoff_base: 0.5, backoff_most: 30, ...options,
    };
    for (const key of /** @type {const} */ (["stale_seconds", "open_seconds", "better_seconds", "backoff_base", "backoff_most"])) {
      number(key, this.options[key], key === "stale_seconds" ? 0.3 : 0.001, 86_400);
    }
    const {encoding = "json", transports = TRANSPORTS} = options;
    if (encoding !== "json" && encoding !== "binary") throw new RangeError(`encoding is "json" or "binary", not ${JSON.stringify(encoding)}`);
    for (const name of texts("transports", transports)) {
      if (!TRANSPORTS.includes(/** @type {TransportName} */ (name))) throw new RangeError(`no transport ${JSON.stringify(name)}; there are: ${TRANSPORTS.join(", ")}`);
    }
    this.binary = encoding === "binary";
    const there = transports.filter((name) => name !== "websocket" || options.WebSocket || globalThis.WebSocket);
    if (!there.length) throw new TypeError("no transport: where there is no global WebSocket, give one as an option");
    this.chooser = new Chooser(there);
    /** A third of what makes a connection stale: one may be late, and one lost. */
    this.heartbeat = Math.min(3600, Math.max(0.1, this.options.stale_seconds / 3));
    globalThis.addEventListener?.("online", this.#online);
  }

  /**
   * Ask for ticks; the connection is made when the first is asked for.
   *
   * @param {Request} request
   * @param {Callback} callback called with each tick, or, with the binary encoding, with each Batch
   * @returns {Subscription}
   * @throws {TypeError | RangeError} what is asked for makes no sense
   */
  subscribe(request, callback) {
    if (this.#closed) throw new FeedError("this feed is closed");
    if (typeof callback !== "function") throw new TypeError("subscribe needs a callback");
    return new Subscription(this, check(request, this.binary), callback);
  }

  /** End all subscriptions and connections. */
  close() {
    this.#end(new FeedError("the feed was closed"), "closed");
  }

  /** @param {FeedError} error @param {string} reason */
  #end(error, reason) {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#probe);
    globalThis.removeEventListener?.("online", this.#online);
    const subs = [...this.#lines].flatMap((line) => [...line.subs]);
    for (const line of [...this.#lines]) line.close();
    for (const sub of subs) sub.refused(error, []);
    this.#become("closed", {reason});
  }

  // What lines tell and ask; not for users.

  /** A line where this can be subscribed beside the others. @param {Checked} how @param {boolean} [moves] */
  lineFor(how, moves) {
    for (const line of this.#lines) if (line.fits(null, how, moves)) return line;
    const line = new Line(this);
    this.#lines.add(line);
    return line;
  }

  /** @param {Line} line */
  lineClosed(line) {
    this.#lines.delete(line);
    if (!this.#closed) this.#sum({});
  }

  /** @param {Line} line @param {string} [reason] @param {number} [pause] */
  lineChanged(line, reason, pause) {
    this.transport = line.transportName;
    this.#sum({reason, seconds: pause});
  }

  /** @param {TransportName} name */
  worked(name) {
    if (this.chooser.worked(name)) this.#betterLater();
  }

  /** @param {{reason?: string, seconds?: number}} why */
  #sum(why) {
    const states = [...this.#lines].map((line) => line.state);
    const worst = /** @type {const} */ (["waiting", "connecting", "live"]).find((state) => states.includes(state));
    this.#become(worst ?? "idle", why);
  }

  /** @param {State} state @param {{reason?: string, seconds?: number}} why */
  #become(state, why) {
    if (state === this.state && state !== "connecting" && state !== "waiting") return;
    this.state = state;
    this.tell("state", {state, transport: this.transport, ...why});
  }

  /** @param {string} type @param {unknown} detail @returns {boolean} false: who heard of it says that it is dealt with */
  tell(type, detail) {
    const event = new CustomEvent(type, {detail, cancelable: true});
    const handler = /** @type {any} */ (this)[`on${type}`];
    try {
      handler?.call(this, event);
    } catch (error) {
      report(error);
    }
    return this.dispatchEvent(event);
  }

  /** An error, and the feed goes on. @param {FeedError} error */
  fault(error) {
    if (this.tell("error", error) && !this.onerror) report(error);
  }

  /** An error after which to connect again would be the same again. @param {FeedError} error */
  fatal(error) {
    this.#end(error, error.message);
    this.fault(error);
  }

  /** Try whether WebSocket gets through again, beside what works. */
  #betterLater() {
    const first = this.options.better_seconds;
    if (!this.chooser.couldBeBetter) {
      clearTimeout(this.#probe);
      this.#probe = undefined;
      this.#probeAfter = 0;
    } else if (this.#probe === undefined) {
      this.#probeAfter = Math.min(20 * first, 2 * this.#probeAfter || first);
      this.#probe = setTimeout(() => this.#tryBetter(), this.#probeAfter * 1000);
    }
  }

  #tryBetter() {
    /** @type {any} */
    let limit = undefined;
    const ended = () => {
      clearTimeout(limit);
      this.#probe = undefined;
      if (!this.#closed) this.#betterLater();
    };
    const probe = new WebSocketTransport(this.at, this.options, {
      heard: () => {
        probe.close();
        if (this.#closed) return;
        this.chooser.worked("websocket");
        // Each goes on where it was, over the better one.
        for (const line of this.#lines) line.hurry();
        ended();
      },
      frame: () => undefined,
      ended,
    });
    limit = setTimeout(() => probe.fail({reason: "nothing came"}), this.options.open_seconds * 1000);
    try {
      probe.start();
    } catch (error) {
      probe.fail({reason: String(error)});
    }
  }
}

/**
 * A feed of a server. It connects when something is subscribed to, and again by itself.
 *
 * @param {string | URL} url the server's `/stream` (every feed) or `/v2/FEED`; http(s) and ws(s) are the same here
 * @param {Options} [options]
 * @returns {Feed}
 * @throws {TypeError | RangeError} what is asked for makes no sense
 */
export function connect(url, options = {}) {
  return new Feed(url, options);
}
