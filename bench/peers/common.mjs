// What every peer on Node does alike: play the market on time, and sort ticks by who wants them.
// The argument and the file of ticks are those of common.py.
import { readFileSync } from 'node:fs';

export const config = JSON.parse(process.argv[2]);

const COLUMNS = 7;
const LIMIT = config.conflate ? 50_000 : 1_000;

// hrtime is exact but has no date, the date is in whole ms: taken together at the moment the date moves on.
function wallClock() {
  let date = Date.now();
  const before = date;
  while (date === before) date = Date.now();
  const mark = process.hrtime.bigint();
  return { date, sinceNs: () => Number(process.hrtime.bigint() - mark) };
}

// The sim writes whole sizes as Python does: 300.0.
const decimal = (x) => (Number.isInteger(x) ? `${x}.0` : `${x}`);

// The ticks of the file, round and round, each at its time: open loop, whatever the server gets done.
export class Market {
  constructor() {
    const bytes = readFileSync(config.ticks);
    this.rows = new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    this.clock = wallClock();
    this.next = 0;
    this.begin = 0; // ns since the start at which this round began
    this.seq = 0;
    this.second = -1;
    this.prefix = '';
  }

  // Calls give(symbol, kind, json) for every tick created until now and not given before, but no more than LIMIT, so
  // that a server that is too slow still answers its clients. Returns whether there are more.
  due(give) {
    const { rows, clock } = this;
    const now = clock.sinceNs();
    for (let n = 0; n < LIMIT; n += 1) {
      const at = this.next;
      const created = this.begin + rows[at];
      if (created > now) return false;
      // ns since the Unix epoch do not fit a double; ns since the start's own second do.
      const ns = created + (clock.date % 1000) * 1e6;
      const second = Math.floor(ns / 1e9);
      if (second !== this.second) {
        this.second = second;
        this.prefix = new Date((Math.floor(clock.date / 1000) + second) * 1000).toISOString().slice(0, 20);
      }
      const time = `${this.prefix}${String(Math.floor(ns - second * 1e9)).padStart(9, '0')}Z`;
      const symbol = rows[at + 1];
      const kind = rows[at + 2];
      const name = config.symbols[symbol];
      this.seq += 1;
      give(symbol, kind, kind === 1
        ? `{"T":"q","S":"${name}","bp":${decimal(rows[at + 3])},"bs":${decimal(rows[at + 4])},"ap":${decimal(rows[at + 5])},"as":${decimal(rows[at + 6])},"t":"${time}","seq":${this.seq}}`
        : `{"T":"t","S":"${name}","p":${decimal(rows[at + 3])},"s":${decimal(rows[at + 4])},"t":"${time}","seq":${this.seq}}`);
      this.next += COLUMNS;
      if (this.next === rows.length) {
        this.next = 0;
        this.begin += config.period_ns;
      }
    }
    return true;
  }
}

// Who wants what. A group is those that subscribe to the same, or without config.batch those that want one symbol.
export class Audience {
  constructor() {
    this.number = new Map(config.symbols.map((symbol, i) => [symbol, i]));
    this.bySymbol = config.symbols.map(() => []);
    this.groups = new Map();
    this.touched = [];
  }

  // Takes a subscribe command. Returns the keys of the member's groups, and the answer to send.
  subscribe(member, command) {
    const names = command.quotes;
    const wanted = names[0] === '*' ? config.symbols.map((_, i) => i) : names.map((name) => this.number.get(name));
    const keys = (config.batch ? [wanted] : wanted.map((symbol) => [symbol])).map((symbols) => {
      const key = symbols.join();
      let group = this.groups.get(key);
      if (!group) {
        group = { key, members: new Set(), parts: [] };
        this.groups.set(key, group);
        for (const symbol of symbols) this.bySymbol[symbol].push(group);
      }
      group.members.add(member);
      return key;
    });
    return { keys, answer: [{ T: 'subscription', quotes: names, trades: names }] };
  }

  leave(member) {
    for (const group of this.groups.values()) group.members.delete(member);
  }

  // One tick: kept for each group that wants it until the next flush.
  take(symbol, update) {
    for (const group of this.bySymbol[symbol]) {
      if (group.parts.length === 0) this.touched.push(group);
      group.parts.push(update);
    }
  }

  // Calls send(updates, group) for each group that has something and someone.
  flush(send) {
    for (const group of this.touched) {
      if (group.members.size) send(group.parts, group);
      group.parts = [];
    }
    this.touched.length = 0;
  }
}

// Every interval: send(updates, group) for what is due, for ever. The updates are what form(json) makes of each tick;
// one alone without config.batch.
export function play(audience, send, form = (json) => json) {
  const market = new Market();
  const take = (symbol, json) => {
    audience.take(symbol, form(json));
    if (!config.batch) audience.flush(send);
  };
  const flush = () => {
    let more;
    if (config.conflate) {
      const latest = new Map();
      more = market.due((symbol, kind, json) => {
        const key = symbol * 3 + kind;
        latest.delete(key); // so that what is left stays in order of time
        latest.set(key, [symbol, json]);
      });
      for (const [symbol, json] of latest.values()) take(symbol, json);
    } else {
      more = market.due((symbol, kind, json) => take(symbol, json));
    }
    audience.flush(send);
    if (more) setImmediate(flush);
  };
  setInterval(() => flush(), config.interval_ms);
}
