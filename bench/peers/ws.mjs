// ws: send of one prebuilt buffer to each, no compression. ws has no broadcast of its own; this loop is its documented way.
import { WebSocketServer } from 'ws';
import { Audience, config, play } from './common.mjs';

const audience = new Audience();
const options = { binary: false, compress: false };

new WebSocketServer({ host: '127.0.0.1', port: config.port, perMessageDeflate: false }).on('connection', (socket) => {
  socket.on('message', (data) => socket.send(JSON.stringify(audience.subscribe(socket, JSON.parse(data)).answer)));
  socket.on('close', () => audience.leave(socket));
  socket.on('error', () => socket.terminate());
});

play(audience, (updates, { members }) => {
  const payload = Buffer.from(`[${updates.join()}]`);
  for (const socket of members) socket.send(payload, options);
});
