// uWebSockets.js: app.publish to a topic a group; what it publishes at once its topic tree packs into one write a socket.
// A group of one is sent to directly, which is cheaper than a topic.
import uWS from 'uwebsockets';
import { Audience, config, play } from './common.mjs';

const audience = new Audience();
const decoder = new TextDecoder();

const app = uWS.App().ws('/*', {
  compression: uWS.DISABLED,
  idleTimeout: 0,
  sendPingsAutomatically: false,
  maxBackpressure: 64 * 1024 * 1024,
  message(socket, data) {
    const { keys, answer } = audience.subscribe(socket, JSON.parse(decoder.decode(data)));
    for (const key of keys) socket.subscribe(key);
    socket.send(JSON.stringify(answer));
  },
  close: (socket) => audience.leave(socket),
}).listen('127.0.0.1', config.port, (listening) => {
  if (!listening) throw new Error(`port ${config.port} is taken`);
});

play(audience, (updates, { key, members }) => {
  const payload = `[${updates.join()}]`;
  if (members.size > 1 || !config.batch) app.publish(key, payload);
  else for (const socket of members) socket.send(payload);
});
