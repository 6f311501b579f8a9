// socket.io: WebSocket alone, no compression, no pings; emit to a room, so that a packet is encoded once for all in it.
import { createServer } from 'node:http';
import { Server } from 'socket.io';
import { Audience, config, play } from './common.mjs';

const audience = new Audience();
const http = createServer();
const io = new Server(http, { transports: ['websocket'], perMessageDeflate: false, pingInterval: 1e9, pingTimeout: 1e9 });

io.on('connection', (socket) => {
  socket.on('subscribe', (command) => {
    const { keys, answer } = audience.subscribe(socket, command);
    socket.join(keys);
    socket.emit('m', answer);
  });
  socket.on('disconnect', () => audience.leave(socket));
});
http.listen(config.port, '127.0.0.1');

// socket.io encodes objects by itself; given text, it would send it escaped.
play(audience, (updates, group) => io.to(group.key).emit('m', updates), JSON.parse);
