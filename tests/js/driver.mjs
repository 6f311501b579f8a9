/**
 * What a test tells a client to do, and what the client says: the same in a page and in Node.
 *
 * @param {{connect: any, Batch: any}} module marketfeed.js
 * @param {string} url
 * @param {object} options of `connect`
 * @param {(events: object[]) => void} say
 * @returns {(command: any) => void}
 */
export function drive({connect, Batch}, url, options, say) {
  const subs = new Map();
  let events = [];
  const tell = (event) => {
    if (!events.length) setTimeout(() => say(events.splice(0)));
    events.push(event);
  };
  const feed = connect(url, options);
  for (const type of ["state", "gap", "stale"]) {
    feed.addEventListener(type, ({detail: {subscriptions, ...detail}}) => tell({...detail, event: type}));
  }
  feed.onerror = ({detail}) => tell({event: "error", code: detail.code, text: detail.message});

  const told = (id) => (what) => {
    if (!(what instanceof Batch)) return tell({event: "tick", sub: id, tick: what});
    const {seq, bid, price, kind, instrument, ts_event} = what;
    const rows = Array.from(seq, (_, i) => what.tick(i));
    const columns = {
      seq: [...seq], bid: [...bid], price: [...price], kind: [...kind], t: Array.from(ts_event, String),
      S: Array.from(instrument, (one) => what.symbolOf(one)),
    };
    const types = {seq, bid, price, kind, instrument, ts_event};
    for (const key of Object.keys(types)) types[key] = types[key].constructor.name;
    tell({event: "batch", sub: id, rows, columns, types});
  };
  const answer = (id, ready) =>
    ready.then(
      (answered) => tell({event: "ready", sub: id, ...answered}),
      (error) => tell({event: "refused", sub: id, code: error.code, text: error.message}),
    );
  const actions = {
    subscribe({id, request, fails}) {
      const callback = fails ? () => { throw new Error("the callback's own"); } : told(id);
      const sub = feed.subscribe(request, callback);
      subs.set(id, sub);
      answer(id, sub.ready);
    },
    update: ({id, changes}) => answer(id, subs.get(id).update(changes)),
    unsubscribe: ({id}) => subs.get(id).unsubscribe(),
    latest: ({id, symbol}) => tell({event: "latest", tick: subs.get(id).latest(symbol) ?? null}),
    request: ({id}) => tell({event: "request", request: subs.get(id).request, closed: subs.get(id).closed}),
    close: () => feed.close(),
  };
  return ({action, ...rest}) => {
    try {
      actions[action](rest);
    } catch (error) {
      tell({event: "thrown", name: error.name, text: error.message});
    }
  };
}
